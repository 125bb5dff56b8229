"""Interval bounds of spike steps on the accelerator: one query, `vmap` outside.

The batched form of `jaxsnn.sat.intervals`, equal to it bit for bit: all sums are
integers below 2^24 in float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsnn import simulate
from jaxsnn.sat.spec import Layer


class Ball(NamedTuple):
    """Arrays of one query; the budgets count only where `Limits` says so."""

    spike_steps: jax.Array  # [D] int32
    low: jax.Array  # [D] int32, earliest admissible step
    high: jax.Array  # [D] int32, latest admissible step
    max_total_shift: jax.Array  # [] int32
    max_changed: jax.Array  # [] int32


class Limits(NamedTuple):
    """The largest budgets of a batch, static; None where there is no such budget."""

    max_total_shift: int | None = None
    max_changed: int | None = None


NO_LIMITS = Limits()


class Interval(NamedTuple):
    """Spike steps of one level."""

    low: jax.Array  # [N] int32
    high: jax.Array  # [N] int32


def propagate(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    num_steps: int,
    ball: Ball,
    limits: Limits = NO_LIMITS,
) -> list[Interval]:
    """Returns intervals of the spike steps of every level, the inputs first.

    Args:
      layers: static facts of the layers.
      weights: their arrays (`simulate.device_weights`).
      num_steps: `T`.
      ball: the windows and budgets of one query.
      limits: the kinds of budget there are, and their largest values; the first
        layer's potentials respect budgets by an exact knapsack a neuron and step.

    Guarantees:
      For every admissible input, every neuron spikes within its interval.
    """
    levels = [Interval(ball.low, ball.high)]
    for depth, (layer, arrays) in enumerate(zip(layers, weights, strict=True)):
        lowest, highest = _potentials(layer, arrays, levels[-1], num_steps)
        if depth == 0 and limits != NO_LIMITS:
            lowest, highest = _within_budget(
                layer, arrays, ball, limits, num_steps, lowest, highest
            )
        threshold = simulate.neuron_thresholds(layer, arrays)[None, :]
        levels.append(
            Interval(
                low=simulate.crossing_steps(highest > threshold, layer.delay),
                high=simulate.crossing_steps(lowest > threshold, layer.delay),
            )
        )
    return levels


def decided(outputs: Interval, label: jax.Array, tolerance: jax.Array) -> jax.Array:
    """Whether output intervals prove that no class beats the label.

    Args:
      outputs: intervals of the `C` output steps.
      label: `[]` int32.
      tolerance: `[C]` int32, `Query.tolerance`; a class that does not count (other
        than the target) is given a tolerance below `-T`.

    Returns:
      `[]` bool.
    """
    others = jnp.arange(len(outputs.low)) != label
    beaten = outputs.low < outputs.high[label] + tolerance
    return ~(beaten & others).any()


def _arrived(spike_steps: jax.Array, num_steps: int) -> jax.Array:
    steps = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    return (spike_steps[None, :] <= steps).astype(jnp.float32)


def _potentials(
    layer: Layer, arrays: simulate.Weights, inputs: Interval, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest potentials `[T, N]` when inputs move in their intervals."""
    possible = _arrived(inputs.low, num_steps)
    certain = _arrived(inputs.high, num_steps)
    if arrays.weights.size == 0:  # pooling: all weights are one
        return (
            simulate.potentials(layer, arrays, certain),
            simulate.potentials(layer, arrays, possible),
        )
    excites = arrays._replace(weights=jnp.maximum(arrays.weights, 0))
    inhibits = arrays._replace(weights=jnp.minimum(arrays.weights, 0))
    both = jnp.concatenate([certain, possible])
    exciting = simulate.potentials(layer, excites, both)
    inhibiting = simulate.potentials(layer, inhibits, both)
    return (
        exciting[:num_steps] + inhibiting[num_steps:],
        exciting[num_steps:] + inhibiting[:num_steps],
    )


def _within_budget(
    layer: Layer,
    arrays: simulate.Weights,
    ball: Ball,
    limits: Limits,
    num_steps: int,
    lowest: jax.Array,
    highest: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Tightens potentials `[T, N]` of the first layer to the budgets."""
    clean = simulate.potentials(layer, arrays, _arrived(ball.spike_steps, num_steps))
    # A unit change of every input, propagated: the dense weights of any linear layer.
    columns = simulate.potentials(
        layer, arrays, jnp.eye(layer.num_inputs, dtype=jnp.float32)
    )  # [D, N]

    def tighten(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        arrived = ball.spike_steps <= step
        cost = jnp.where(arrived, step + 1 - ball.spike_steps, ball.spike_steps - step)
        free = jnp.where(arrived, ball.high > step, ball.low <= step)
        change = jnp.where(arrived[:, None], -columns, columns)
        change = jnp.where(free[:, None], change, 0.0)
        return (
            -_best_gain(-change, cost, ball, limits),
            _best_gain(change, cost, ball, limits),
        )

    losses, gains = jax.lax.map(tighten, jnp.arange(num_steps, dtype=jnp.int32))
    return (
        jnp.maximum(lowest, clean + losses),
        jnp.minimum(highest, clean + gains),
    )


def _best_gain(
    change: jax.Array, cost: jax.Array, ball: Ball, limits: Limits
) -> jax.Array:
    """The largest sum of changes within the budgets, `[N]` of `[D, N]` and `[D]`."""
    gains = jnp.maximum(change, 0.0)
    best = jnp.full(gains.shape[1], jnp.inf, jnp.float32)
    if limits.max_changed is not None:
        most = min(limits.max_changed, gains.shape[0])
        table = _knapsack(gains, jnp.ones_like(cost), most, 1)
        best = jnp.minimum(best, table[jnp.minimum(ball.max_changed, most)])
    if limits.max_total_shift is not None:
        total = limits.max_total_shift
        table = _knapsack(gains, cost, total, total)
        best = jnp.minimum(best, table[ball.max_total_shift])
    return best


def _knapsack(
    gains: jax.Array, costs: jax.Array, budget: int, max_cost: int
) -> jax.Array:
    """0/1 knapsacks of `[D, N]` gains and `[D]` costs in `1 .. max_cost`.

    Items of one cost are taken in the order of their gains, so a prefix of the
    largest suffices.

    Returns:
      `[budget + 1, N]` the best gain of every neuron for every budget.
    """
    best = jnp.zeros((budget + 1, gains.shape[1]), jnp.float32)
    for cost in range(1, max_cost + 1):
        most = min(budget // cost, gains.shape[0])
        if most == 0:
            continue
        items = jnp.where((costs == cost)[:, None], gains, 0.0)
        top, _ = jax.lax.top_k(items.T, most)
        taken = jnp.cumsum(top, axis=1).T  # [most, N]
        improved = best
        for count in range(1, most + 1):
            spent = count * cost
            candidate = best[: budget + 1 - spent] + taken[count - 1][None, :]
            improved = improved.at[spent:].max(candidate)
        best = improved
    return best
