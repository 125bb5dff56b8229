"""Makes proofs of robust verdicts, for `jaxsnn.sat.check` to confirm.

A solver that answered under assumptions has refuted nothing: its clauses without them
may well have models. So each proof is a fresh solve of the single query, with the
assumptions added as unit clauses.
"""

import gzip
import importlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pysat.solvers import Cadical195

from jaxsnn.sat import branch, intervals, split
from jaxsnn.sat.check import cutting_planes, formula, manifest
from jaxsnn.sat.check.manifest import Manifest, Method
from jaxsnn.sat.pseudo_boolean import Problem
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork

_SLICE_CONFLICTS = 2000
_HAS_MODEL = "a query that was said to be robust has a counterexample"


class Proof(NamedTuple):
    """A proof as files, without what it is about."""

    method: Method
    files: Mapping[str, bytes]


class NotProved(NamedTuple):
    """No proof, and why not; the verdict stands on the solver's word."""

    reason: str


class ContradictionError(RuntimeError):
    """A query that was said to be robust has a counterexample; a defect."""


class _NoRefutation(Exception):
    """The solver gave none; the message says why."""


def prove(
    network: IntegerNetwork,
    query: Query,
    seconds: float,
    methods: Sequence[Method] = (
        Method.SPLIT,
        Method.BRANCH,
        Method.CUTTING_PLANES,
        Method.CLAUSES,
    ),
) -> Proof | NotProved:
    """Proves that a query is robust.

    Args:
      network: the network.
      query: a query that was found robust.
      seconds: wall-clock limit of each solver.
      methods: kinds of refutation to try in turn when the intervals do not decide.

    Returns:
      The proof, or the reason why there is none.

    Raises:
      ContradictionError: the query has a counterexample.
    """
    runs = intervals.runs(network, query)
    levels = [level for run in runs for level in run[1:]]
    files = {manifest.INTERVALS_FILE: _levels_to_json(levels)}
    if intervals.decided([run[-1] for run in runs], query):
        return Proof(Method.INTERVALS, files)
    reasons = []
    if Method.SPLIT in methods and split.applies(network, query):
        found = split.decide(network, query)
        if found.counterexample is not None:
            raise ContradictionError(_HAS_MODEL)
        if found.split is not None:
            (name,) = manifest.REFUTATION_FILES[Method.SPLIT]
            return Proof(
                Method.SPLIT, files | {name: _pack(split.to_json(found.split))}
            )
        reasons.append(f"the ball has no proof in {found.num_parts} parts")
    if Method.BRANCH in methods and branch.applies(network, query):
        branching = branch.Branching(network, query)
        branching.run(seconds)
        if branching.counterexample is not None:
            raise ContradictionError(_HAS_MODEL)
        if branching.proved:
            (name,) = manifest.REFUTATION_FILES[Method.BRANCH]
            trees = branch.to_json(branching.trees)
            return Proof(Method.BRANCH, files | {name: _pack(trees)})
        reasons.append(f"{branching.num_boxes} parts of the windows were not enough")
    problem = formula.question(network, query)
    for method in methods:
        if method not in REFUTERS:
            continue
        try:
            formula_text, refutation = REFUTERS[method](problem, seconds)
        except _NoRefutation as error:
            reasons.append(str(error))
            continue
        names = manifest.REFUTATION_FILES[method]
        texts = (formula_text, refutation)
        files |= {name: _pack(text) for name, text in zip(names, texts, strict=True)}
        return Proof(method, files)
    return NotProved("; ".join(reasons))


def _refute_clauses(problem: Problem, seconds: float) -> tuple[str, str]:
    """Returns the clauses and CaDiCaL's DRUP proof."""
    clauses = formula.clauses(problem)
    deadline = time.monotonic() + seconds
    with Cadical195(bootstrap_with=clauses, with_proof=True) as solver:
        satisfiable = None
        while satisfiable is None and time.monotonic() < deadline:
            solver.conf_budget(_SLICE_CONFLICTS)
            satisfiable = solver.solve_limited()
        lines = solver.get_proof()
    if satisfiable is None:
        raise _NoRefutation(f"CaDiCaL did not refute the clauses within {seconds:g} s")
    if satisfiable:
        raise ContradictionError(_HAS_MODEL)
    return formula.dimacs(clauses), "\n".join(lines) + "\n"


def _refute_constraints(problem: Problem, seconds: float) -> tuple[str, str]:
    """Returns the linear constraints and the cutting-planes proof of Exact."""
    try:
        exact: Any = importlib.import_module("exact")
    except ModuleNotFoundError:
        raise _NoRefutation(
            "Exact, which proves by cutting planes, is not installed"
        ) from None
    constraints = list(formula.constraints(problem))
    with tempfile.TemporaryDirectory() as directory:
        log = pathlib.Path(directory, "log")
        solver = exact.Exact([("proof-log", str(log))])
        for variable in range(1, problem.num_variables + 1):
            solver.addVariable(f"x{variable}", 0, 1)
        for lits, weights, bound in constraints:
            # w * not v = w - w * v
            bound -= sum(w for w, lit in zip(weights, lits, strict=True) if lit < 0)
            terms = [
                (weight if lit > 0 else -weight, f"x{abs(lit)}")
                for weight, lit in zip(weights, lits, strict=True)
            ]
            solver.addConstraint(terms, True, bound)
        state = solver.runFull(False, seconds)
        del solver  # writes what it still holds
        refutation = log.with_suffix(".proof")
        if state == "SAT":
            raise ContradictionError(_HAS_MODEL)
        if state not in ("UNSAT", "INCONSISTENT"):
            raise _NoRefutation(
                f"Exact did not refute the constraints within {seconds:g} s"
            )
        text = formula.opb(constraints)
        read = log.with_suffix(".formula").read_text().splitlines()[2:]
        # It stops reading where propagation alone refutes.
        if read != text.splitlines()[1 : len(read) + 1]:
            raise _NoRefutation("Exact logged a formula that it was not given")
        log_text = refutation.read_text()
        rules = {line.partition(" ")[0] for line in log_text.splitlines()[1:]}
        if unknown := rules - cutting_planes.RULES:
            raise _NoRefutation(f"Exact logged rules unknown here: {unknown}")
        return text, log_text


REFUTERS = {
    Method.CLAUSES: _refute_clauses,
    Method.CUTTING_PLANES: _refute_constraints,
}


def write(
    proof_dir: pathlib.Path,
    name: str,
    network: IntegerNetwork,
    network_file: pathlib.Path,
    query: Query,
    proof: Proof,
    subject: Mapping[str, Any],
    other_file: pathlib.Path | None = None,
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
      other_file: the file of the network that it is compared with, for `Alike`; in
        the proof directory, too.

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
        other_file=None if other_file is None else other_file.name,
        other_file_sha256=(
            None if other_file is None else manifest.sha256(other_file.read_bytes())
        ),
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
    return gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)
