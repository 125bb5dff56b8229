"""Checks claimed intervals of spike steps, one level at a time, in NumPy int64.

A claim is local: given where the neurons of one level can spike, where can those of
the next? Nothing is taken from the code that made the claim; sums are matrix
products where that code scatters, budgets a textbook knapsack where it sorts.
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
    for depth, (layer, claim) in enumerate(zip(network.layers, claims, strict=True)):
        if claim.low.shape != (layer.num_outputs,) or claim.high.shape != (
            layer.num_outputs,
        ):
            raise ProofError(f"layer {depth}: intervals of another number of neurons")
        instant = layer.synapses().instant
        weights = _dense(layer) if instant else np.zeros((0, 0), np.int64)
        added = [] if instant else delayed.added_after(layer, network.num_steps)
        thresholds = layer.synapses().thresholds
        surely = np.full(layer.num_outputs, last)
        too_early = np.zeros(layer.num_outputs, bool)
        for step in range(network.num_steps):
            if instant:
                lowest, highest = _potentials(weights, before, step)
                if depth == 0:
                    lowest, highest = _budgeted(weights, query, step, lowest, highest)
                    fall, rise = _failures(weights, query, step)
                    lowest, highest = lowest - fall, highest + rise
            elif depth == 0 and (query.max_dropped or query.max_inserted):
                hull = query.earliest, query.latest
                lowest, highest = delayed.extremes(added, *hull, step)
            else:
                lowest, highest = delayed.extremes(added, *before, step)
                limits = query.max_total_shift, query.max_changed
                if depth == 0 and max(limit or 0 for limit in limits) <= LARGE_BUDGET:
                    bounds = delayed.budgeted(added, query, step, lowest, highest)
                    lowest, highest = bounds
            spike = min(step + layer.delay, last)
            too_early |= (highest > thresholds) & (spike < claim.low)
            surely = np.where(lowest > thresholds, np.minimum(surely, spike), surely)
        wrong = too_early | (surely > claim.high) | (claim.low < 0) | (claim.low > last)
        if wrong.any():
            neuron = int(wrong.argmax())
            raise ProofError(
                f"layer {depth}, neuron {neuron}: the interval {claim.low[neuron]} .. "
                f"{claim.high[neuron]} does not follow from the level before"
            )
        before = claim


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


def _potentials(
    weights: np.ndarray, inputs: Claim, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Extreme potentials `[N]` at a step: some inputs have arrived, some may have."""
    certain = inputs.high <= step
    arrived = weights[:, certain].sum(axis=1)
    open_weights = weights[:, (inputs.low <= step) & ~certain]
    return (
        arrived + np.minimum(open_weights, 0).sum(axis=1),
        arrived + np.maximum(open_weights, 0).sum(axis=1),
    )


def _budgeted(
    weights: np.ndarray,
    query: Query,
    step: int,
    lowest: np.ndarray,
    highest: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Tightens extreme potentials `[N]` of the first layer by the budgets."""
    clean = query.spike_steps
    come = clean <= step
    potential = weights[:, come].sum(axis=1)
    # An input crosses this step by leaving (it had come) or by coming sooner.
    crosses = np.flatnonzero(np.where(come, query.high > step, query.low <= step))
    change = np.where(come[crosses], -weights[:, crosses], weights[:, crosses])
    distance = np.where(come, step + 1 - clean, clean - step)[crosses]
    for budget, costs in (
        (query.max_total_shift, distance),
        (query.max_changed, np.ones_like(distance)),
    ):
        if budget is not None:
            rise = _knapsack(np.maximum(change, 0), costs, budget)
            fall = _knapsack(np.maximum(-change, 0), costs, budget)
            highest = np.minimum(highest, potential + rise)
            lowest = np.maximum(lowest, potential - fall)
    return lowest, highest


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
    for item in np.flatnonzero(costs <= budget):
        cost = costs[item]
        with_item = best[: budget + 1 - cost] + values[:, item]
        best[cost:] = np.maximum(best[cost:], with_item)
    return best[budget]
