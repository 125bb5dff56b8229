"""Makes and keeps the proofs of robust verdicts, in processes of their own."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple, Self

from experiments import run_state
from jaxsnn import integer
from jaxsnn.sat import proof, workers
from jaxsnn.sat.check import manifest
from jaxsnn.sat.query import Query, Verdict
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.sat.workers import Event, Kind

Record = dict[str, Any]


class _Target(NamedTuple):
    """Where proofs of a network go."""

    directory: pathlib.Path
    network_file: pathlib.Path
    other_file: pathlib.Path | None
    seconds: float


class Prover:
    """Turns records of robust verdicts into records that name their proof.

    with Prover(proof_dir, network, seconds=60.0, num_workers=2) as prover:
        prover.submit(record, query)
        for record in prover.finished(wait=True):
            print(record["proof"])
    """

    def __init__(
        self,
        proof_dir: str,
        network: IntegerNetwork,
        seconds: float,
        num_workers: int,
        other: IntegerNetwork | None = None,
    ) -> None:
        """Writes the networks' files.

        Args:
            proof_dir: created when it does not exist.
            network: the network of all queries.
            seconds: limit of each solver for a query.
            num_workers: processes.
            other: the network that it is compared with, if it is.

        Raises:
            UsageError: the directory cannot be written.
        """
        try:
            directory = pathlib.Path(proof_dir)
            directory.mkdir(parents=True, exist_ok=True)
            file = _save_network(directory, network)
            other_file = None if other is None else _save_network(directory, other)
        except OSError as error:
            raise run_state.usage_error(
                "proof_dir",
                proof_dir,
                f"cannot be written ({error.strerror}); name another directory",
            ) from error
        self._target = _Target(directory, file, other_file, seconds)
        # Branching and solvers may overrun, encodings take time, and logs are written.
        limit = 1.5 * (1 + len(proof.REFUTERS)) * seconds + 30.0
        self._pool = workers.Pool(
            network, num_workers, limit, workers.fair_memory(num_workers)
        )
        self._records: dict[Hashable, Record] = {}

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__(*exception)

    def submit(self, record: Record, query: Query, radius: float | None = None) -> None:
        """Begins the proof of a robust verdict.

        Args:
            record: the line that will name the proof.
            query: what was found robust.
            radius: its radius, when that is not the one of the record.
        """
        task = len(self._records)
        self._records[task] = record
        names = ("sample", "norm", "radius", "property")
        subject = {name: record[name] for name in names if name in record}
        if radius is not None:
            subject["radius"] = radius
        self._pool.submit(task, _prove, self._target, subject, query)

    def finished(self, wait: bool = False) -> Iterator[Record]:
        """Yields records whose proof is written, or not to be had (`proof_note`).

        A verdict that turns out to be wrong becomes an error.
        """
        for event in self._pool.events(wait):
            if event.kind is not Kind.DONE:
                yield _outcome(self._records[event.task], event)


def _outcome(record: Record, event: Event) -> Record:
    match event.kind, event.value:
        case Kind.ITEM, proof.ContradictionError() as error:
            return {**record, "verdict": Verdict.ERROR.value, "message": str(error)}
        case Kind.ITEM, proof.NotProved(reason):
            return {**record, "proof_note": reason}
        case Kind.ITEM, folder:
            return {**record, "proof": folder}
        case Kind.STALLED, _:
            return {**record, "proof_note": "the solvers overran their limit"}
    return {**record, "proof_note": str(event.value)}


def _prove(
    network: IntegerNetwork, target: _Target, subject: dict[str, Any], query: Query
) -> Iterator[str | proof.NotProved | proof.ContradictionError]:
    """Yields the name of the folder, or why there is none; runs in a worker."""
    try:
        found = proof.prove(network, query, target.seconds)
    except proof.ContradictionError as error:
        yield error
        return
    if isinstance(found, proof.NotProved):
        yield found
        return
    yield proof.write(
        target.directory,
        "-".join(str(subject[name]) for name in ("sample", "norm", "radius")),
        network,
        target.network_file,
        query,
        found,
        subject,
        target.other_file,
    )


def _save_network(directory: pathlib.Path, network: IntegerNetwork) -> pathlib.Path:
    """Saves the network under the hash of its file; shards may do so together."""
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=directory))
    try:
        saved = temporary / "network.npz"
        integer.save(saved, network)
        digest = manifest.sha256(saved.read_bytes())
        file = directory / f"network-{digest[:16]}.npz"
        os.replace(saved, file)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return file
