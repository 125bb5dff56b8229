"""Processes that can be killed: hard limits on the time and memory of exact search.

Solvers may overrun the limit they are given, hold Python's lock, or exhaust memory.
Each worker runs one task at a time and reports item by item; one that stalls is killed
and replaced, and only its task is lost. It is the kernel that kills, by an alarm that
the worker sets before it begins: to the moment, whatever this process does meanwhile,
and even if it is no more. Workers never import jax.
"""

import collections
import contextlib
import enum
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

from jaxsnn.sat.spec import IntegerNetwork

_WAIT_SECONDS = 0.5

# What a solver may overrun a query's limit by before its process is killed: enough to
# notice that time is up and to hand over what was found.
GRACE_SECONDS = 1.0

# How long after its alarm a worker is killed from here, should it have none: a new
# process that imports solvers on a busy machine is within it.
_ALARM_MISSED_SECONDS = 20.0

# A worker is meant to keep one core busy; NumPy would start a thread for each.
_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)

# Systems that know no such signal are left to that.
_ALARM = getattr(signal, "SIGALRM", None)


# Address space that the interpreter and every solver find enough of.
_LEAST_MEMORY_BYTES = 4 * 2**30


def fair_memory(num_workers: int) -> int:
    """Returns the bytes that each of so many processes may use on this machine."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(total // max(num_workers, 1), _LEAST_MEMORY_BYTES)


class Kind(enum.Enum):
    """What happened to a task."""

    ITEM = "item"  # it yielded a value
    DONE = "done"  # it ended
    STALLED = "stalled"  # no item within the limit; its process was killed
    FAILED = "failed"  # it raised, or its process died; the value says why


class Event(NamedTuple):
    """News of one task."""

    task: Hashable
    kind: Kind
    value: Any = None


class _Task(NamedTuple):
    """What a process is to do."""

    name: Hashable
    function: Callable
    arguments: tuple
    kill_at: float | None


class _Worker:
    """One process and what it works on."""

    def __init__(self, network: IntegerNetwork, memory_bytes: int | None) -> None:
        # Forking a process that runs jax may deadlock.
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(other, network, memory_bytes), daemon=True
        )
        with _environment(_ONE_THREAD):
            self.process.start()
        other.close()
        self.task: Hashable = None
        self.busy = False
        self.deadline = 0.0
        self.kill_at: float | None = None

    def extend(self, limit_seconds: float) -> None:
        """Sets when the process is killed from here unless it is heard of before."""
        latest = time.monotonic() + limit_seconds
        alarm = latest if self.kill_at is None else self.kill_at
        self.deadline = alarm + _ALARM_MISSED_SECONDS

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Killable workers for one network; a context manager.

    Tasks go in, events come out as they happen:

        with Pool(network, num_workers=2, limit_seconds=60.0) as pool:
            pool.submit("sample 7", solve_each, queries, 60.0, names)
            for event in pool.events(wait=True):
                ...
    """

    def __init__(
        self,
        network: IntegerNetwork,
        num_workers: int,
        limit_seconds: float,
        memory_bytes: int | None = None,
    ) -> None:
        """Processes start with the first tasks.

        Args:
          network: first argument of every task.
          num_workers: number of processes.
          limit_seconds: longest time without an item before a worker is killed, counted
            from when it begins or from the item before.
          memory_bytes: address space of each process, None for no limit.
        """
        self._network = network
        self._num_workers = num_workers
        self.limit_seconds = limit_seconds
        self._memory = memory_bytes
        self._queue: collections.deque[_Task] = collections.deque()
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.kill()

    @property
    def num_idle(self) -> int:
        """How many more tasks could begin at once."""
        busy = sum(worker.busy for worker in self._workers)
        return self._num_workers - busy - len(self._queue)

    def submit(
        self,
        task: Hashable,
        function: Callable[..., Iterator[Any]],
        *arguments: Any,
        kill_at: float | None = None,
    ) -> None:
        """Queues `function(network, *arguments)`, whose items become events.

        Args:
          task: names the task in its events.
          function: a generator function of an importable module.
          arguments: what it takes after the network; pickled.
          kill_at: when the task's process is killed, by `time.monotonic`; by default
            it is when no item came within the pool's limit.
        """
        self._queue.append(_Task(task, function, arguments, kill_at))
        self._dispatch()

    def cancel(self, task: Hashable) -> None:
        """Forgets a task, killing its process if it has begun; no event follows."""
        for worker in list(self._workers):
            if worker.busy and worker.task == task:
                self._replace(worker)
        self._queue = collections.deque(t for t in self._queue if t.name != task)

    def events(self, wait: bool = False) -> Iterator[Event]:
        """Yields what has happened; with `wait` until nothing is left to do.

        Tasks may be submitted between events.
        """
        while True:
            self._dispatch()
            busy = [worker for worker in self._workers if worker.busy]
            if not busy:
                return
            timeout = _WAIT_SECONDS if wait else 0.0
            ready = multiprocessing.connection.wait(
                [worker.connection for worker in busy], timeout
            )
            for worker in busy:
                if worker not in self._workers:  # cancelled meanwhile
                    continue
                if worker.connection in ready:
                    yield self._receive(worker)
                elif time.monotonic() > worker.deadline:
                    self._replace(worker)
                    yield Event(worker.task, Kind.STALLED)
            if not (wait or ready):
                return

    def _dispatch(self) -> None:
        while self._queue:
            idle = next((worker for worker in self._workers if not worker.busy), None)
            if idle is None:
                if len(self._workers) == self._num_workers:
                    return
                idle = _Worker(self._network, self._memory)
                self._workers.append(idle)
            task = self._queue.popleft()
            limits = self.limit_seconds, task.kill_at
            idle.connection.send((task.function, task.arguments, *limits))
            idle.task, idle.kill_at, idle.busy = task.name, task.kill_at, True
            idle.extend(self.limit_seconds)

    def _receive(self, worker: _Worker) -> Event:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode
            self._replace(worker)
            if _ALARM is not None and code == -_ALARM:
                return Event(worker.task, Kind.STALLED)
            reason = f"the solver's process ended with code {code}"
            return Event(worker.task, Kind.FAILED, reason)
        worker.extend(self.limit_seconds)
        if kind is not Kind.ITEM:
            worker.busy = False
        return Event(worker.task, kind, value)

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(
    connection: multiprocessing.connection.Connection,
    network: IntegerNetwork,
    memory_bytes: int | None,
) -> None:
    """Runs tasks until the other end is closed."""
    if _ALARM is not None:
        signal.signal(_ALARM, signal.SIG_DFL)
    if memory_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    while True:
        try:
            function, arguments, limit_seconds, kill_at = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            _set_alarm(limit_seconds, kill_at)
            for item in function(network, *arguments):
                connection.send((Kind.ITEM, item))
                _set_alarm(limit_seconds, kill_at)
            _clear_alarm()
            connection.send((Kind.DONE, None))
        except KeyboardInterrupt:
            return
        except Exception as error:  # reported, whatever it is: a verdict `error`
            _clear_alarm()
            connection.send((Kind.FAILED, f"{type(error).__name__}: {error}"))


def _set_alarm(limit_seconds: float, kill_at: float | None) -> None:
    """Has the kernel end this process, unless the alarm is set anew or cleared."""
    if _ALARM is not None:
        # All processes of a machine share this clock. A timer of zero would never fire.
        left = limit_seconds if kill_at is None else kill_at - time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))


def _clear_alarm() -> None:
    if _ALARM is not None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
