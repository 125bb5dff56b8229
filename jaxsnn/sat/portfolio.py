"""The complete stage in processes that can be killed: first in turns, then in a race.

Most queries fall within seconds, so each sample begins in one process in which the
solvers take turns and keep what they learnt from query to query. What that leaves is
raced: a process each, all on one query, killed together as soon as one of them
decides. No solver can overrun, exhaust the memory of or crash anything but itself; a
query is given up only when none is left.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

from jaxsnn.sat import branch
from jaxsnn.sat.query import Query, Result, Verdict
from jaxsnn.sat.solve import BRANCH, solve_each
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.sat.workers import GRACE_SECONDS, Event, Kind, Pool

# Longest share of a query's time in which solvers take turns before they race.
TURNS_SECONDS = 6.0

# What turns may take longer, as far as the query's time goes: Exact has been seen to
# overrun its turn by seconds and to decide, and a race would begin anew.
_TURNS_OVERRUN_SECONDS = 5.0

_DECIDED = (Verdict.ROBUST, Verdict.FALSIFIED)


# Network, nested queries, seconds for each and names of backends.
Solve = Callable[
    [IntegerNetwork, Sequence[Query], float, Sequence[str]], Iterator[Result]
]


# Network, number of processes, limit in seconds and bytes of each.
MakePool = Callable[[IntegerNetwork, int, float, int | None], Pool]


class Decided(NamedTuple):
    """The result of one query of one task."""

    task: Hashable
    position: int  # among the task's nested queries
    result: Result


class _Query(NamedTuple):
    """Names one query."""

    task: Hashable
    position: int


class _Racer(NamedTuple):
    """Names one team's work on one query."""

    query: _Query
    solver: str


@dataclasses.dataclass(eq=False)
class _Race:
    """One query that several solvers work on, a process each."""

    query: _Query
    running: set[str]
    started: float
    seconds: float  # that are left for it
    timed_out: bool = False
    failures: list[str] = dataclasses.field(default_factory=list)


