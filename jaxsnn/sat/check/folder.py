"""Confirms one proof folder, from its hashes to its last lemma."""

import gzip
import io
import json
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxsnn.sat.check import branch, cutting_planes, formula, manifest, rup, split
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.intervals import Claim, check_decided, check_intervals
from jaxsnn.sat.check.manifest import Manifest, Method
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Monotone
from jaxsnn.sat.spec import IntegerNetwork


class Confirmed(NamedTuple):
    """A proof that holds: the query is robust for the network.

    Attributes:
      manifest: the digests of what was proved about what.
      query: the query.
      num_steps: lemmas or parts that were checked; 0 if the intervals decide.
      seconds: time the check took.
    """

    manifest: Manifest
    query: Query
    num_steps: int
    seconds: float


class Opened(NamedTuple):
    """A proof whose hashes are right, and that is not checked yet.

    Attributes:
      manifest: the digests of what is claimed about what.
      network: the network.
      query: the query.
      files: the bytes of each file of the folder.
    """

    manifest: Manifest
    network: IntegerNetwork
    query: Query
    files: Mapping[str, bytes]


def open_folder(
    folder: pathlib.Path, load: Callable[[pathlib.Path], IntegerNetwork]
) -> Opened:
    """Confirms hashes: that the folder holds what its manifest says.

    Args:
      folder: inside a proof directory that holds the network's file.
      load: reads a network's file (`jaxsnn.integer.load`); it may remember.

    Raises:
      ProofError: one line that says what does not agree.
    """
    sealed, files = manifest.open_sealed(folder)
    try:
        network = load(manifest.confirm_network_file(folder.parent, sealed))
        other_file = manifest.confirm_other_file(folder.parent, sealed)
        other = None if other_file is None else load(other_file)
    except ProofError:
        raise
    except ValueError as error:
        raise ProofError(str(error)) from error
    query = manifest.query_from_json(files[manifest.QUERY_FILE], other)
    for name, found in (
        ("network", manifest.network_digest(network)),
        ("input", manifest.input_digest(query)),
        ("query", manifest.sha256(files[manifest.QUERY_FILE])),
    ):
        if getattr(sealed, name) != found:
            raise ProofError(f"is not about the {name} that the manifest names")
    _check_query(network, query)
    return Opened(sealed, network, query, files)


def confirm(
    folder: pathlib.Path, load: Callable[[pathlib.Path], IntegerNetwork]
) -> Confirmed:
    """Confirms that a folder proves what its manifest says.

    Hashes first; then the intervals, which the encoding takes as constants; then that
    they decide, or that the formula is the one for this network and query and that
    its refutation holds.

    Args:
      folder: inside a proof directory that holds the network's file.
      load: reads a network's file (`jaxsnn.integer.load`); it may remember.

    Raises:
      ProofError: one line that says what does not hold.
    """
    started = time.monotonic()
    sealed, network, query, files = open_folder(folder, load)
    claims = read_claims(files[manifest.INTERVALS_FILE])
    runs = [claims[: len(network.layers)]]
    check_intervals(network, query, runs[0])
    if isinstance(query.requires, Alike):
        runs.append(claims[len(network.layers) :])
        check_intervals(query.requires.other, query, runs[1])
    if sum(len(run) for run in runs) != len(claims):
        raise ProofError("intervals of another number of layers")
    num_steps = 0
    if sealed.method is Method.INTERVALS:
        check_decided(query, [run[-1] for run in runs])
    elif sealed.method is Method.BRANCH:
        (branch_file,) = manifest.REFUTATION_FILES[sealed.method]
        trees = _unpack(files[branch_file])
        num_steps = branch.check_branches(network, query, runs[0], trees)
    else:
        num_steps = _check_refutation(sealed.method, files, network, query)
    return Confirmed(sealed, query, num_steps, time.monotonic() - started)


def read_claims(data: bytes) -> list[Claim]:
    """Reads the intervals of every layer.

    Raises:
      ProofError: they are no intervals.
    """
    try:
        levels = [
            Claim(*(np.array(level[end]) for end in ("low", "high")))
            for level in json.loads(data)
        ]
    except (ValueError, TypeError, KeyError):
        levels = [Claim(np.empty(0), np.empty(0))]
    if any(end.dtype != np.int64 or end.ndim != 1 for level in levels for end in level):
        raise ProofError(f"{manifest.INTERVALS_FILE} holds no intervals")
    return levels


def _check_query(network: IntegerNetwork, query: Query) -> None:
    classes = range(network.num_classes)
    steps = (query.low, query.spike_steps, query.high)
    fits = (
        all(step.shape == (network.num_inputs,) for step in steps)
        and int(query.low.min(initial=0)) >= 0
        and int(query.high.max(initial=0)) < network.num_steps
        and query.silent_step in (None, network.num_steps - 1)
        and query.label in classes
        and (query.target is None or query.target in classes)
    )
    match query.requires:
        case Monotone(moved, output):
            fits = fits and moved < network.num_inputs and output in classes
        case Alike(other):
            fits = fits and (
                other.num_steps == network.num_steps
                and other.num_inputs == network.num_inputs
                and other.num_classes == network.num_classes
            )
    if not fits:
        raise ProofError("the query does not fit the network")


def _check_refutation(
    method: Method, files: Mapping[str, bytes], network: IntegerNetwork, query: Query
) -> int:
    if method is Method.SPLIT:
        (split_file,) = manifest.REFUTATION_FILES[method]
        return split.check_split(network, query, _unpack(files[split_file]))
    formula_file, refutation_file = manifest.REFUTATION_FILES[method]
    stored = _unpack(files[formula_file])
    refutation = _Lines(files[refutation_file])
    problem = formula.question(network, query)
    if method is Method.CLAUSES:
        clauses = formula.clauses(problem)
        _compare(stored, formula.dimacs(clauses), formula_file)
        return rup.check_refutation(clauses, refutation)
    constraints = list(formula.constraints(problem))
    _compare(stored, formula.opb(constraints), formula_file)
    return cutting_planes.check_refutation(constraints, refutation)


def _compare(stored: str, derived: str, name: str) -> None:
    if stored == derived:
        return
    pairs = zip(stored.splitlines(), derived.splitlines(), strict=False)
    line = next((n for n, (a, b) in enumerate(pairs, start=1) if a != b), None)
    where = f"line {line}" if line else "its length"
    raise ProofError(f"{name} is not the formula of this query: {where} differs")


_UNPACKING_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError)


def _unpack(data: bytes) -> str:
    try:
        return gzip.decompress(data).decode("ascii")
    except _UNPACKING_ERRORS as error:
        raise ProofError(f"a file cannot be unpacked ({error})") from None


class _Lines:
    """The lines of a packed text, unpacked anew whenever they are read.

    Refutations grow to gigabytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[str]:
        try:
            with gzip.open(io.BytesIO(self._data), "rt", encoding="ascii") as lines:
                for line in lines:
                    yield line.rstrip("\n")
        except _UNPACKING_ERRORS as error:
            raise ProofError(f"a file cannot be unpacked ({error})") from None
