"""Makes proofs of robust verdicts, for `jaxsnn.sat.check` to confirm.

A solver that answered under assumptions has refuted nothing: its clauses without them
may well have models. So each proof is a fresh solve of the single query, with the
assumptions added as unit clauses.
"""

import gzip
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pysat.solvers import Cadical195

from jaxsnn.sat import intervals
from jaxsnn.sat.check import formula, manifest
from jaxsnn.sat.check.manifest import Manifest, Method
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork

_SLICE_CONFLICTS = 2000


class Proof(NamedTuple):
    """A proof as files, without what it is about."""

    method: Method
    files: Mapping[str, bytes]


class NotProved(NamedTuple):
    """No proof, and why not; the verdict stands on the solver's word."""

    reason: str


def prove(network: IntegerNetwork, query: Query, seconds: float) -> Proof | NotProved:
    """Proves that a query is robust.

    Args:
      network: the network.
      query: a query that was found robust.
      seconds: wall-clock limit of each solver.

    Returns:
      The proof, or the reason why there is none.

    Raises:
      RuntimeError: the query has a counterexample; a defect of the program.
    """
    levels = intervals.propagate(network, query)
    files = {manifest.INTERVALS_FILE: _levels_to_json(levels[1:])}
    if intervals.decided(levels, query):
        return Proof(Method.INTERVALS, files)
    problem = formula.question(network, query)
    clauses = formula.clauses(problem)
    refutation = refute_clauses(clauses, seconds)
    if refutation is None:
        return NotProved(f"CaDiCaL did not refute the clauses within {seconds:g} s")
    texts = (formula.dimacs(clauses), "\n".join(refutation) + "\n")
    names = manifest.REFUTATION_FILES[Method.CLAUSES]
    files |= {name: _pack(text) for name, text in zip(names, texts, strict=True)}
    return Proof(Method.CLAUSES, files)


def refute_clauses(
    clauses: Sequence[Sequence[int]], seconds: float
) -> list[str] | None:
    """Returns the lines of a DRUP refutation, or None when the time is up.

    Raises:
      RuntimeError: the clauses have a model.
    """
    deadline = time.monotonic() + seconds
    with Cadical195(bootstrap_with=clauses, with_proof=True) as solver:
        while True:
            solver.conf_budget(_SLICE_CONFLICTS)
            satisfiable = solver.solve_limited()
            if satisfiable:
                raise RuntimeError("a query said to be robust has a counterexample")
            if satisfiable is False:
                return solver.get_proof()
            if time.monotonic() >= deadline:
                return None


def write(
    proof_dir: pathlib.Path,
    name: str,
    network: IntegerNetwork,
    network_file: pathlib.Path,
    query: Query,
    proof: Proof,
    subject: Mapping[str, Any],
) -> str:
    """Writes a proof's folder; it appears whole or not at all.

    Args:
      proof_dir: the proof directory.
      name: beginning of the folder's name; a digest of network and query follows.
      network: the network.
      network_file: the network's file, already in the proof directory.
      query: the query.
      proof: its proof.
      subject: what the results call the query.

    Returns:
      The folder's name.
    """
    files = {**proof.files, manifest.QUERY_FILE: manifest.query_to_json(query)}
    sealed = Manifest(
        method=proof.method,
        network_file=network_file.name,
        network_file_sha256=manifest.sha256(network_file.read_bytes()),
        network=manifest.network_digest(network),
        input=manifest.input_digest(query),
        query=manifest.sha256(files[manifest.QUERY_FILE]),
        files={file: manifest.sha256(data) for file, data in files.items()},
        subject=subject,
    )
    digest = manifest.sha256((sealed.network + sealed.query).encode())
    folder = proof_dir / f"{name}-{digest[:16]}"
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=proof_dir))
    try:
        temporary.chmod(0o755)
        for file, data in files.items():
            (temporary / file).write_bytes(data)
        (temporary / manifest.MANIFEST_FILE).write_bytes(manifest.seal(sealed))
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder.name


def _levels_to_json(levels: Sequence[intervals.Interval]) -> bytes:
    return manifest.to_json(
        [{"low": low.tolist(), "high": high.tolist()} for low, high in levels]
    )


def _pack(text: str) -> bytes:
    return gzip.compress(text.encode("ascii"), mtime=0)
