"""Decides queries of rate-coded networks: simulation, bounds, then complete solvers."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

from jaxsnn.sat import backends, rate
from jaxsnn.sat.backends import Session, Status
from jaxsnn.sat.query import Result, Stage, Verdict
from jaxsnn.sat.rate import RateNetwork, RateQuery
from jaxsnn.sat.rate_encode import RateEncoding, decided, encode, propagate

_TURN_SECONDS = 0.3
_TURN_GROWTH = 2.0


def solve_each(
    network: RateNetwork,
    queries: Sequence[RateQuery],
    seconds: float,
    names: Sequence[str] = ("pysat",),
) -> Iterator[Result]:
    """Decides queries of growing budgets: simulation, bounds, then solvers in turns.

    Args:
      network: the network.
      queries: nested, the narrowest first (see `encode`).
      seconds: wall-clock limit of each query; encoding counts towards the first that
        needs it.
      names: backends, keys of `jaxsnn.sat.backends.BACKENDS`; several take turns.

    Yields:
      One result a query. Counterexamples, `[T, D]` booleans, were replayed.

    Raises:
      ValueError: an unknown backend, or queries that are not nested.
      RuntimeError: a solver's model that does not replay; a defect of the program.
    """
    for name in names:
        if name not in backends.BACKENDS:
            known = ", ".join(backends.BACKENDS)
            raise ValueError(f"backend {name!r} is not one of {known}")
    encoding: RateEncoding | None = None
    sessions: dict[str, Session] = {}
    found: Result | None = None
    try:
        for index, query in enumerate(queries):
            started = time.monotonic()
            if found is not None:  # a wider ball holds the same counterexample
                yield dataclasses.replace(found, seconds=0.0)
                continue
            result = _without_solver(network, query)
            if result is None:
                encoding = encoding or encode(network, queries)
                result = _take_turns(
                    network, encoding, index, sessions, names, started + seconds
                )
            elapsed = time.monotonic() - started
            result = dataclasses.replace(result, seconds=elapsed)
            found = result if result.verdict is Verdict.FALSIFIED else None
            yield result
    finally:
        for session in sessions.values():
            session.close()


def _without_solver(network: RateNetwork, query: RateQuery) -> Result | None:
    if query.violated_by(rate.spike_trains(network, query.spikes)[-1]):
        return Result(
            Verdict.FALSIFIED, Stage.CLEAN, counterexample=query.spikes.copy()
        )
    if decided(propagate(network, query), query):
        return Result(Verdict.ROBUST, Stage.BOUNDS)
    return None


def _take_turns(
    network: RateNetwork,
    encoding: RateEncoding,
    index: int,
    sessions: dict[str, Session],
    names: Sequence[str],
    deadline: float,
) -> Result:
    turn = _TURN_SECONDS if len(names) > 1 else float("inf")
    while True:
        for name in names:
            if time.monotonic() >= deadline:
                return Result(Verdict.TIMEOUT)
            if name not in sessions:
                sessions[name] = backends.BACKENDS[name](encoding.problem)
            left = max(deadline - time.monotonic(), 0.0)
            answer = sessions[name].solve(encoding.assumptions[index], min(turn, left))
            if answer.status is Status.UNSATISFIABLE:
                return Result(Verdict.ROBUST, Stage.SOLVE, name)
            if answer.status is Status.SATISFIABLE:
                spikes = encoding.decode(set(answer.model))
                query = encoding.queries[index]
                outputs = rate.spike_trains(network, spikes)[-1]
                if not (query.admits(spikes) and query.violated_by(outputs)):
                    raise RuntimeError(
                        f"{name} returned a model whose input does not replay; please "
                        "report this network and query"
                    )
                return Result(
                    Verdict.FALSIFIED, Stage.SOLVE, name, counterexample=spikes
                )
        turn *= _TURN_GROWTH