class Portfolio:
    """Decides nested queries with several solvers, in processes of their own.

    As a context manager, which ends them:

        with Portfolio(network, ("exact", "clingo"), 60.0, num_workers=2) as solvers:
            solvers.submit("sample 7", queries)
            for task, position, result in solvers.finished(wait=True):
                print(task, position, result.verdict)
    """

    def __init__(
        self,
        network: IntegerNetwork,
        names: Sequence[str],
        seconds: float,
        num_workers: int,
        memory_bytes: int | None = None,
        solve: Solve = solve_each,
        make_pool: MakePool = Pool,
    ) -> None:
        """Processes start with the first task.

        Args:
          network: the network.
          names: backends, the most promising first.
          seconds: wall-clock limit of each query, while it is worked on; what runs
            `workers.GRACE_SECONDS` longer is killed.
          num_workers: number of processes, at least 1.
          memory_bytes: address space of each process, None for no limit.
          solve: decides nested queries within the processes.
          make_pool: `Pool`, or processes elsewhere with the same interface.
        """
        self._network, self._solve = network, solve
        self._names = tuple(names)
        self._seconds = seconds
        self._num_workers = num_workers
        self._races_follow = min(len(self._names), num_workers) > 1
        self._turns_seconds = (
            min(seconds, TURNS_SECONDS) if self._races_follow else seconds
        )
        limit = min(
            self._turns_seconds + _TURNS_OVERRUN_SECONDS, seconds + GRACE_SECONDS
        )
        self._pool = make_pool(network, num_workers, limit, memory_bytes)
        self._queries: dict[Hashable, Sequence[Query]] = {}
        # The queries that have no result yet, and the seconds that each has had.
        self._open: dict[_Query, float] = {}
        # The query that each task in turns is at.
        self._turns: dict[Hashable, collections.deque[int]] = {}
        self._waiting: collections.deque[_Query] = collections.deque()
        self._races: dict[_Query, _Race] = {}
        self._done: list[Decided] = []

    def __enter__(self) -> "Portfolio":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.__exit__(*exception)

    def submit(self, task: Hashable, queries: Sequence[Query]) -> None:
        """Begins to decide nested queries about one input, the narrowest first."""
        self._queries[task] = queries
        for position in range(len(queries)):
            self._open[_Query(task, position)] = 0.0
        self._take_turns(task, range(len(queries)))

    def finished(self, wait: bool = False) -> Iterator[Decided]:
        """Yields what has been decided; with `wait` everything, each query once."""
        self._start_races()
        yield from self._flush()
        for event in self._pool.events(wait):
            self._handle(event)
            self._start_races()
            yield from self._flush()

    def _take_turns(self, task: Hashable, positions: Sequence[int]) -> None:
        if not positions:
            return
        self._turns[task] = collections.deque(positions)
        queries = [self._queries[task][position] for position in positions]
        self._pool.submit(task, self._solve, queries, self._turns_seconds, self._names)

    def _start_races(self) -> None:
        """Starts races as long as a process has nothing to do."""
        while self._waiting and self._pool.num_idle > 0:
            query = self._waiting.popleft()
            started = time.monotonic()
            left = self._seconds - self._open[query]
            question = self._queries[query.task][query.position]
            names = self._names
            if not branch.applies(self._network, question):
                names = tuple(name for name in names if name != BRANCH)
            teams = _teams(names, self._num_workers)
            running = {"+".join(team) for team in teams}
            self._races[query] = _Race(query, running, started, left)
            for team in teams:
                self._pool.submit(
                    _Racer(query, "+".join(team)),
                    _solve_until,
                    self._solve,
                    question,
                    left,
                    time.time() + left,
                    team,
                    kill_at=started + left + GRACE_SECONDS,
                )

    def _handle(self, event: Event) -> None:
        if not isinstance(event.task, _Racer):
            self._handle_turns(event)
        elif event.task.query in self._races:
            race = self._races[event.task.query]
            self._handle_race(race, event.task.solver, event)

    def _handle_turns(self, event: Event) -> None:
        task, left = event.task, self._turns[event.task]
        if event.kind is Kind.ITEM:
            self._note(_Query(task, left.popleft()), event.value)
            return
        del self._turns[task]
        if event.kind is Kind.DONE:
            return
        # A solver overran or failed at this query: here the turns end. They begin anew
        # with the next one.
        query = _Query(task, left.popleft())
        if event.kind is Kind.STALLED:
            result = Result(Verdict.TIMEOUT, seconds=self._pool.limit_seconds)
        else:
            result = Result(Verdict.ERROR, message=event.value)
        self._note(query, result)
        self._take_turns(task, left)

    def _note(self, query: _Query, result: Result) -> None:
        """Notes the outcome of turns: a result, or a reason to race."""
        spent = self._open[query] = min(result.seconds, self._seconds)
        undecided = result.verdict not in _DECIDED
        in_time = spent < self._seconds or result.verdict is Verdict.ERROR
        if undecided and in_time and self._races_follow:
            self._waiting.append(query)
            return
        self._close(query, result)

    def _handle_race(self, race: _Race, name: str, event: Event) -> None:
        if event.kind is Kind.ITEM:
            if event.value.verdict in _DECIDED:
                race.running.discard(name)  # it is about to end by itself
                self._end(race, event.value)
            else:
                race.timed_out = True
            return
        if event.kind is Kind.FAILED:
            race.failures.append(f"{name}: {event.value}")
        race.timed_out |= event.kind is Kind.STALLED
        race.running.discard(name)
        if race.running:
            return
        if race.timed_out:
            self._end(race, Result(Verdict.TIMEOUT))
        else:
            self._end(race, Result(Verdict.ERROR, message="; ".join(race.failures)))

    def _end(self, race: _Race, result: Result) -> None:
        before = self._open[race.query]
        self._stop(race)
        spent = self._open[race.query]
        if result.verdict in _DECIDED:  # news of it may have waited for us
            spent = before + result.seconds
        self._close(race.query, dataclasses.replace(result, seconds=spent))

    def _stop(self, race: _Race) -> None:
        """Kills what still runs of a race and counts its time."""
        del self._races[race.query]
        for name in race.running:
            self._pool.cancel(_Racer(race.query, name))
        elapsed = time.monotonic() - race.started
        self._open[race.query] += min(elapsed, race.seconds + GRACE_SECONDS)

    def _close(self, query: _Query, result: Result) -> None:
        """Records a result, and what it says about queries that wait or race."""
        del self._open[query]
        self._done.append(Decided(query.task, query.position, result))
        for other in [*self._waiting, *self._races]:
            if other in self._open and _implies(query, result, other):
                if other in self._races:
                    self._stop(self._races[other])
                else:
                    self._waiting.remove(other)
                spent = self._open[other]
                self._close(other, dataclasses.replace(result, seconds=spent))

    def _flush(self) -> Iterator[Decided]:
        done, self._done = self._done, []
        yield from done


def _teams(names: tuple[str, ...], num_workers: int) -> list[tuple[str, ...]]:
    """Who races, a process each; one that finds none left takes turns with branching.

    >>> _teams(("exact", "clingo", "branch", "pysat"), 2)
    [('exact',), ('branch', 'clingo')]
    """
    if BRANCH not in names or num_workers == 1:
        return [(name,) for name in names[:num_workers]]
    # Where there are windows alone, clauses take long to write and decide nothing.
    others = [name for name in names if name not in (BRANCH, "pysat")]
    alone, left = others[: num_workers - 1], others[num_workers - 1 : num_workers]
    return [*((name,) for name in alone), (BRANCH, *left)]


def _implies(query: _Query, result: Result, other: _Query) -> bool:
    """Whether the result of one query of a task is that of a nested other one, too."""
    if query.task != other.task:
        return False
    if result.verdict is Verdict.ROBUST:
        return other.position < query.position
    return result.verdict is Verdict.FALSIFIED and other.position > query.position


def _solve_until(
    network: IntegerNetwork,
    solve: Solve,
    query: Query,
    seconds: float,
    deadline: float,
    team: tuple[str, ...],
) -> Iterator[Result]:
    """Decides one query with one team until a deadline by `time.time`.

    The process may begin late, and on another machine, whose monotonic clock differs.
    Results are given the time since the race began, of `seconds` until the deadline.
    """
    left = max(deadline - time.time(), 0.0)
    for result in solve(network, [query], left, team):
        spent = max(seconds - (deadline - time.time()), 0.0)
        yield dataclasses.replace(result, seconds=spent)
