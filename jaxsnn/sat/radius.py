"""The exact smallest radius that breaks a decision.

Intervals raise the proved radius cheaply; then nested queries climb from there, a
few radii in one incremental solver, until one is falsified. The answer is exact: a
replayed counterexample at the radius, and a proof one below.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxsnn.sat import intervals, replay
from jaxsnn.sat.query import (
    Query,
    Result,
    Stage,
    Tie,
    Verdict,
    l0_query,
    l1_query,
    linf_query,
)
from jaxsnn.sat.solve import solve_each
from jaxsnn.sat.spec import IntegerNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """The balls of every radius around one input.

    Attributes:
      spike_steps: `[D]` the input.
      label: the class whose decision must stand.
      num_steps: `T`.
      ball: makes the query of a radius, such as `linf_query`.
      largest: the radius from which on the ball is the whole space of inputs.
      tie: the reading of ties.
    """

    spike_steps: np.ndarray
    label: int
    num_steps: int
    ball: Callable[[np.ndarray, int, int, int], Query]
    largest: int
    tie: Tie = Tie.ADVERSARIAL

    def query(self, radius: int) -> Query:
        """Returns the query of one radius."""
        query = self.ball(self.spike_steps, self.label, radius, self.num_steps)
        return dataclasses.replace(query, tie=self.tie)


def linf_family(
    spike_steps: np.ndarray, label: int, num_steps: int, tie: Tie = Tie.ADVERSARIAL
) -> Family:
    """Balls in which every input moves by at most `radius` steps."""
    largest = int(_reach(spike_steps, num_steps).max(initial=0))
    return Family(spike_steps, label, num_steps, linf_query, largest, tie)


def l1_family(
    spike_steps: np.ndarray, label: int, num_steps: int, tie: Tie = Tie.ADVERSARIAL
) -> Family:
    """Balls in which all inputs together move by at most `radius` steps."""
    largest = int(_reach(spike_steps, num_steps).sum())
    return Family(spike_steps, label, num_steps, l1_query, largest, tie)


def l0_family(
    spike_steps: np.ndarray, label: int, num_steps: int, tie: Tie = Tie.ADVERSARIAL
) -> Family:
    """Balls in which at most `radius` inputs move, anywhere."""
    return Family(spike_steps, label, num_steps, l0_query, len(spike_steps), tie)


def _reach(spike_steps: np.ndarray, num_steps: int) -> np.ndarray:
    steps = np.asarray(spike_steps, np.int64)
    return np.maximum(steps, num_steps - 1 - steps)


@dataclasses.dataclass(frozen=True, eq=False)
class Radius:
    """What a search found.

    Attributes:
      robust: the largest radius proved robust; -1 if not even 0 is.
      breaking: the smallest falsified radius, None if none was found. The search was
        exact if `breaking == robust + 1`, or if `robust` covers the whole space.
      result: how the last query was decided, or what stopped the search.
    """

    robust: int
    breaking: int | None
    result: Result


def smallest_breaking_radius(
    network: IntegerNetwork,
    family: Family,
    seconds: float,
    names: Sequence[str] | None = None,
) -> Radius:
    """Returns the smallest radius at which the decision can be broken.

    Args:
      network: the network.
      family: the balls.
      seconds: wall-clock limit for each radius that needs a solver.
      names: backends, as in `solve`.

    Guarantees:
      `FALSIFIED` at `breaking` is replayed and `breaking - 1` is proved robust. After
      a `TIMEOUT` the smallest breaking radius is above `robust`.

    >>> from jaxsnn.sat.spec import Dense
    >>> layer = Dense(np.array([[1, 0], [0, 1]]), np.array([0, 0]))
    >>> network = IntegerNetwork((layer,), num_steps=8)
    >>> family = l1_family(np.array([1, 5]), label=0, num_steps=8)
    >>> found = smallest_breaking_radius(network, family, seconds=10.0)
    >>> found.robust, found.breaking
    (3, 4)
    """
    *_, last = climb(network, family, seconds, names)
    return last


def climb(
    network: IntegerNetwork,
    family: Family,
    seconds: float,
    names: Sequence[str] | None = None,
) -> Iterator[Radius]:
    """Yields what is known after every step of the search; the last is its outcome.

    Before the last, `result` is `UNKNOWN` and holds the seconds so far. Arguments as
    in `smallest_breaking_radius`.
    """
    started = time.monotonic()

    def known(robust: int, breaking: int | None, result: Result) -> Radius:
        elapsed = time.monotonic() - started
        return Radius(robust, breaking, dataclasses.replace(result, seconds=elapsed))

    steps = family.spike_steps
    family.query(0).check_fits(network)
    if replay.falsifies(network, family.query(0), steps):
        clean = Result(Verdict.FALSIFIED, Stage.CLEAN, counterexample=steps)
        yield known(-1, 0, clean)
        return
    robust = _proved_by_intervals(network, family)
    chunk = 1
    while robust < family.largest:
        yield known(robust, None, Result(Verdict.UNKNOWN))
        radii = range(robust + 1, min(robust + chunk, family.largest) + 1)
        queries = [family.query(radius) for radius in radii]
        for radius, result in zip(
            radii, solve_each(network, queries, seconds, names), strict=True
        ):
            if result.verdict is Verdict.FALSIFIED:
                yield known(robust, radius, result)
                return
            if result.verdict is not Verdict.ROBUST:
                yield known(robust, None, result)
                return
            robust = radius
            yield known(robust, None, Result(Verdict.UNKNOWN))
        chunk *= 2
    yield known(robust, None, Result(Verdict.ROBUST, Stage.SOLVE))


def _proved_by_intervals(network: IntegerNetwork, family: Family) -> int:
    """The largest radius that intervals prove, -1 if none: doubling, then bisection."""

    def proves(radius: int) -> bool:
        return intervals.proves(network, family.query(radius))

    # Radius 0 is more than the input itself where other limits leave room.
    if not proves(0):
        return -1
    return _largest(proves, family.largest)


def _largest(holds: Callable[[int], bool], largest: int) -> int:
    """The last value up to `largest` of a property that holds at 0 and then falls."""
    known, step = 0, 1
    while known < largest and holds(min(known + step, largest)):
        known = min(known + step, largest)
        step *= 2
    fails = min(known + step, largest + 1)
    while fails - known > 1:
        middle = (known + fails) // 2
        if holds(middle):
            known = middle
        else:
            fails = middle
    return known
