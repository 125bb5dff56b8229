"""Interval propagation of spike steps in plain NumPy int64, one example.

The oracle of the batched bounds, the checker of their certificates, and the source
of the constants in the encodings. Every interval is sound: for each admissible input
the spike step of neuron `n` lies in `low[n] .. high[n]`.
"""

from typing import NamedTuple

import numpy as np

from jaxsnn.sat import contributions
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork, Layer


class Interval(NamedTuple):
    """Spike steps of one level."""

    low: np.ndarray  # [N] int64, the earliest possible step
    high: np.ndarray  # [N] int64, the latest possible step


def propagate(network: IntegerNetwork, query: Query) -> list[Interval]:
    """Returns intervals of the spike steps of every level, the inputs first.

    The first layer takes the query's budgets into account: for each neuron and step
    the largest change of its potential within the budget is a small knapsack, solved
    exactly; a neuron's interval ignores that others share the budget.
    """
    levels = [Interval(query.low, query.high)]
    for depth, layer in enumerate(network.layers):
        if depth == 0:
            lowest, highest = input_potentials(layer, query, network.num_steps)
        else:
            lowest, highest = _potentials(layer, levels[-1], network.num_steps)
        threshold = layer.synapses().thresholds[:, None]
        levels.append(
            Interval(
                low=_spike_steps(highest > threshold, layer.delay),
                high=_spike_steps(lowest > threshold, layer.delay),
            )
        )
    return levels


def decided(intervals: list[Interval], query: Query) -> bool:
    """Whether the output intervals alone prove that the decision stands."""
    outputs = intervals[-1]
    latest = int(outputs.high[query.label])
    beaten = outputs.low < latest + query.tolerance(len(outputs.low))
    beaten[query.label] = False
    if query.target is not None:
        return not beaten[query.target]
    return not beaten.any()


def _spike_steps(crossed: np.ndarray, delay: int) -> np.ndarray:
    last = crossed.shape[1] - 1
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), last)
    return np.minimum(first + delay, last)


def _accumulate(
    layer: Layer, steps: np.ndarray, weights: np.ndarray, num_steps: int
) -> np.ndarray:
    """`[N, T]` sums of synaptic weights that have arrived, given arrival steps."""
    synapses = layer.synapses()
    arrivals = np.zeros((layer.num_outputs, num_steps), np.int64)
    np.add.at(arrivals, (synapses.neurons, steps), weights)
    return np.cumsum(arrivals, axis=1)


def _potentials(
    layer: Layer, inputs: Interval, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest potentials `[N, T]` when each input moves in its interval."""
    synapses = layer.synapses()
    if not synapses.instant:
        return contributions.potential_range(layer, inputs.low, inputs.high, num_steps)
    early, late = inputs.low[synapses.inputs], inputs.high[synapses.inputs]
    excites = synapses.weights > 0
    lowest = np.where(excites, late, early)
    highest = np.where(excites, early, late)
    return (
        _accumulate(layer, lowest, synapses.weights, num_steps),
        _accumulate(layer, highest, synapses.weights, num_steps),
    )


def input_potentials(
    layer: Layer, query: Query, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest potentials of the first layer, each `[N, T]`.

    Each bound is attained by some admissible input, as long as the query has at most
    one kind of budget; with both, each is relaxed in turn and the tighter one kept.
    """
    lowest, highest = _potentials(layer, Interval(query.low, query.high), num_steps)
    if query.max_total_shift is None and query.max_changed is None:
        return lowest, highest
    synapses = layer.synapses()
    if not synapses.instant:
        least, most = contributions.within_budget(layer, query, num_steps)
        return np.maximum(lowest, least), np.minimum(highest, most)
    clean = _accumulate(
        layer, query.spike_steps[synapses.inputs], synapses.weights, num_steps
    )
    weights = np.zeros((layer.num_outputs, layer.num_inputs), np.int64)
    weights[synapses.neurons, synapses.inputs] = synapses.weights
    for step in range(num_steps):
        # Moving input i across this step costs `cost[i]` steps and adds `sign * w`.
        arrived = query.spike_steps <= step
        free = np.flatnonzero(np.where(arrived, query.high > step, query.low <= step))
        arrived, steps = arrived[free], query.spike_steps[free]
        cost = np.where(arrived, step + 1 - steps, steps - step)
        change = np.where(arrived, -weights[:, free], weights[:, free])
        for sign, bound in ((1, highest), (-1, lowest)):
            gains = np.maximum(sign * change, 0)
            best = np.full(layer.num_outputs, np.iinfo(np.int64).max)
            if query.max_total_shift is not None:
                best = _best_gain(gains, cost, query.max_total_shift)
            if query.max_changed is not None:
                unit = np.ones_like(cost)
                best = np.minimum(best, _best_gain(gains, unit, query.max_changed))
            within = clean[:, step] + sign * best
            tighter = np.minimum if sign > 0 else np.maximum
            bound[:, step] = tighter(bound[:, step], within)
    return lowest, highest


def _best_gain(gains: np.ndarray, costs: np.ndarray, budget: int) -> np.ndarray:
    """Solves one 0/1 knapsack a row: `[N, K]` gains, `[K]` costs of at least 1."""
    best = np.zeros((budget + 1, len(gains)), np.int64)
    for cost in range(1, budget + 1):
        items = gains[:, costs == cost]
        most = min(budget // cost, items.shape[1])
        if most == 0:
            continue
        # Of equally costly items only the most valuable are ever taken.
        top = -np.sort(-items, axis=1)[:, :most]
        taken = np.cumsum(top, axis=1)
        improved = best.copy()
        for count in range(1, most + 1):
            spent = count * cost
            candidate = best[: budget + 1 - spent] + taken[:, count - 1]
            improved[spent:] = np.maximum(improved[spent:], candidate)
        best = improved
    return best[budget]
