"""The complete stage: nested queries about one input, decided by solvers.

Several backends share the time of a query by turns of growing length: solvers differ
by orders of magnitude on single queries, so that turns cost a small factor and often
save far more. Cutting planes prove robustness fastest and clasp finds counterexamples
fastest, so these two get the longer turns; clauses come last, as writing them takes
seconds where the query is large: on 22 L1 queries of 16_784_512_10, each backend
alone, they were first on none, with a median of 12 s against 0.5 s of Exact and 0.7 s
of clingo.

Branching (`jaxsnn.sat.branch`) takes turns, too, where it applies: after the first
turns of Exact and clingo, which are done sooner with what is easy, or at once where it
is named first, as it needs no encoding.
"""

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from jaxsnn.sat import backends, branch, replay
from jaxsnn.sat.backends import Answer, Session, Status
from jaxsnn.sat.encode import Encoding, check_nested, encode
from jaxsnn.sat.pseudo_boolean import Problem
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.spec import IntegerNetwork

# Beside the backends, which solve an encoding, what works on the network itself.
BRANCH = "branch"
NAMES = (BRANCH, *backends.BACKENDS)

_DECIDED = (Status.SATISFIABLE, Status.UNSATISFIABLE)

_TURN_SECONDS = dict.fromkeys(NAMES, 0.3) | {"exact": 0.6, BRANCH: 0.6}
_TURN_GROWTH = 2.0
# Named first, branching has so much of the time to itself: what it shows of one query
# by then, its encoding takes for granted.
_FIRST_SHARE = 0.25
# Joins when turns have grown by this much, and the others had six seconds or so.
_LATE = {"pysat": 8.0}


def portfolio() -> tuple[str, ...]:
    """Returns the names of what is installed and worth a turn, the best first."""
    *first, last = backends.portfolio()  # clauses come last
    return (*first, BRANCH, last)


def solve(
    network: IntegerNetwork,
    queries: Sequence[Query],
    seconds: float,
    names: Sequence[str] | None = None,
) -> list[Result]:
    """Decides nested queries about one input; returns the results of `solve_each`.

    Args:
      network: the network.
      queries: nested, the narrowest first (see `encode`).
      seconds: wall-clock limit of each query; encoding counts towards the first.
        Solvers are asked to stop, and some take their time; processes that are killed
        instead are those of `jaxsnn.verify.cascade`.
      names: of `NAMES`; more than one take turns, by default those of `portfolio`.
        Branching is left out where it does not apply; without any other name the query
        is then `UNKNOWN`.

    Returns:
      One result a query; see `solve_each` for what they guarantee.

    Raises:
      ValueError: an unknown backend, one that is not installed, queries that are not
        nested, or not about this network.

    >>> import numpy as np
    >>> from jaxsnn.sat.query import linf_query
    >>> from jaxsnn.sat.spec import Dense
    >>> layer = Dense(np.array([[3, -1], [-1, 3]]), np.array([1, 1]))
    >>> network = IntegerNetwork((layer,), num_steps=8)
    >>> queries = [linf_query(np.array([1, 4]), 0, radius, 8) for radius in (1, 2)]
    >>> [result.verdict.value for result in solve(network, queries, seconds=10.0)]
    ['robust', 'falsified']
    """
    return list(solve_each(network, queries, seconds, names))


def solve_each(
    network: IntegerNetwork,
    queries: Sequence[Query],
    seconds: float,
    names: Sequence[str] | None = None,
) -> Iterator[Result]:
    """Decides nested queries with one incremental solver a backend.

    Arguments as of `solve`.

    Yields:
      One result a query, as it is decided. Every `FALSIFIED` holds a counterexample
      that was replayed; a query that contains a falsified one is falsified by the
      same input.

    Raises:
      ValueError: as `solve`.
      RuntimeError: a solver's model that does not replay; a defect of the program.
    """
    started = time.monotonic()
    check_nested(network, queries)
    names = portfolio() if names is None else names
    solvers = [name for name in names if name != BRANCH]
    encoding: Encoding | None = None
    result: Result | None = None
    with solver_sessions(names, NAMES) as sessions:
        for index, query in enumerate(queries):
            if result is not None and result.verdict is Verdict.FALSIFIED:
                yield _inherit(result)
                continue
            answer, solver, turns = Answer(Status.GAVE_UP), None, solvers
            branching = None
            if BRANCH in names and branch.applies(network, query):
                branching = sessions[BRANCH] = _BranchSession(network, query)
                answer, turns = Answer(Status.INTERRUPTED), list(names)
            if branching and names[0] == BRANCH:  # needs no encoding
                first = _FIRST_SHARE * seconds if solvers else seconds
                answer, solver = branching.solve((), first), BRANCH
            if solvers and answer.status not in _DECIDED:
                if encoding is None:
                    # What holds of a query need not hold of wider ones.
                    alone = branching if len(queries) == 1 else None
                    known = None if alone is None else alone.earliest
                    encoding = encode(network, queries, known)
                solver, answer = take_turns(
                    encoding.problem,
                    encoding.assumptions[index],
                    sessions,
                    turns,
                    deadline=started + seconds,
                )
            steps = None
            if answer.status is Status.SATISFIABLE:
                if solver == BRANCH:
                    assert branching is not None
                    steps = branching.counterexample
                else:
                    assert encoding is not None
                    steps = encoding.decode(index, set(answer.model))
            elapsed = time.monotonic() - started
            result = _judge(network, query, solver, answer, steps, elapsed)
            yield result
            started = time.monotonic()


