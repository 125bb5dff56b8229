"""Extreme potentials of one step, for layers with delays or responses, in NumPy int64.

What an input adds to a neuron may rise and fall after its spike, so every step at which
it may spike is looked at, one after the other; budgets are a textbook knapsack that
takes one move of each input.
"""

from collections.abc import Sequence

import numpy as np

from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import Layer


def added_after(layer: Layer, num_steps: int) -> list[np.ndarray]:
    """Returns `[N, D]` of what inputs add to neurons, for each step after a spike."""
    rows = layer.synapses()
    total = np.zeros((layer.num_outputs, layer.num_inputs), np.int64)
    added = []
    for steps in range(num_steps):
        new = rows.delays == steps
        if new.any():
            total = total.copy()
            np.add.at(total, (rows.neurons[new], rows.inputs[new]), rows.weights[new])
        added.append(total)
    return added


def extremes(
    added: Sequence[np.ndarray], low: np.ndarray, high: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest potentials `[N]` at a step.

    Args:
      added: of `added_after`.
      low: `[D]` the earliest step of each input.
      high: `[D]` the latest.
      step: at which potentials are asked for.
    """
    # An input that may still be to come adds nothing.
    outside = np.iinfo(np.int64).max
    least = np.where(high > step, 0, outside) + np.zeros_like(added[0])
    most = np.where(high > step, 0, -outside) + np.zeros_like(added[0])
    for spike in range(step + 1):
        may = (low <= spike) & (spike <= high)
        values = added[step - spike][:, may]
        least[:, may] = np.minimum(least[:, may], values)
        most[:, may] = np.maximum(most[:, may], values)
    return least.sum(axis=1), most.sum(axis=1)


def budgeted(
    added: Sequence[np.ndarray],
    query: Query,
    step: int,
    lowest: np.ndarray,
    highest: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Tightens extreme potentials `[N]` of the first layer by the budgets."""

    def value(source: int, spike: int) -> np.ndarray:
        if spike > step:
            return np.zeros(len(lowest), np.int64)
        return added[step - spike][:, source]

    sources = range(len(query.spike_steps))
    clean = [value(i, int(query.spike_steps[i])) for i in sources]
    potential = np.sum(clean, axis=0)
    for budget, by_distance in (
        (query.max_total_shift, True),
        (query.max_changed, False),
    ):
        if budget is None:
            continue
        rise = np.zeros((budget + 1, len(lowest)), np.int64)
        fall = np.zeros_like(rise)
        for i in sources:
            before_rise, before_fall = rise.copy(), fall.copy()
            for spike in range(int(query.low[i]), int(query.high[i]) + 1):
                distance = abs(spike - int(query.spike_steps[i]))
                cost = distance if by_distance else min(distance, 1)
                change = value(i, spike) - clean[i]
                if cost <= budget and change.any():
                    left = slice(0, budget + 1 - cost)
                    rise[cost:] = np.maximum(rise[cost:], before_rise[left] + change)
                    fall[cost:] = np.maximum(fall[cost:], before_fall[left] - change)
        highest = np.minimum(highest, potential + rise[budget])
        lowest = np.maximum(lowest, potential - fall[budget])
    return lowest, highest
