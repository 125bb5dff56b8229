"""Interval bounds of spike steps on the accelerator: one query, `vmap` outside.

The batched form of `jaxsnn.sat.intervals`, equal to it bit for bit: all sums are
integers below 2^24 in float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsnn import simulate
from jaxsnn.sat.spec import Conv2D, Dense, Layer
from jaxsnn.verify import delayed_bounds


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
    if isinstance(layer, Dense | Conv2D) and not simulate.is_instant(layer):
        return delayed_bounds.potential_range(layer, arrays, *inputs, num_steps)
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
    if isinstance(layer, Dense | Conv2D) and not simulate.is_instant(layer):
        windows = ball.spike_steps, ball.low, ball.high
        for most, budget, by_distance in (
            (limits.max_total_shift, ball.max_total_shift, True),
            (limits.max_changed, ball.max_changed, False),
        ):
            if most is not None:
                rise, fall = delayed_bounds.best_changes(
                    layer, arrays, windows, most, num_steps, by_distance
                )
                lowest = jnp.maximum(lowest, clean - fall[budget])
                highest = jnp.minimum(highest, clean + rise[budget])
        return lowest, highest
    # Unit changes of every input, propagated: the dense weights of any linear layer.
    units = jnp.eye(len(ball.spike_steps), dtype=jnp.float32)
    columns = simulate.weighted_sums(layer, arrays, units)  # [D, N]

    losses = jnp.full(clean.shape, jnp.inf, jnp.float32)
    gains = losses
    if limits.max_total_shift is not None:
        total, budget = limits.max_total_shift, ball.max_total_shift
        gains = _shift_gains(columns, ball, total, num_steps)[budget]
        losses = _shift_gains(-columns, ball, total, num_steps)[budget]
    if limits.max_changed is not None:
        gains = jnp.minimum(gains, _change_gains(columns, ball, limits, num_steps))
        losses = jnp.minimum(losses, _change_gains(-columns, ball, limits, num_steps))
    return (
        jnp.maximum(lowest, clean - losses),
        jnp.minimum(highest, clean + gains),
    )


def _shift_gains(
    columns: jax.Array, ball: Ball, total: int, num_steps: int
) -> jax.Array:
    """Best rise of every potential for every total shift: `[total + 1, T, N]`.

    A 0/1 knapsack for each step and neuron. Carrying input `i` across step `t` costs
    `s_i - t` if it comes later (and adds its weight), `t + 1 - s_i` if it has come
    (and takes its weight away). Of equally costly inputs only the best are taken.
    """
    best = jnp.zeros((total + 1, num_steps, columns.shape[1]), jnp.float32)
    for cost in range(1, total + 1):
        most = min(total // cost, columns.shape[0])
        if most == 0:
            continue
        can_come = (ball.spike_steps - ball.low >= cost)[:, None]
        can_wait = (ball.high - ball.spike_steps >= cost)[:, None]
        coming = _best_by_step(
            jnp.where(can_come, columns, 0.0), ball.spike_steps, num_steps, most
        )
        waiting = _best_by_step(
            jnp.where(can_wait, -columns, 0.0), ball.spike_steps, num_steps, most
        )
        # Step t sees inputs of step t + cost come, and those of t + 1 - cost wait.
        nothing = jnp.zeros((cost, most, columns.shape[1]), jnp.float32)
        items = jnp.concatenate(
            [
                jnp.concatenate([coming[cost:], nothing])[:num_steps],
                jnp.concatenate([nothing[: cost - 1], waiting])[:num_steps],
            ],
            axis=1,
        )
        taken = jnp.cumsum(-jnp.sort(-items, axis=1)[:, :most], axis=1)
        improved = best
        for count in range(1, most + 1):
            spent = count * cost
            candidate = best[: total + 1 - spent] + taken[None, :, count - 1]
            improved = improved.at[spent:].max(candidate)
        best = improved
    return best


def _best_by_step(
    values: jax.Array, spike_steps: jax.Array, num_steps: int, count: int
) -> jax.Array:
    """The largest positive values among the inputs of each step: `[T, count, N]`."""
    num_inputs, num_neurons = values.shape
    index = jnp.arange(num_inputs, dtype=jnp.int32)[:, None]
    zeros = jnp.zeros((num_steps, num_neurons), jnp.float32)
    nobody = jnp.full((num_steps, num_neurons), num_inputs, jnp.int32)

    def take(remaining: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        largest = zeros.at[spike_steps].max(remaining)
        # Take one of several equal values away.
        holders = jnp.where(remaining == largest[spike_steps], index, num_inputs)
        first = nobody.at[spike_steps].min(holders)
        return jnp.where(first[spike_steps] == index, 0.0, remaining), largest

    positive = jnp.maximum(values, 0.0)
    _, best = jax.lax.scan(take, positive, None, length=count)
    return jnp.moveaxis(best, 0, 1)


def _change_gains(
    columns: jax.Array, ball: Ball, limits: Limits, num_steps: int
) -> jax.Array:
    """Best rise `[T, N]` of every potential when so many inputs change."""
    assert limits.max_changed is not None
    most = min(limits.max_changed, columns.shape[0])

    def at(step: jax.Array) -> jax.Array:
        arrived = ball.spike_steps <= step
        free = jnp.where(arrived, ball.high > step, ball.low <= step)
        rise = jnp.where(arrived[:, None], -columns, columns)
        rise = jnp.where(free[:, None], jnp.maximum(rise, 0.0), 0.0)
        top, _ = jax.lax.top_k(rise.T, most)
        counted = jnp.arange(most) < ball.max_changed
        return jnp.where(counted[None, :], top, 0.0).sum(axis=1)

    return jax.lax.map(at, jnp.arange(num_steps, dtype=jnp.int32))
