"""Potentials of layers with delays or responses, when inputs move: exact ranges.

Several synapses of one input move together, so what counts is the joint contribution
of an input to a neuron, which may rise and fall with time. Everything is exact for
each neuron and step alone, like the intervals of instant layers.
"""

from collections.abc import Iterator

import numpy as np

from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import Layer

# Neurons that hear of an input, and `[M, T]` what it adds to their potentials at each
# step after its spike.
Contribution = tuple[np.ndarray, np.ndarray]


def contributions(layer: Layer, num_steps: int) -> Iterator[tuple[int, Contribution]]:
    """Yields for each input that has synapses its index and its contribution."""
    synapses = layer.synapses()
    in_time = np.flatnonzero(synapses.delays < num_steps)
    order = in_time[np.argsort(synapses.inputs[in_time], kind="stable")]
    inputs, starts = np.unique(synapses.inputs[order], return_index=True)
    every_neuron = synapses.neurons
    groups = np.split(order, starts[1:])
    for source, rows in zip(inputs, groups, strict=False):  # one empty, if no inputs
        neurons, index = np.unique(every_neuron[rows], return_inverse=True)
        changes = np.zeros((len(neurons), num_steps), np.int64)
        np.add.at(changes, (index, synapses.delays[rows]), synapses.weights[rows])
        yield int(source), (neurons, np.cumsum(changes, axis=1))


def _spiking_at(profile: np.ndarray, step: int) -> np.ndarray:
    """What is added at every step when the input spikes at `step`."""
    shifted = np.zeros_like(profile)
    shifted[:, step:] = profile[:, : profile.shape[1] - step]
    return shifted


def potential_range(
    layer: Layer, low: np.ndarray, high: np.ndarray, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest potentials, each `[N, T]` int64.

    Args:
      layer: the layer.
      low: `[D]` the earliest step of each input.
      high: `[D]` the latest.
      num_steps: `T`.
    """
    lowest = np.zeros((layer.num_outputs, num_steps), np.int64)
    highest = np.zeros_like(lowest)
    for source, (neurons, profile) in contributions(layer, num_steps):
        added = _spiking_at(profile, int(low[source]))
        least, most = added, added
        for step in range(int(low[source]) + 1, int(high[source]) + 1):
            added = _spiking_at(profile, step)
            least, most = np.minimum(least, added), np.maximum(most, added)
        lowest[neurons] += least
        highest[neurons] += most
    return lowest, highest


def within_budget(
    layer: Layer, query: Query, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest potentials when inputs move within the budgets.

    A knapsack for each neuron and step: of each input one move is taken, which costs
    its distance (`max_total_shift`) or one (`max_changed`). With both budgets, each is
    relaxed in turn and the tighter bound kept.
    """
    clean = np.zeros((layer.num_outputs, num_steps), np.int64)
    budgets = [
        (budget, by_distance)
        for budget, by_distance in (
            (query.max_total_shift, True),
            (query.max_changed, False),
        )
        if budget is not None
    ]
    shape = (*clean.shape,)
    # best[k][sign][c]: the most that moves of total cost c or less add (or take away).
    best = [np.zeros((2, budget + 1, *shape), np.int64) for budget, _ in budgets]
    for source, (neurons, profile) in contributions(layer, num_steps):
        start = int(query.spike_steps[source])
        unmoved = _spiking_at(profile, start)
        clean[neurons] += unmoved
        window = range(int(query.low[source]), int(query.high[source]) + 1)
        moves = {
            step - start: _spiking_at(profile, step) - unmoved
            for step in window
            if step != start
        }
        for table, (budget, by_distance) in zip(best, budgets, strict=True):
            gains: dict[int, np.ndarray] = {}
            for shift, change in moves.items():
                cost = abs(shift) if by_distance else 1
                if cost <= budget:
                    both = np.stack([change, -change])
                    gains[cost] = np.maximum(gains.get(cost, both), both)
            old = table[:, :, neurons]
            new = old.copy()
            for cost, gain in gains.items():
                taken = old[:, : budget + 1 - cost] + gain[:, None]
                np.maximum(new[:, cost:], taken, out=new[:, cost:])
            table[:, :, neurons] = new
    most = np.min([table[0, -1] for table in best], axis=0)
    least = np.min([table[1, -1] for table in best], axis=0)
    return clean - least, clean + most
