"""Search for counterexamples with a small budget: a beam over flipped neurons.

With few changes allowed, what matters is which neurons of the first layer they push
over their threshold, or hold below it. A goal is one neuron at one step; the inputs
that serve it best for their cost are chosen greedily, and all else they do is found out
by simulating exactly. Goals that cost less than the budget are followed by others. Of
two dense layers the race of the outputs (`race`) says which goals and which moves of
single inputs promise most (`unit_moves`).
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxsnn import simulate
from jaxsnn.sat.spec import Dense, Layer
from jaxsnn.verify import race, unit_moves
from jaxsnn.verify.bounds import Ball, Limits

# Budgets up to this are few changes; a beam gets as deep as the budget is large.
MAX_BUDGET = 12


class Beam(NamedTuple):
    """The inputs that are followed, `B` of them."""

    spike_steps: jax.Array  # [B, D] int32
    lacking: jax.Array  # [B] float32, least of `race.gaps`; 0 for a counterexample
    ahead: jax.Array  # [B] float32, `race.margin`


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
    num_moves: int,
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
      num_goals: goals that are tried for each input of the beam, the nearest first;
        of two dense layers as many again, the most promising first.
      num_moves: unit moves that are tried for each, the most promising first; of
        networks to which `unit_moves.applies`.
      width: inputs in the beam, `B`.
    """
    smallest = min(limit for limit in limits if limit is not None)
    depth = max(1, min(smallest, ball.low.shape[0]))
    columns = weights[0].weights.T
    two_layers = unit_moves.applies(layers)
    against = race.Opponents(label, tolerance)

    def judged(steps: jax.Array, voltages: jax.Array) -> Beam:
        """What the last layer's potentials say of an input."""
        last = layers[-1], weights[-1], voltages, against
        return Beam(steps, race.gaps(*last).min(), race.margin(*last))

    def simulated(steps: jax.Array, first: jax.Array) -> Beam:
        """Goes on from the spikes of the first layer."""
        for layer, arrays in zip(layers[1:-1], weights[1:-1], strict=True):
            voltages = simulate.potentials(
                layer, arrays, simulate.has_spiked(first, num_steps)
            )
            crossed = voltages > simulate.neuron_thresholds(layer, arrays)[None, :]
            first = simulate.crossing_steps(crossed, layer.delay)
        sent = simulate.has_spiked(first, num_steps)
        return judged(steps, simulate.potentials(layers[-1], weights[-1], sent))

    def expand(steps: jax.Array, key: jax.Array) -> Beam:
        """Returns what one input becomes by each of its goals and unit moves."""
        voltages = simulate.potentials(
            layers[0], weights[0], simulate.has_spiked(steps, num_steps)
        )
        excess = voltages - weights[0].thresholds[None, :]
        first, second = unit_moves.first_two_crossings(excess)
        effort = _efforts(excess, first, weights[0], steps, key)
        goals = _goals(excess, effort, num_goals)
        if two_layers:
            now, then = (
                jnp.minimum(step + layers[0].delay, num_steps - 1)
                for step in (first, second)
            )
            sent = simulate.has_spiked(now, num_steps)
            outputs = simulate.potentials(layers[-1], weights[-1], sent)
            worth = race.worth(layers[-1], weights[-1], outputs, against, now, then)
            promise = _promises(worth, first, layers[0].delay, num_steps)
            spare = jnp.where(effort <= depth, -promise, jnp.inf)
            promising = _goals(excess, spare, num_goals)
            goals = _joined(goals, promising)

        def pursue(goal: _Goal) -> Beam:
            moves = _pursue(goal, weights[0], ball, limits, steps, depth)
            return jax.vmap(after, in_axes=(None, 0))(*moves)

        def after(index: jax.Array, moved: jax.Array) -> Beam:
            # Only a few inputs differ: add their weights instead of all of them.
            old, new = (
                simulate.has_spiked(each, num_steps) for each in (steps[index], moved)
            )
            change = new - old
            changed = voltages + jnp.matmul(change, columns[index], precision="highest")
            crossed = changed > weights[0].thresholds[None, :]
            spikes = simulate.crossing_steps(crossed, layers[0].delay)
            return simulated(steps.at[index].set(moved), spikes)

        found = _merged(jax.vmap(pursue)(goals))
        if not (two_layers and num_moves):
            return found
        moves, potentials = unit_moves.effects(
            layers, weights, ball, limits, steps, excess, outputs, worth, num_moves
        )
        rows = jnp.arange(len(moves.inputs))
        moved = jnp.tile(steps, (len(rows), 1)).at[rows, moves.inputs].set(moves.moved)
        units = jax.vmap(judged)(moved, potentials)
        units = Beam(
            units.spike_steps,
            jnp.where(moves.admissible, units.lacking, jnp.inf),
            jnp.where(moves.admissible, units.ahead, jnp.inf),
        )
        return _joined(found, units)

    signature_key, key = jax.random.split(key)
    signature = jax.random.randint(
        signature_key, ball.low.shape, 1, 2**15, dtype=jnp.int32
    )

    def advance(beam: Beam, key: jax.Array) -> tuple[Beam, None]:
        goal_key, tie_key = jax.random.split(key)
        keys = jax.random.split(goal_key, width)
        found = _merged(jax.vmap(expand)(beam.spike_steps, keys))
        # Those that were expanded stay only if they are counterexamples.
        broken = beam.lacking == 0
        stay = beam._replace(
            lacking=jnp.where(broken, 0.0, jnp.inf),
            ahead=jnp.where(broken, beam.ahead, jnp.inf),
        )
        pool = _joined(stay, found)
        names = (pool.spike_steps * signature[None, :]).sum(axis=1)
        order = jnp.lexsort((names, pool.lacking))
        again = (names[order][1:] == names[order][:-1]) & (
            pool.lacking[order][1:] == pool.lacking[order][:-1]
        )
        penalty = (
            jnp.zeros_like(pool.lacking).at[order[1:]].add(jnp.where(again, 1e6, 0.0))
        )
        # Half of the beam lacks least, the other half is the least behind.
        noise = jax.random.uniform(tie_key, penalty.shape)
        ranks = [
            jnp.argsort(jnp.argsort(worth + penalty))
            for worth in (pool.lacking + noise, pool.ahead + 1e-6 * pool.lacking)
        ]
        kept = jnp.argsort(jnp.minimum(*ranks))[:width]
        return jax.tree.map(lambda each: each[kept], pool), None

    start = jnp.tile(ball.spike_steps, (width, 1))
    first = simulate.spike_steps(layers[:1], weights[:1], num_steps, ball.spike_steps)
    beam = jax.vmap(simulated, in_axes=(0, None))(start, first[-1])
    beam, _ = jax.lax.scan(advance, beam, jax.random.split(key, depth))
    return beam


