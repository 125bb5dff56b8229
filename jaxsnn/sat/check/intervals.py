"""Checks claimed intervals of spike steps, one level at a time, in NumPy int64.

A claim is local: given where the neurons of one level can spike, where can those of
the next? Nothing is taken from the code that made the claim; sums run along
inputs in the order of arrival where that code scatters, and budgets are a textbook
knapsack, item by item.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.sat.check import delayed
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Robust, Tie
from jaxsnn.sat.spec import IntegerNetwork, Layer

# Budgets above this are relaxed.
LARGE_BUDGET = 64


class Claim(NamedTuple):
    """Where the neurons of one level are said to spike."""

    low: np.ndarray  # [N] int64, at this step or later
    high: np.ndarray  # [N] int64, at this step or before


def check_intervals(
    network: IntegerNetwork, query: Query, claims: Sequence[Claim]
) -> None:
    """Confirms that every admissible input spikes within the claimed intervals.

    Args:
      network: the network.
      query: the ball; its windows are the intervals of the inputs.
      claims: one for each layer, the outputs last.

    Raises:
      ProofError: naming the first layer and neuron whose claim does not follow.
    """
    if len(claims) != len(network.layers):
        raise ProofError(
            f"intervals of {len(claims)} layers for {len(network.layers)} layers"
        )
    before = Claim(query.low, query.high)
    last = network.num_steps - 1
    for depth, claim in enumerate(claims):
        surely = _next_level(network, query, depth, before)
        if claim.low.shape != surely.low.shape or claim.high.shape != surely.low.shape:
            raise ProofError(f"layer {depth}: intervals of another number of neurons")
        wrong = (claim.low > surely.low) | (claim.high < surely.high)
        wrong |= (claim.low < 0) | (claim.low > last)
        if wrong.any():
            neuron = int(wrong.argmax())
            raise ProofError(
                f"layer {depth}, neuron {neuron}: the interval {claim.low[neuron]} .. "
                f"{claim.high[neuron]} does not follow from the level before"
            )
        before = claim


def find_outputs(network: IntegerNetwork, query: Query) -> Claim:
    """Returns intervals of the outputs that need no confirmation.

    Args:
      network: the network.
      query: the ball.
    """
    level = Claim(query.low, query.high)
    for depth in range(len(network.layers)):
        level = _next_level(network, query, depth, level)
    return level


def _next_level(
    network: IntegerNetwork, query: Query, depth: int, before: Claim
) -> Claim:
    """The narrowest claim about one layer that follows from the level before."""
    layer, last = network.layers[depth], network.num_steps - 1
    steps = range(last - layer.delay)  # later ones lead to the last step anyway
    if layer.synapses().instant:
        lowest, highest = _extremes(_dense(layer), query, depth, before, steps)
    else:
        lowest, highest = _delayed_extremes(network, query, depth, before, steps)
    thresholds = layer.synapses().thresholds[:, None]
    return Claim(
        _first(highest > thresholds, layer.delay, last),
        _first(lowest > thresholds, layer.delay, last),
    )


def _first(crossed: np.ndarray, delay: int, last: int) -> np.ndarray:
    """Steps `[N]` of the spikes, `[N, T]` given where a threshold is crossed."""
    if crossed.shape[1] == 0:
        return np.full(len(crossed), last)
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + delay, last)


def _extremes(
    weights: np.ndarray, query: Query, depth: int, before: Claim, steps: range
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest potentials `[N, T]` of a layer without delays."""
    lowest, highest = _potentials(weights, before, steps)
    if depth > 0:
        return lowest, highest
    if query.max_total_shift is not None or query.max_changed is not None:
        clean = _arrived(weights, query.spike_steps, steps)
        for step in steps:
            fall, rise = _changes(weights, query, step)
            lowest[:, step] = np.maximum(lowest[:, step], clean[:, step] - fall)
            highest[:, step] = np.minimum(highest[:, step], clean[:, step] + rise)
    if query.max_dropped or query.max_inserted:
        for step in steps:
            fall, rise = _failures(weights, query, step)
            lowest[:, step] -= fall
            highest[:, step] += rise
    return lowest, highest


