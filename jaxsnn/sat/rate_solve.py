"""Decides queries of rate-coded networks: simulation, bounds, then complete solvers."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

from jaxsnn.sat import rate
from jaxsnn.sat.backends import Answer, Status
from jaxsnn.sat.query import Result, Stage, Verdict
from jaxsnn.sat.rate import RateNetwork, RateQuery
from jaxsnn.sat.rate_encode import RateEncoding, decided, encode, propagate
from jaxsnn.sat.solve import solver_sessions, take_turns


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
    encoding: RateEncoding | None = None
    found: Result | None = None
    with solver_sessions(names) as sessions:
        for index, query in enumerate(queries):
            started = time.monotonic()
            if found is not None:  # a wider ball holds the same counterexample
                yield dataclasses.replace(found, seconds=0.0)
                continue
            result = _without_solver(network, query)
            if result is None:
                encoding = encoding or encode(network, queries)
                name, answer = take_turns(
                    encoding.problem,
                    encoding.assumptions[index],
                    sessions,
                    names,
                    deadline=started + seconds,
                )
                result = _judge(network, encoding, query, name, answer)
            elapsed = time.monotonic() - started
            result = dataclasses.replace(result, seconds=elapsed)
            found = result if result.verdict is Verdict.FALSIFIED else None
            yield result


def _without_solver(network: RateNetwork, query: RateQuery) -> Result | None:
    if query.violated_by(rate.spike_trains(network, query.spikes)[-1]):
        return Result(
            Verdict.FALSIFIED, Stage.CLEAN, counterexample=query.spikes.copy()
        )
    if decided(propagate(network, query), query):
        return Result(Verdict.ROBUST, Stage.BOUNDS)
    return None


def _judge(
    network: RateNetwork,
    encoding: RateEncoding,
    query: RateQuery,
    name: str | None,
    answer: Answer,
) -> Result:
    match answer.status:
        case Status.UNSATISFIABLE:
            return Result(Verdict.ROBUST, Stage.SOLVE, name)
        case Status.INTERRUPTED:
            return Result(Verdict.TIMEOUT)
    spikes = encoding.decode(set(answer.model))
    outputs = rate.spike_trains(network, spikes)[-1]
    if not (query.admits(spikes) and query.violated_by(outputs)):
        raise RuntimeError(
            f"{name} returned a model whose input does not replay; please report this "
            "network and query"
        )
    return Result(Verdict.FALSIFIED, Stage.SOLVE, name, counterexample=spikes)
