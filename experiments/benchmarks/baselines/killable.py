"""A solver in a process of its own, for limits that hold whatever it does."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from jaxsnn.sat.query import Query, Result, Verdict
from jaxsnn.sat.spec import IntegerNetwork

Solve = Callable[[IntegerNetwork, Query, float], Result]

# For compilation, which is not counted, and for the way back.
_GRACE_SECONDS = 10.0


class Engine:
    """One baseline on one network.

    The process is started once and kept for many queries; one that does not come back
    in time is killed, and the next query starts another.

    Attributes:
        name: of the baseline.
    """

    def __init__(self, name: str, solve: Solve, network: IntegerNetwork) -> None:
        self.name = name
        self._arguments = solve, network
        self._process: Any = None
        self._connection: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()

    def solve(self, query: Query, seconds: float) -> Result:
        """Decides a query; an answer later than the limit is a timeout."""
        if self._process is None:
            self._start()
        self._connection.send((query, seconds))
        try:
            if not self._connection.poll(seconds + _GRACE_SECONDS):
                self._kill()
                return Result(Verdict.TIMEOUT, seconds=seconds)
            result = self._connection.recv()
        except (EOFError, ConnectionError):
            self._kill()
            message = f"{self.name} ended without an answer"
            return Result(Verdict.ERROR, backend=self.name, message=message)
        if result.seconds > seconds and result.verdict is not Verdict.ERROR:
            return Result(Verdict.TIMEOUT, seconds=result.seconds)
        return result

    def _start(self) -> None:
        """Starts a process and waits until it has imported what it needs."""
        # Forking a process that runs jax may deadlock.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, *self._arguments), daemon=True
        )
        process.start()
        self._process = process
        theirs.close()
        self._connection.recv()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _serve(connection: Connection, solve: Solve, network: IntegerNetwork) -> None:
    connection.send("ready")
    while True:
        try:
            query, seconds = connection.recv()
        except EOFError:
            return
        try:
            result = solve(network, query, seconds)
        except (ValueError, RuntimeError, MemoryError) as error:
            message = str(error) or type(error).__name__
            result = Result(Verdict.ERROR, message=message)
        connection.send(result)
