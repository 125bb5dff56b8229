"""Search for counterexamples with a small budget: a beam over flipped neurons.

With few changes allowed, what matters is which neurons of the first layer they push
over their threshold, or hold below it. A goal is one neuron at one step; the inputs
that serve it best for their cost are chosen greedily, and all else they do is found out
by simulating exactly. Goals that cost less than the budget are followed by others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsnn import simulate
from jaxsnn.sat.spec import Dense, Layer
from jaxsnn.verify.bounds import Ball, Limits

# Budgets up to this are few changes; a beam gets as deep as the budget is large.
MAX_BUDGET = 12


class Beam(NamedTuple):
    """The inputs that are followed, `B` of them."""

    spike_steps: jax.Array  # [B, D] int32
    lacking: jax.Array  # [B] float32, 0 for a counterexample


def applies(layers: Sequence[Layer], limits: Limits) -> bool:
    """Whether there is a small budget, and a first layer of instant spikes."""
    smallest = min((limit for limit in limits if limit is not None), default=None)
    return (
        smallest is not None
        and smallest <= MAX_BUDGET
        and isinstance(layers[0], Dense)
        and simulate.is_instant(layers[0])
    )


def search(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    num_steps: int,
    ball: Ball,
    label: jax.Array,
    tolerance: jax.Array,
    key: jax.Array,
    limits: Limits,
    num_goals: int,
    width: int,
) -> Beam:
    """Returns the most promising inputs of a ball with a budget.

    Args:
      layers: static facts of the layers; `applies` to them and `limits`.
      weights: their arrays.
      num_steps: `T`.
      ball: the windows and budgets.
      label: `[]` int32.
      tolerance: `[C]` int32, as in `bounds.decided`.
      key: random key; consumed. It breaks ties.
      limits: the kinds of budget there are, and their largest values.
      num_goals: goals that are tried for each input of the beam, the nearest first.
      width: inputs in the beam, `B`.
    """
    smallest = min(limit for limit in limits if limit is not None)
    depth = max(1, min(smallest, ball.low.shape[0]))
    columns = weights[0].weights.T

    def lacking(first: jax.Array) -> jax.Array:
        """How far the outputs are from breaking the decision."""
        steps = first
        for layer, arrays in zip(layers[1:-1], weights[1:-1], strict=True):
            voltages = simulate.potentials(layer, arrays, _sent(steps, num_steps))
            crossed = voltages > simulate.neuron_thresholds(layer, arrays)[None, :]
            steps = simulate.crossing_steps(crossed, layer.delay)
        return violation_gap(
            layers[-1], weights[-1], num_steps, steps, label, tolerance
        )

    def expand(steps: jax.Array, key: jax.Array) -> Beam:
        """Returns what one input becomes by each of its goals."""
        voltages = simulate.potentials(layers[0], weights[0], _sent(steps, num_steps))
        goals = _nearest_goals(voltages, weights[0], steps, num_goals, key)

        def pursue(goal: _Goal) -> Beam:
            moves = _pursue(goal, weights[0], ball, limits, steps, depth)
            return jax.vmap(after, in_axes=(None, 0))(*moves)

        def after(index: jax.Array, moved: jax.Array) -> Beam:
            # Only a few inputs differ: add their weights instead of all of them.
            change = _sent(moved, num_steps) - _sent(steps[index], num_steps)
            changed = voltages + jnp.matmul(change, columns[index], precision="highest")
            crossed = changed > weights[0].thresholds[None, :]
            first = simulate.crossing_steps(crossed, layers[0].delay)
            return Beam(steps.at[index].set(moved), lacking(first))

        found = jax.vmap(pursue)(goals)
        return Beam(
            found.spike_steps.reshape(-1, len(steps)), found.lacking.reshape(-1)
        )

    signature_key, key = jax.random.split(key)
    signature = jax.random.randint(
        signature_key, ball.low.shape, 1, 2**15, dtype=jnp.int32
    )

    def advance(beam: Beam, key: jax.Array) -> tuple[Beam, None]:
        goal_key, tie_key = jax.random.split(key)
        found = jax.vmap(expand)(beam.spike_steps, jax.random.split(goal_key, width))
        pool = Beam(
            jnp.concatenate(
                [beam.spike_steps, found.spike_steps.reshape(-1, len(signature))]
            ),
            # Those that were expanded stay only if they are counterexamples.
            jnp.concatenate(
                [
                    jnp.where(beam.lacking > 0, jnp.inf, 0.0),
                    found.lacking.reshape(-1),
                ]
            ),
        )
        names = (pool.spike_steps * signature[None, :]).sum(axis=1)
        order = jnp.lexsort((names, pool.lacking))
        again = (names[order][1:] == names[order][:-1]) & (
            pool.lacking[order][1:] == pool.lacking[order][:-1]
        )
        worth = pool.lacking.at[order[1:]].add(jnp.where(again, 1e6, 0.0))
        worth += jax.random.uniform(tie_key, worth.shape)
        kept = jnp.argsort(worth)[:width]
        return Beam(pool.spike_steps[kept], pool.lacking[kept]), None

    start = jnp.tile(ball.spike_steps, (width, 1))
    first = simulate.spike_steps(layers[:1], weights[:1], num_steps, ball.spike_steps)
    beam = Beam(start, jnp.full(width, lacking(first[-1])))
    beam, _ = jax.lax.scan(advance, beam, jax.random.split(key, depth))
    return beam


def violation_gap(
    layer: Layer,
    arrays: simulate.Weights,
    num_steps: int,
    inputs: jax.Array,
    label: jax.Array,
    tolerance: jax.Array,
) -> jax.Array:
    """Returns by how much potentials of the last layer miss breaking the decision.

    A class beats the label if it has crossed by a step and the label not by the same
    step, or the one before. What the two potentials lack for that is added up; the
    least such sum over classes and steps is returned, 0 for a counterexample.

    Args:
      layer: the last layer.
      arrays: its weights.
      num_steps: `T`.
      inputs: `[N]` int32 steps of the layer before.
      label: `[]` int32.
      tolerance: `[C]` int32, as in `bounds.decided`.
    """
    voltages = simulate.potentials(layer, arrays, _sent(inputs, num_steps))
    thresholds = simulate.neuron_thresholds(layer, arrays)[None, :]
    excess = jax.lax.cummax(voltages, axis=0) - thresholds
    last = num_steps - 1 - layer.delay  # from here on the spike is the forced one
    rises = jnp.maximum(1.0 - excess, 0.0).at[last].set(0.0)[: last + 1]
    falls = jnp.maximum(excess[:, label], 0.0).at[last].set(jnp.inf)[: last + 1]
    before = jnp.concatenate([jnp.zeros(1), falls[:-1]])
    waits = jnp.where(tolerance == 1, before[:, None], falls[:, None])
    classes = jnp.arange(len(tolerance))
    counts = (classes != label) & (tolerance > -num_steps)
    return jnp.where(counts, rises + waits, jnp.inf).min()


class _Goal(NamedTuple):
    """A neuron that is to cross its threshold at a step, or not to."""

    step: jax.Array
    neuron: jax.Array
    sign: jax.Array  # 1 to cross, -1 not to
    need: jax.Array  # change of the potential that it takes


def _sent(spike_steps: jax.Array, num_steps: int) -> jax.Array:
    steps = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    return (spike_steps[None, :] <= steps).astype(jnp.float32)


def _nearest_goals(
    voltages: jax.Array,
    arrays: simulate.Weights,
    steps: jax.Array,
    count: int,
    key: jax.Array,
) -> _Goal:
    """The goals that need least, in units of the best single input one step away."""
    num_steps, num_neurons = voltages.shape
    clock = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    excess = voltages - arrays.thresholds[None, :]
    crossed = excess > 0
    first = jnp.where(crossed.any(axis=0), crossed.argmax(axis=0), num_steps)
    need = jnp.where(crossed, excess, 1.0 - excess)
    nothing = jnp.zeros((num_steps + 1, num_neurons), jnp.float32)
    largest = nothing.at[steps].max(arrays.weights.T)
    smallest = nothing.at[steps].min(arrays.weights.T)
    up = jnp.maximum(largest[1:], -smallest[:-1])
    down = jnp.maximum(-smallest[1:], largest[:-1])
    effort = need / jnp.maximum(jnp.where(crossed, down, up), 0.5)
    effort += jax.random.uniform(key, effort.shape) * 0.5
    effort = jnp.where(clock <= first[None, :], effort, jnp.inf).reshape(-1)
    _, chosen = jax.lax.top_k(-effort, min(count, effort.size))
    step, neuron = jnp.divmod(chosen, num_neurons)
    return _Goal(
        step.astype(jnp.int32),
        neuron,
        jnp.where(crossed.reshape(-1)[chosen], -1.0, 1.0),
        need.reshape(-1)[chosen],
    )


def _pursue(
    goal: _Goal,
    arrays: simulate.Weights,
    ball: Ball,
    limits: Limits,
    steps: jax.Array,
    depth: int,
) -> tuple[jax.Array, jax.Array]:
    """Moves inputs across the step of a goal: as many as it takes, and all it can.

    Returns:
      `[depth]` different inputs, and the steps `[2, depth]` they get either way; where
      the goal is out of reach, those they have.
    """
    weights = goal.sign * arrays.weights[goal.neuron]
    come = steps <= goal.step
    gain = jnp.where(come, -weights, weights)
    target = jnp.where(come, goal.step + 1, goal.step)
    allowed = (gain > 0) & (ball.low <= target) & (target <= ball.high)
    old, new = jnp.abs(steps - ball.spike_steps), jnp.abs(target - ball.spike_steps)
    prices = []
    if limits.max_total_shift is not None:
        prices.append((new - old, ball.max_total_shift - old.sum()))
    if limits.max_changed is not None:
        changes = (new > 0).astype(jnp.int32) - (old > 0).astype(jnp.int32)
        prices.append((changes, ball.max_changed - (old > 0).sum()))
    worth = gain
    for price, _ in prices:
        worth = jnp.minimum(worth, gain / jnp.maximum(price.astype(jnp.float32), 0.5))
    chosen = _largest(jnp.where(allowed, worth, -1.0), depth)
    taken = allowed[chosen]
    for price, left in prices:
        taken &= jnp.cumsum(price[chosen]) <= left
    taken = jnp.cumprod(taken.astype(jnp.int32)).astype(bool)
    gains = jnp.cumsum(gain[chosen])
    needed = gains - gain[chosen] < goal.need
    reached = (taken & (gains >= goal.need)).any()
    moving = jnp.stack([taken & needed, taken]) & reached
    return chosen, jnp.where(moving, target[chosen][None], steps[chosen][None])


def _largest(values: jax.Array, count: int) -> jax.Array:
    """Indices of the largest values, by so many passes: few, where sorts are slow."""

    def take(left: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        index = jnp.argmax(left)
        return left.at[index].set(-jnp.inf), index

    return jax.lax.scan(take, values, None, length=count)[1]