def _delayed_extremes(
    network: IntegerNetwork, query: Query, depth: int, before: Claim, steps: range
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest potentials `[N, T]` of a layer with delays."""
    added = delayed.added_after(network.layers[depth], network.num_steps)
    failing = bool(query.max_dropped or query.max_inserted)
    largest = max(query.max_total_shift or 0, query.max_changed or 0)
    lowest = np.zeros((network.layers[depth].num_outputs, len(steps)), np.int64)
    highest = lowest.copy()
    for step in steps:
        if depth == 0 and failing:
            pair = delayed.extremes(added, query.earliest, query.latest, step)
        else:
            pair = delayed.extremes(added, *before, step)
            if depth == 0 and largest <= LARGE_BUDGET:
                pair = delayed.budgeted(added, query, step, *pair)
        lowest[:, step], highest[:, step] = pair
    return lowest, highest


def check_decided(query: Query, runs: Sequence[Claim]) -> None:
    """Confirms that what is required holds anywhere within the output intervals.

    Args:
      query: the query.
      runs: the outputs; those of the other network second where two are compared.

    Raises:
      ProofError: saying what may fail, for robustness by which class.
    """
    outputs = runs[0]
    match query.requires:
        case Robust():
            _check_robust(query, outputs)
        case Latency(max_step, of_label):
            latest = outputs.high[query.label] if of_label else min(outputs.high)
            if latest > max_step:
                raise ProofError(f"the decision may come as late as step {latest}")
        case Monotone(_, output):
            if outputs.low[output] != outputs.high[output]:
                raise ProofError(f"output {output} may spike at several steps")
        case Alike():
            winners = [_sure_winners(query.tie, run) for run in runs]
            if not set.intersection(*winners):
                raise ProofError("no class is surely first in both networks")


def _sure_winners(tie: Tie, outputs: Claim) -> set[int]:
    """The classes that are first whatever the steps within the intervals."""
    winners = set()
    for one, latest in enumerate(outputs.high):
        for other, earliest in enumerate(outputs.low):
            strictly = tie is Tie.ADVERSARIAL or (tie is Tie.ARGMIN and other < one)
            if other != one and (
                earliest < latest or (strictly and earliest == latest)
            ):
                break
        else:
            winners.add(one)
    return winners


def _check_robust(query: Query, outputs: Claim) -> None:
    latest = outputs.high[query.label]
    for other, earliest in enumerate(outputs.low):
        if other == query.label or query.target not in (None, other):
            continue
        ties = query.tie is Tie.ADVERSARIAL or (
            query.tie is Tie.ARGMIN and other < query.label
        )
        if earliest < latest or (ties and earliest == latest):
            raise ProofError(
                f"class {other} may spike at step {earliest}, the label {query.label} "
                f"as late as {latest}"
            )


def _dense(layer: Layer) -> np.ndarray:
    rows = layer.synapses()
    weights = np.zeros((layer.num_outputs, layer.num_inputs), np.int64)
    np.add.at(weights, (rows.neurons, rows.inputs), rows.weights)
    return weights


def _arrived(weights: np.ndarray, arrivals: np.ndarray, steps: range) -> np.ndarray:
    """Sums `[N, T]` of the weights that have arrived by each step."""
    order = np.argsort(arrivals, kind="stable")
    order = order[: np.searchsorted(arrivals[order], len(steps))]
    running = np.cumsum(weights[:, order], axis=1)
    running = np.concatenate([np.zeros((len(weights), 1), np.int64), running], axis=1)
    return running[:, np.searchsorted(arrivals[order], steps, side="right")]


def _potentials(
    weights: np.ndarray, inputs: Claim, steps: range
) -> tuple[np.ndarray, np.ndarray]:
    """Extreme potentials `[N, T]` when each input spikes within its interval."""
    exciting, inhibiting = np.maximum(weights, 0), np.minimum(weights, 0)
    return (
        _arrived(exciting, inputs.high, steps)
        + _arrived(inhibiting, inputs.low, steps),
        _arrived(exciting, inputs.low, steps)
        + _arrived(inhibiting, inputs.high, steps),
    )


def _changes(
    weights: np.ndarray, query: Query, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """How far changes within the budgets lower and raise potentials, `[N]` each."""
    clean = query.spike_steps
    come = clean <= step
    # An input crosses this step by leaving (it had come) or by coming sooner.
    crosses = np.flatnonzero(np.where(come, query.high > step, query.low <= step))
    change = np.where(come[crosses], -weights[:, crosses], weights[:, crosses])
    distance = np.where(come, step + 1 - clean, clean - step)[crosses]
    falls, rises = [], []
    for budget, costs in (
        (query.max_total_shift, distance),
        (query.max_changed, np.ones_like(distance)),
    ):
        if budget is not None:
            falls.append(_knapsack(np.maximum(-change, 0), costs, budget))
            rises.append(_knapsack(np.maximum(change, 0), costs, budget))
    return np.minimum.reduce(falls), np.minimum.reduce(rises)


def _failures(
    weights: np.ndarray, query: Query, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """What failing inputs take from and add to extreme potentials, `[N]` each.

    A failing input gives up what it was counted for: its best place in its window, or
    under a budget its clean one, as the budget's moves may all be those of others.
    """
    fall = np.zeros(len(weights), np.int64)
    rise = fall.copy()
    clean, silent = query.spike_steps, query.silent_step
    budgeted = query.max_total_shift is not None or query.max_changed is not None
    certain = (clean if budgeted else query.high) <= step
    possible = (clean if budgeted else query.low) <= step
    for limit, fails, arrives in (
        (query.max_dropped, clean != silent, step == silent),
        (query.max_inserted, clean == silent, True),
    ):
        if not limit:
            continue
        leaves = step == silent  # where everything has come
        for sign, total in ((1, rise), (-1, fall)):
            signed = sign * weights[:, fails]
            held = np.maximum(signed * certain[fails], signed * possible[fails])
            failed = np.maximum(signed * arrives, signed * leaves)
            more = np.sort(np.maximum(failed - held, 0), axis=1)
            total += more[:, max(more.shape[1] - limit, 0) :].sum(axis=1)
    return fall, rise


def _knapsack(values: np.ndarray, costs: np.ndarray, budget: int) -> np.ndarray:
    """The best total value a row within the budget; item by item.

    A large budget is spent on the best values for their cost, the last one in part.
    """
    affordable = costs <= budget
    values, costs = values[:, affordable], costs[affordable]
    if costs.sum() <= budget:
        return values.sum(axis=1)
    if (costs == 1).all():  # the most valuable ones
        kept = max(values.shape[1] - budget, 0)
        return np.sort(values, axis=1)[:, kept:].sum(axis=1)
    if budget > LARGE_BUDGET:
        total = np.zeros(len(values), np.int64)
        for row, worth in enumerate(values):
            left = budget
            # Exact enough: ratios of such integers differ by more than floats round.
            for item in np.argsort(-worth / costs).tolist():
                spent = min(left, int(costs[item]))
                total[row] += worth[item] * spent // costs[item]
                left -= spent
        return total
    best = np.zeros((budget + 1, len(values)), np.int64)
    for cost in np.unique(costs).tolist():
        items = values[:, costs == cost]
        if (most := budget // cost) < items.shape[1]:  # no more of them are affordable
            items = np.partition(items, -most, axis=1)[:, -most:]
        for worth in items.T:
            best[cost:] = np.maximum(best[cost:], best[:-cost] + worth)
    return best[budget]