class _BranchSession:
    """Branching as if it were a solver of one query; its answers have no model."""

    def __init__(self, network: IntegerNetwork, query: Query) -> None:
        self._branching = branch.Branching(network, query)

    @property
    def counterexample(self) -> np.ndarray | None:
        return self._branching.counterexample

    @property
    def earliest(self) -> np.ndarray:
        return self._branching.earliest

    def solve(self, assumptions: Sequence[int], seconds: float) -> Answer:
        """Goes on for so long."""
        del assumptions
        self._branching.run(seconds)
        if self._branching.proved:
            return Answer(Status.UNSATISFIABLE)
        if self.counterexample is not None:
            return Answer(Status.SATISFIABLE)
        if self._branching.ended:
            return Answer(Status.GAVE_UP)
        return Answer(Status.INTERRUPTED)

    def close(self) -> None:
        """Freed with the object."""


@contextlib.contextmanager
def solver_sessions(
    names: Sequence[str], allowed: Collection[str] = tuple(backends.BACKENDS)
) -> Iterator[dict[str, Session]]:
    """Yields the solvers begun so far, none, for `take_turns`; closes them in the end.

    Args:
      names: who will take turns.
      allowed: names that there are.

    Raises:
      ValueError: no backend, or an unknown one.
    """
    for name in names or ("",):
        if name not in allowed:
            known = ", ".join(allowed)
            raise ValueError(f"backend {name!r} is not one of {known}")
    sessions: dict[str, Session] = {}
    try:
        yield sessions
    finally:
        for session in sessions.values():
            session.close()


def _inherit(result: Result) -> Result:
    """A wider ball holds the narrower one's counterexample."""
    return Result(
        Verdict.FALSIFIED,
        result.stage,
        result.backend,
        seconds=0.0,
        counterexample=result.counterexample,
    )


def take_turns(
    problem: Problem,
    assumptions: Sequence[int],
    sessions: dict[str, Session],
    names: Sequence[str],
    deadline: float,
) -> tuple[str | None, Answer]:
    """Solves a problem by several backends in turns of growing length.

    Args:
      problem: what to solve.
      assumptions: literals that hold in this call.
      sessions: the solvers begun so far, by name; receives those that join.
      names: backends, in order; one alone runs to the end.
      deadline: of the monotonic clock.

    Returns:
      The backend that answered, None if none did in time, and its answer.
    """
    scale = 1.0 if len(names) > 1 else float("inf")
    names = list(names)
    while names:
        for name in list(names):
            if len(names) > 1 and scale < _LATE.get(name, 0.0):
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return None, Answer(Status.INTERRUPTED)
            if name not in sessions:
                sessions[name] = backends.BACKENDS[name](problem)
                left = deadline - time.monotonic()
            answer = sessions[name].solve(
                assumptions,
                max(min(scale * _TURN_SECONDS[name], left), 0.0),
            )
            if answer.status is Status.GAVE_UP:
                names.remove(name)
            elif answer.status is not Status.INTERRUPTED:
                return name, answer
        scale *= _TURN_GROWTH
    return None, Answer(Status.GAVE_UP)


def _judge(
    network: IntegerNetwork,
    query: Query,
    name: str | None,
    answer: Answer,
    steps: np.ndarray | None,
    seconds: float,
) -> Result:
    match answer.status:
        case Status.UNSATISFIABLE:
            return Result(Verdict.ROBUST, Stage.SOLVE, name, seconds)
        case Status.INTERRUPTED:
            return Result(Verdict.TIMEOUT, seconds=seconds)
        case Status.GAVE_UP:
            return Result(Verdict.UNKNOWN, seconds=seconds)
    assert steps is not None
    if not replay.falsifies(network, query, steps):
        raise RuntimeError(
            f"{name} returned a model whose input does not replay; please report this "
            "network and query"
        )
    return Result(Verdict.FALSIFIED, Stage.SOLVE, name, seconds, counterexample=steps)
