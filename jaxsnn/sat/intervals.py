"""Interval propagation of spike steps in plain NumPy int64, one example.

The oracle of the batched bounds, the checker of their certificates, and the source
of the constants in the encodings. Every interval is sound: for each admissible input
the spike step of neuron `n` lies in `low[n] .. high[n]`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.sat import contributions
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Tie
from jaxsnn.sat.response import STEP
from jaxsnn.sat.spec import Dense, IntegerNetwork, Layer

# The largest total shift within which the best moves are found exactly.
MAX_EXACT_BUDGET = 64


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
    levels = [Interval(query.earliest, query.latest)]
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


def runs(network: IntegerNetwork, query: Query) -> list[list[Interval]]:
    """Returns the intervals of every run that the query compares.

    One for most requirements; for `Alike` those of the other network come second.
    Both runs of `Monotone` have the same.
    """
    networks = [network]
    if isinstance(query.requires, Alike):
        networks.append(query.requires.other)
    return [propagate(each, query) for each in networks]


def proves(network: IntegerNetwork, query: Query) -> bool:
    """Whether intervals alone prove what the query requires."""
    return decided([levels[-1] for levels in runs(network, query)], query)


def decided(outputs: Sequence[Interval], query: Query) -> bool:
    """Whether the output intervals of each run prove what the query requires."""
    ours = outputs[0]
    match query.requires:
        case Latency(max_step, of_label):
            latest = ours.high[query.label] if of_label else ours.high.min()
            return bool(latest <= max_step)
        case Monotone(_, output):
            return bool(ours.low[output] == ours.high[output])
        case Alike():
            return _alike(query.tie, *outputs)
    latest = int(ours.high[query.label])
    beaten = ours.low < latest + query.tolerance(len(ours.low))
    beaten[query.label] = False
    if query.target is not None:
        return not beaten[query.target]
    return not beaten.any()


def _alike(tie: Tie, ours: Interval, theirs: Interval) -> bool:
    """Whether one class is surely first in both, as the reading of ties wants it."""
    classes = np.arange(len(ours.low))
    later: dict[Tie, int | np.ndarray] = {
        Tie.ADVERSARIAL: 1,  # alone
        Tie.ARGMIN: (classes[None, :] < classes[:, None]).astype(int),
        Tie.S4NN: 0,
    }
    first = np.ones(len(classes), bool)
    for low, high in (ours, theirs):
        before = high[:, None] + later[tie] <= low[None, :]
        np.fill_diagonal(before, True)
        first &= before.all(axis=1)
    return bool(first.any())


def _spike_steps(crossed: np.ndarray, delay: int) -> np.ndarray:
    last = crossed.shape[1] - 1
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), last)
    return np.minimum(first + delay, last)


def _accumulate(
    layer: Layer, steps: np.ndarray, weights: np.ndarray, num_steps: int
) -> np.ndarray:
    """`[N, T]` sums of synaptic weights that have arrived, given arrival steps."""
    cells = layer.synapses().neurons * num_steps + steps
    return _running_sums(cells, weights, (layer.num_outputs, num_steps))


def _running_sums(
    cells: np.ndarray, weights: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """`[N, T]` sums over time of weights that arrive in cells, `T` for each neuron."""
    # In float64, where these sums are exact (`spec.MAX_EXACT_SUM`).
    arrivals = np.bincount(cells, weights, minlength=math.prod(shape))
    return np.cumsum(arrivals.reshape(shape).astype(np.int64), axis=1)


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
    one kind of budget, or inputs that may fail and none; with more, each is relaxed in
    turn and the tighter one kept. In layers with delays any number of the inputs that
    may fail does, free of budgets. At steps from which a spike would be no sooner than
    the forced one, bounds are whatever is easy.
    """
    synapses = layer.synapses()
    budgeted = query.max_total_shift is not None or query.max_changed is not None
    failing = query.max_dropped > 0 or query.max_inserted > 0
    if failing and not synapses.instant:
        anywhere = Interval(query.earliest, query.latest)
        return _potentials(layer, anywhere, num_steps)
    if not (budgeted and synapses.instant):
        window = Interval(query.low, query.high)
        lowest, highest = _potentials(layer, window, num_steps)
    if not (budgeted or failing):
        return lowest, highest
    if not synapses.instant:
        if max(query.max_total_shift or 0, query.max_changed or 0) > MAX_EXACT_BUDGET:
            return lowest, highest
        least, most = contributions.within_budget(layer, query, num_steps)
        return np.maximum(lowest, least), np.minimum(highest, most)
    weights = _matrix(layer)
    if budgeted:  # moves within windows alone would reach no farther
        lowest = _arrived(weights, query.spike_steps, num_steps)
        highest = lowest.copy()
    # A crossing from then on leads to the last step, as none at all does.
    in_time = max(num_steps - 1 - layer.delay, 0)
    reach = np.abs(weights).sum(axis=1, keepdims=True)
    lowest[:, in_time:], highest[:, in_time:] = -reach, reach
    for step in range(in_time):
        if budgeted:
            rise, fall = _shift_gains(weights, query, step)
            highest[:, step] += rise
            lowest[:, step] -= fall
        if failing:
            highest[:, step] += _failure_gain(weights, query, step, budgeted)
            lowest[:, step] -= _failure_gain(-weights, query, step, budgeted)
    return lowest, highest


