"""What every move of one input by one step does, exactly: one input, `vmap` outside.

A unit move changes the potentials of the first layer at a single step, by the weights
of one input. Where each neuron first crosses its threshold afterwards follows from
where it crosses now, so that all moves together cost about as much as the later layers
do on as many inputs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsnn import simulate
from jaxsnn.sat.spec import Dense, Layer
from jaxsnn.verify import race
from jaxsnn.verify.bounds import Ball, Limits


class Moves(NamedTuple):
    """Some moves of one input by one step, `K` of them."""

    inputs: jax.Array  # [K] int32, which input moves
    moved: jax.Array  # [K] int32, to which step
    admissible: jax.Array  # [K] bool, inside the ball


def applies(layers: Sequence[Layer]) -> bool:
    """Whether a network is two dense layers of instant spikes."""
    return len(layers) == 2 and all(
        isinstance(layer, Dense) and simulate.is_instant(layer) for layer in layers
    )


def first_two_crossings(excess: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns when neurons first cross, and when they would if that did not count.

    Args:
      excess: `[T, N]` potentials less thresholds.

    Returns:
      `[N]` int32 each, `T` where there is none.
    """
    crossed = excess > 0
    first = simulate.first_crossing(crossed)
    clock = jnp.arange(len(crossed), dtype=jnp.int32)[:, None]
    return first, simulate.first_crossing(crossed & (clock != first[None, :]))


def effects(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    ball: Ball,
    limits: Limits,
    steps: jax.Array,
    excess: jax.Array,
    outputs: jax.Array,
    worth: race.Worth,
    num_kept: int,
) -> tuple[Moves, jax.Array]:
    """Returns the most promising unit moves, and what the outputs make of each.

    Args:
      layers: two layers to which this `applies`.
      weights: their arrays.
      ball: the windows and budgets that moves must respect.
      limits: the kinds of budget there are.
      steps: `[D]` int32, the input.
      excess: `[T, N]` its potentials of the first layer less the thresholds.
      outputs: `[T, C]` its potentials of the last layer.
      worth: what other spikes are worth in the race; it says which moves promise most.
      num_kept: `K`, at most `2 D`.

    Returns:
      The moves, and the potentials of the last layer, `[K, T, C]` float32, exact.
    """
    num_steps, num_neurons = excess.shape
    last, delay = num_steps - 1, layers[0].delay
    first, second = first_two_crossings(excess)

    # Which neurons a move lets spike sooner, at `arrival`, and which at the second
    # crossing instead of the first.
    sooner, later, arrivals = [], [], []
    for direction in (-1, 1):
        # The only step at which potentials change; moves out of range never count.
        at = jnp.clip(steps + min(direction, 0), 0, last)
        changed = excess[at] - direction * weights[0].weights.T > 0  # [D, N]
        sooner.append(changed & (at[:, None] < first[None, :]))
        later.append(~changed & (at[:, None] == first[None, :]))
        arrivals.append(jnp.minimum(at + delay, last))
    change = jnp.concatenate(
        [jnp.concatenate(sooner), jnp.concatenate(later)], axis=1
    ).astype(jnp.float32)  # [M, 2 N]
    arrival = jnp.concatenate(arrivals)
    moved = jnp.concatenate([steps - 1, steps + 1])
    inputs = jnp.tile(jnp.arange(len(steps), dtype=jnp.int32), 2)
    admissible = _admissible(ball, limits, steps, inputs, moved)

    gained = jnp.matmul(change[:, :num_neurons], worth.sooner)
    gained = jnp.where(arrival[:, None] <= worth.at[None, :], gained, 0.0)
    gained += jnp.matmul(change[:, num_neurons:], worth.later)
    promise = (gained - worth.lacking[None, :]).max(axis=1)
    promise = jnp.where(admissible, promise, -jnp.inf)
    _, kept = jax.lax.top_k(promise, min(num_kept, len(promise)))

    change, arrival = change[kept], arrival[kept]
    columns = weights[1].weights.T  # [N, C]
    now, then = (
        simulate.has_spiked(jnp.minimum(step + delay, last), num_steps).T[:, :, None]
        for step in (first, second)
    )
    lost = jnp.concatenate([now, now - then]) * jnp.tile(columns[:, None, :], (2, 1, 1))
    loss = jnp.matmul(change, lost.reshape(len(lost), -1), precision="highest")
    gain = jnp.matmul(change[:, :num_neurons], columns, precision="highest")
    come = simulate.has_spiked(arrival, num_steps).T[:, :, None]
    potentials = outputs[None] + come * gain[:, None, :]
    potentials -= loss.reshape(-1, *outputs.shape)
    return Moves(inputs[kept], moved[kept], admissible[kept]), potentials


def _admissible(
    ball: Ball, limits: Limits, steps: jax.Array, inputs: jax.Array, moved: jax.Array
) -> jax.Array:
    allowed = (ball.low[inputs] <= moved) & (moved <= ball.high[inputs])
    clean = ball.spike_steps
    old, new = jnp.abs(steps - clean), jnp.abs(moved - clean[inputs])
    if limits.max_total_shift is not None:
        allowed &= old.sum() + new - old[inputs] <= ball.max_total_shift
    if limits.max_changed is not None:
        before = (old > 0).astype(jnp.int32)
        changes = before.sum() + (new > 0).astype(jnp.int32) - before[inputs]
        allowed &= changes <= ball.max_changed
    return allowed
