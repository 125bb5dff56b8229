"""Makes and keeps the proofs of robust verdicts, in processes of their own."""

import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, Self

from experiments import run_state
from jaxsnn import integer
from jaxsnn.sat import proof
from jaxsnn.sat.check import manifest
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork

Record = dict[str, Any]


class Prover:
    """Turns records of robust verdicts into records that name their proof.

    with Prover(proof_dir, network, seconds=60.0, workers=2) as prover:
        prover.submit(record, query)
        for record in prover.finished(wait=True):
            print(record["proof"])
    """

    def __init__(
        self, proof_dir: str, network: IntegerNetwork, seconds: float, workers: int
    ) -> None:
        """Writes the network's file.

        Args:
            proof_dir: created when it does not exist.
            network: the network of all queries.
            seconds: limit of each solver for a query.
            workers: processes; 1 proves in this process.

        Raises:
            UsageError: the directory cannot be written.
        """
        try:
            directory = pathlib.Path(proof_dir)
            directory.mkdir(parents=True, exist_ok=True)
            file = _save_network(directory, network)
        except OSError as error:
            raise run_state.usage_error(
                "proof_dir",
                proof_dir,
                f"cannot be written ({error.strerror}); name another directory",
            ) from error
        self._prove = functools.partial(_prove, directory, file, seconds)
        self._network = network
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        if workers > 1:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("spawn"),
                initializer=_keep_network,
                initargs=(network,),
            )
        self._pending: set[concurrent.futures.Future[Record]] = set()
        self._done: list[Record] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, record: Record, query: Query) -> None:
        """Begins the proof of a robust verdict."""
        if self._pool is None:
            _keep_network(self._network)
            self._done.append(self._prove(record, query))
        else:
            self._pending.add(self._pool.submit(self._prove, record, query))

    def finished(self, wait: bool = False) -> Iterator[Record]:
        """Yields records whose proof is written, or not to be had (`proof_note`)."""
        yield from self._done
        self._done.clear()
        when = concurrent.futures.FIRST_COMPLETED
        while self._pending:
            ready, self._pending = concurrent.futures.wait(
                self._pending, timeout=None if wait else 0, return_when=when
            )
            for future in ready:
                yield future.result()
            if not (ready or wait):
                return


_networks: list[IntegerNetwork] = []


def _keep_network(network: IntegerNetwork) -> None:
    """Hands each process the network once."""
    _networks[:] = [network]


def _prove(
    directory: pathlib.Path,
    file: pathlib.Path,
    seconds: float,
    record: Record,
    query: Query,
) -> Record:
    (network,) = _networks
    found = proof.prove(network, query, seconds)
    if isinstance(found, proof.NotProved):
        return {**record, "proof_note": found.reason}
    subject = {name: record[name] for name in ("sample", "norm", "radius")}
    folder = proof.write(
        directory,
        "-".join(str(value) for value in subject.values()),
        network,
        file,
        query,
        found,
        subject,
    )
    return {**record, "proof": folder}


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
