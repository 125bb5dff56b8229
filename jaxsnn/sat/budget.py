"""What a total budget leaves of a weighted sum.

An input that moves spends part of the budget, and so does each order literal that
thereby differs from the unperturbed input: a literal further off costs more. Within
the budget only few literals of a sum can differ at once, so that most of them cannot
tip it, whatever the others do; these keep their unperturbed value.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Flip(NamedTuple):
    """What it takes that a variable differs from the unperturbed input."""

    literal: int  # the one that holds then
    cost: int  # least share of the budget
    input: int  # flips of one input are not independent


class Budget(NamedTuple):
    """A limit on the cost of all flips together.

    Attributes:
      limit: the largest total.
      flips: by variable.
    """

    limit: int
    flips: dict[int, Flip]

    def of(self, lits: Sequence[int]) -> list[Flip] | None:
        """Returns the flip of each literal, or None if costs do not just add up."""
        flips = [self.flips.get(abs(lit)) for lit in lits]
        found = [flip for flip in flips if flip is not None]
        independent = len({flip.input for flip in found}) == len(flips)
        return found if independent else None


def relevant(
    weights: Sequence[int], lits: Sequence[int], bound: int, budget: Budget
) -> list[bool]:
    """Returns for each term of `sum weight * lit >= bound` whether it can matter.

    Args:
      weights: positive.
      lits: literals that differ from each other in more than their sign.
      bound: of the sum.
      budget: what the literals cost.

    Guarantees:
      As long as the budget holds, the sum reaches its bound if and only if it does
      with all other terms at their unperturbed values.

    >>> flips = {v: Flip(v, cost=1, input=v) for v in (1, 2, 3)}
    >>> relevant((5, 3, 1), (1, 2, 3), 8, Budget(2, flips))
    [True, True, False]
    """
    flips = budget.of(lits)
    if flips is None:
        return [True] * len(lits)
    comes = np.array([flip.literal for flip in flips]) == np.array(lits)
    cost = np.array([flip.cost for flip in flips])
    gain = np.where(comes, weights, -np.array(weights))
    missing = bound - int(np.array(weights)[~comes].sum())
    if missing <= 0:  # it is reached: ask what takes it away
        gain, missing = -gain, 1 - missing
    best = _best_gains(np.maximum(gain, 0), cost, budget.limit)
    affordable = cost <= budget.limit
    with_others = best[np.where(affordable, budget.limit - cost, 0)]
    # A helpful term must reach it with others, a harmful one spoil what others reach.
    matters = with_others + np.maximum(gain, 0) >= missing
    return (affordable & matters).tolist()


def _best_gains(gain: np.ndarray, cost: np.ndarray, limit: int) -> np.ndarray:
    """Returns the largest total gain for every budget `0 .. limit`."""
    best = np.zeros(limit + 1, np.int64)
    for price in range(1, limit + 1):
        items = -np.sort(-gain[cost == price])[: limit // price]
        improved = best.copy()
        for count, total in enumerate(np.cumsum(items), start=1):
            spent = count * price
            improved[spent:] = np.maximum(improved[spent:], best[:-spent] + total)
        best = improved
    return best