def _matrix(layer: Layer) -> np.ndarray:
    """What spikes add to potentials, `[N, D]`, in a layer without delays."""
    if isinstance(layer, Dense) and layer.response == STEP:
        return layer.weights
    synapses = layer.synapses()
    weights = np.zeros((layer.num_outputs, layer.num_inputs), np.int64)
    weights[synapses.neurons, synapses.inputs] = synapses.weights
    return weights


def _arrived(weights: np.ndarray, steps: np.ndarray, num_steps: int) -> np.ndarray:
    """`[N, T]` sums of the weights of inputs that have spiked."""
    soon = np.flatnonzero(steps < num_steps - 1)
    cells = np.arange(len(weights))[:, None] * num_steps + steps[soon]
    shape = len(weights), num_steps
    sums = _running_sums(cells.ravel(), weights[:, soon].ravel(), shape)
    sums[:, -1] = weights.sum(axis=1)
    return sums


def _shift_gains(
    weights: np.ndarray, query: Query, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """The most that moves within windows and budgets add to and take from `[N]`."""
    # Moving input i across this step costs `cost[i]` steps and adds or takes away `w`.
    arrived = query.spike_steps <= step
    free = np.flatnonzero(np.where(arrived, query.high > step, query.low <= step))
    steps = query.spike_steps
    cost = np.where(arrived, step + 1 - steps, steps - step)
    if query.max_total_shift is not None:
        free = free[cost[free] <= query.max_total_shift]
    arrived, cost = arrived[free], cost[free]
    gains = weights[:, free] * np.where(arrived, -1, 1)
    return _best_shift(gains, cost, query), _best_shift(-gains, cost, query)


def _best_shift(gains: np.ndarray, cost: np.ndarray, query: Query) -> np.ndarray:
    gains = np.maximum(gains, 0)
    found = []
    if query.max_total_shift is not None:
        found.append(_best_gain(gains, cost, query.max_total_shift))
    if query.max_changed is not None:
        found.append(_best_gain(gains, np.ones_like(cost), query.max_changed))
    return np.minimum.reduce(found)


def _failure_gain(
    weights: np.ndarray, query: Query, step: int, budgeted: bool
) -> np.ndarray:
    """The most that failures add to each `[N]` potential, moves counted already."""
    total = np.zeros(len(weights), np.int64)
    if step == query.silent_step:  # everything has come
        return total
    arrived = query.spike_steps <= step
    for sign, failing, limit in (
        (-1, query.can_drop & arrived, query.max_dropped),  # a spike is missing
        (1, query.can_insert, query.max_inserted),  # one more may have come
    ):
        inputs = np.flatnonzero(failing)
        if limit == 0 or len(inputs) == 0:
            continue
        gain = np.maximum(sign * weights[:, inputs], 0)
        if not budgeted:  # the same input was moved to its best already
            low, high = query.low[inputs], query.high[inputs]
            gain[:, (high > step) if sign < 0 else (low <= step)] = 0
        kept = max(len(inputs) - limit, 0)
        total += np.partition(gain, kept - 1, axis=1)[:, kept:].sum(axis=1)
    return total


def _best_gain(gains: np.ndarray, costs: np.ndarray, budget: int) -> np.ndarray:
    """Solves one 0/1 knapsack a row: `[N, K]` gains, `[K]` costs of at least 1.

    Where the budget is large, the last item is cut to fit, which bounds from above.
    """
    if budget >= costs.sum():
        return gains.sum(axis=1)
    if budget > MAX_EXACT_BUDGET and (costs > 1).any():
        return _best_gain_with_parts(gains, costs, budget)
    best = np.zeros((budget + 1, len(gains)), np.int64)
    for cost in range(1, budget + 1):
        items = gains[:, costs == cost]
        most = min(budget // cost, items.shape[1])
        if most == 0:
            continue
        # Of equally costly items only the most valuable are ever taken.
        if most == 1:
            top = items.max(axis=1, keepdims=True)
        else:
            if most < items.shape[1]:
                items = np.partition(items, -most, axis=1)[:, -most:]
            top = -np.sort(-items, axis=1)
        taken = np.cumsum(top, axis=1)
        improved = best.copy()
        for count in range(1, most + 1):
            spent = count * cost
            candidate = best[: budget + 1 - spent] + taken[:, count - 1]
            improved[spent:] = np.maximum(improved[spent:], candidate)
        best = improved
    return best[budget]


def _best_gain_with_parts(
    gains: np.ndarray, costs: np.ndarray, budget: int
) -> np.ndarray:
    """The best gain if one item may be cut to fit: the most valuable steps first."""
    # Exact enough: ratios of such integers differ by more than floats round.
    order = np.argsort(-gains / costs, axis=1, kind="stable")
    ordered = np.take_along_axis(gains, order, axis=1)
    price = costs[order]
    left = np.clip(budget - (np.cumsum(price, axis=1) - price), 0, price)
    whole = left == price
    return (ordered * whole).sum(axis=1) + ((~whole * ordered * left) // price).sum(
        axis=1
    )
