"""The complete stage: nested queries about one input, decided by solvers.

Several backends share the time of a query by turns of growing length: solvers differ
by orders of magnitude on single queries, so that turns cost a small factor and often
save far more. Cutting planes prove robustness fastest and clasp finds counterexamples
fastest, so these two get the longer turns; clauses come last, as writing them takes
seconds where the query is large.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

from jaxsnn.sat import backends, replay
from jaxsnn.sat.backends import Answer, Session, Status
from jaxsnn.sat.encode import Encoding, encode
from jaxsnn.sat.pseudo_boolean import Problem
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.spec import IntegerNetwork

_TURN_SECONDS = dict.fromkeys(backends.BACKENDS, 0.3) | {"exact": 0.6}
_TURN_GROWTH = 2.0
_LATE = {"pysat": 8.0}  # joins when turns have grown by this much


def solve(
    network: IntegerNetwork,
    queries: Sequence[Query],
    seconds: float,
    names: Sequence[str] = ("pysat",),
) -> list[Result]:
    """Decides nested queries about one input; returns the results of `solve_each`.

    Args:
      network: the network.
      queries: nested, the narrowest first (see `encode`).
      seconds: wall-clock limit of each query; encoding counts towards the first.
      names: backends, keys of `jaxsnn.sat.backends.BACKENDS`; more than one take turns.

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
    names: Sequence[str] = ("pysat",),
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
    with solver_sessions(names) as sessions:
        encoding = encode(network, queries)
        result: Result | None = None
        for index in range(len(queries)):
            if result is not None and result.verdict is Verdict.FALSIFIED:
                yield _inherit(result)
                continue
            solver, answer = take_turns(
                encoding.problem,
                encoding.assumptions[index],
                sessions,
                names,
                deadline=started + seconds,
            )
            elapsed = time.monotonic() - started
            result = _judge(network, encoding, index, solver, answer, elapsed)
            yield result
            started = time.monotonic()


@contextlib.contextmanager
def solver_sessions(names: Sequence[str]) -> Iterator[dict[str, Session]]:
    """Yields the solvers begun so far, none, for `take_turns`; closes them in the end.

    Args:
      names: backends that will take turns.

    Raises:
      ValueError: no backend, or an unknown one.
    """
    for name in names or ("",):
        if name not in backends.BACKENDS:
            known = ", ".join(backends.BACKENDS)
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
    while True:
        for name in names:
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
            if answer.status is not Status.INTERRUPTED:
                return name, answer
        scale *= _TURN_GROWTH


def _judge(
    network: IntegerNetwork,
    encoding: Encoding,
    index: int,
    name: str | None,
    answer: Answer,
    seconds: float,
) -> Result:
    match answer.status:
        case Status.UNSATISFIABLE:
            return Result(Verdict.ROBUST, Stage.SOLVE, name, seconds)
        case Status.INTERRUPTED:
            return Result(Verdict.TIMEOUT, seconds=seconds)
    query = encoding.queries[index]
    steps = encoding.decode(index, set(answer.model))
    if not replay.falsifies(network, query, steps):
        raise RuntimeError(
            f"{name} returned a model whose input does not replay; please report this "
            "network and query"
        )
    return Result(Verdict.FALSIFIED, Stage.SOLVE, name, seconds, counterexample=steps)
