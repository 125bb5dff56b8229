"""Checks that an L1 ball was split without a gap, and that intervals prove each part.

A move takes one input one step from the centre. Where it is made, the rest of the
budget is one smaller around the moved centre, and the input stays on that side; where
it is not, the input does not leave the centre to that side. There is no third case,
whatever the moves are and in whichever order they come.
"""

import dataclasses
import json
from typing import Any

from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.intervals import check_decided, find_outputs
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Robust
from jaxsnn.sat.spec import IntegerNetwork


def check_split(network: IntegerNetwork, query: Query, text: str) -> int:
    """Confirms that a query is robust by a split of its ball.

    Args:
      network: the network.
      query: robustness within a total shift.
      text: the split as JSON: a list of `[input, direction, split of this part]`, empty
        where intervals prove the ball.

    Returns:
      The number of balls whose intervals were checked.

    Raises:
      ProofError: it is no such split, or a part does not follow.
    """
    plain = (
        isinstance(query.requires, Robust)
        and query.max_total_shift is not None
        and query.max_changed is None
        and not (query.max_dropped or query.max_inserted)
    )
    if not plain:
        raise ProofError("only total shifts are split")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise ProofError("the split is no JSON") from None
    return _check(network, query, tree)


def _check(network: IntegerNetwork, query: Query, tree: Any) -> int:
    if type(tree) is not list:
        raise ProofError("a split must be a list of moves")
    count = 0
    low, high = query.low.copy(), query.high.copy()
    left = query.max_total_shift
    assert left is not None
    for entry in tree:
        if type(entry) is not list or len(entry) != 3:
            raise ProofError(f"{str(entry)[:40]} is no move with its part")
        index, direction, below = entry
        if type(index) is not int or not 0 <= index < len(low):
            raise ProofError(f"{index} is no input")
        if direction not in (-1, 1) or type(direction) is not int:
            raise ProofError(f"{direction} is no direction")
        here = int(query.spike_steps[index])
        moved = here + direction
        if left < 1 or not low[index] <= moved <= high[index]:
            raise ProofError(f"input {index} cannot move to step {moved}")
        steps, lowest, highest = query.spike_steps.copy(), low.copy(), high.copy()
        steps[index] = moved
        if direction < 0:
            highest[index], low[index] = moved, here
        else:
            lowest[index], high[index] = moved, here
        part = dataclasses.replace(
            query,
            spike_steps=steps,
            low=lowest,
            high=highest,
            max_total_shift=left - 1,
        )
        count += _check(network, part, below)
    rest = dataclasses.replace(query, low=low, high=high)
    check_decided(rest, [find_outputs(network, rest)])
    return count + 1