class _Goal(NamedTuple):
    """A neuron that is to cross its threshold at a step, or not to."""

    step: jax.Array
    neuron: jax.Array
    sign: jax.Array  # 1 to cross, -1 not to
    need: jax.Array  # change of the potential that it takes


_Arrays = TypeVar("_Arrays", Beam, _Goal)


def _joined(*trees: _Arrays) -> _Arrays:
    """One after the other along the first axis."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def _merged(tree: _Arrays) -> _Arrays:
    """The first two axes as one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _efforts(
    excess: jax.Array,
    first: jax.Array,
    arrays: simulate.Weights,
    steps: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """What goals `[T, N]` need, in units of the best single input one step away."""
    num_steps, num_neurons = excess.shape
    clock = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    crossed = excess > 0
    need = jnp.where(crossed, excess, 1.0 - excess)
    nothing = jnp.zeros((num_steps + 1, num_neurons), jnp.float32)
    largest = nothing.at[steps].max(arrays.weights.T)
    smallest = nothing.at[steps].min(arrays.weights.T)
    up = jnp.maximum(largest[1:], -smallest[:-1])
    down = jnp.maximum(-smallest[1:], largest[:-1])
    effort = need / jnp.maximum(jnp.where(crossed, down, up), 0.5)
    effort += jax.random.uniform(key, effort.shape) * 0.5
    return jnp.where(clock <= first[None, :], effort, jnp.inf)


def _promises(
    worth: race.Worth, first: jax.Array, delay: int, num_steps: int
) -> jax.Array:
    """How near reached goals `[T, N]` would bring the race that is nearest then."""
    clock = jnp.arange(num_steps, dtype=jnp.int32)[:, None]

    def at(step: jax.Array) -> jax.Array:
        sooner = jnp.where(step + delay <= worth.at[None, :], worth.sooner, 0.0)
        gained = jnp.where((step < first)[:, None], sooner, worth.later)
        return (gained - worth.lacking[None, :]).max(axis=1)

    return jax.vmap(at)(clock[:, 0])


def _goals(excess: jax.Array, order: jax.Array, count: int) -> _Goal:
    """The goals that come first in an order `[T, N]`."""
    _, chosen = jax.lax.top_k(-order.reshape(-1), min(count, order.size))
    step, neuron = jnp.divmod(chosen, order.shape[1])
    chosen_excess = excess.reshape(-1)[chosen]
    return _Goal(
        step.astype(jnp.int32),
        neuron,
        jnp.where(chosen_excess > 0, -1.0, 1.0),
        jnp.where(chosen_excess > 0, chosen_excess, 1.0 - chosen_excess),
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
