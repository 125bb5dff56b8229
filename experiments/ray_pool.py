"""Solver processes on a Ray cluster: `verify_snn --engine=ray`.

The same interface as `jaxsnn.sat.workers.Pool`. A task is the queries of one sample, or
one solver's share of a race; Ray places it, and results come back to the driver, which
alone writes. `ray.init` joins the cluster that `RAY_ADDRESS` names, or starts one here.
Memory is watched by Ray, not limited for each process.
"""

import collections
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, Self

from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.sat.workers import Event, Kind

_WAIT_SECONDS = 0.5
# How often a task is begun again that its process or machine did not survive.
_NUM_RETRIES = 2


class _Task(NamedTuple):
    """What is to be done, and for how long."""

    name: Hashable
    function: Callable[..., Iterator[Any]]
    arguments: tuple
    kill_at: float | None


class _Running:
    """A task that Ray works on."""

    def __init__(self, task: _Task, items: Any, limit_seconds: float) -> None:
        self.task = task
        self.items = items  # references, as a Ray generator
        self.num_items = 0
        self.extend(limit_seconds)

    def extend(self, limit_seconds: float) -> None:
        latest = time.monotonic() + limit_seconds
        self.deadline = latest if self.task.kill_at is None else self.task.kill_at


class RayPool:
    """Tasks go in, events come out; see `jaxsnn.sat.workers.Pool`."""

    def __init__(
        self,
        network: IntegerNetwork,
        num_workers: int,
        limit_seconds: float,
        memory_bytes: int | None = None,
    ) -> None:
        """Joins the cluster, or starts one.

        Args:
            network: first argument of every task.
            num_workers: tasks at a time.
            limit_seconds: longest time without an item before a task is killed, its
                wait for a free processor included.
            memory_bytes: not used here.
        """
        import ray

        del memory_bytes
        self._ray = ray
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        self._network = ray.put(network)
        self._run = _remote(ray)
        self._num_workers = num_workers
        self.limit_seconds = limit_seconds
        self._queue: collections.deque[_Task] = collections.deque()
        self._running: list[_Running] = []
        self._retries: collections.Counter[Hashable] = collections.Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for running in self._running:
            self._kill(running)

    @property
    def num_idle(self) -> int:
        """How many more tasks could begin at once."""
        return self._num_workers - len(self._running) - len(self._queue)

    def submit(
        self,
        task: Hashable,
        function: Callable[..., Iterator[Any]],
        *arguments: Any,
        kill_at: float | None = None,
    ) -> None:
        """Queues `function(network, *arguments)`, whose items become events."""
        self._queue.append(_Task(task, function, arguments, kill_at))
        self._dispatch()

    def cancel(self, task: Hashable) -> None:
        """Forgets a task, killing it if it has begun; no event follows."""
        for running in [r for r in self._running if r.task.name == task]:
            self._running.remove(running)
            self._kill(running)
        self._queue = collections.deque(t for t in self._queue if t.name != task)

    def events(self, wait: bool = False) -> Iterator[Event]:
        """Yields what has happened; with `wait` until nothing is left to do."""
        while True:
            self._dispatch()
            if not self._running:
                return
            timeout = _WAIT_SECONDS if wait else 0.0
            ready, _ = self._ray.wait(
                [running.items for running in self._running],
                num_returns=1,
                timeout=timeout,
                fetch_local=False,
            )
            for running in list(self._running):
                if running not in self._running:  # cancelled meanwhile
                    continue
                if running.items in ready:
                    event = self._receive(running)
                    if event is not None:
                        yield event
                elif time.monotonic() > running.deadline:
                    self._running.remove(running)
                    self._kill(running)
                    yield Event(running.task.name, Kind.STALLED)
            if not (wait or ready):
                return

    def _dispatch(self) -> None:
        while self._queue and len(self._running) < self._num_workers:
            task = self._queue.popleft()
            items = self._run.remote(self._network, task.function, task.arguments)
            self._running.append(_Running(task, items, self.limit_seconds))

    def _receive(self, running: _Running) -> Event | None:
        name = running.task.name
        try:
            kind, value = self._ray.get(next(running.items))
        except StopIteration:
            self._running.remove(running)
            return Event(name, Kind.DONE)
        except self._ray.exceptions.RayError as error:
            self._running.remove(running)
            # Nothing has been reported yet: another process may do better.
            if running.num_items == 0 and self._retries[name] < _NUM_RETRIES:
                self._retries[name] += 1
                self._queue.appendleft(running.task)
                return None
            reason = str(error).strip().splitlines()[0]
            return Event(name, Kind.FAILED, f"{type(error).__name__}: {reason}")
        running.num_items += 1
        running.extend(self.limit_seconds)
        if kind is Kind.FAILED:
            self._running.remove(running)
        return Event(name, kind, value)

    def _kill(self, running: _Running) -> None:
        self._ray.cancel(running.items, force=True)


def _remote(ray: Any) -> Any:
    """Returns the remote function; made here, it needs no import on the workers."""

    def run(network: Any, function: Any, arguments: tuple) -> Iterator[Any]:
        try:
            for item in function(network, *arguments):
                yield Kind.ITEM, item
        except Exception as error:
            yield Kind.FAILED, f"{type(error).__name__}: {error}"

    options = {"num_cpus": 1, "max_retries": 0, "num_returns": "streaming"}
    return ray.remote(**options)(run)
