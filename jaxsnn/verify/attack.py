"""Search for counterexamples in the exact simulator: one query, `vmap` outside.

Inputs are drawn from distributions that climb towards a wrong decision; where a budget
allows few changes, a beam over flipped neurons (`flips`) goes first. Every candidate is
integral, admissible by construction and judged by the exact simulator.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsnn import simulate
from jaxsnn.sat.spec import Layer
from jaxsnn.verify import flips, mean_field
from jaxsnn.verify.bounds import NO_LIMITS, Ball, Limits


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """How hard to search.

    Attributes:
      num_restarts: distributions that climb, each from its own start. The first takes
        any class for an answer, the others favour one rival each.
      num_rivals: how many rivals are favoured in turn, the most promising first.
      num_iterations: gradient steps of each.
      learning_rate: of these steps, on the logits of the distributions.
      blur: how much the view is widened at first and at last, in units of the standard
        deviation that potentials have over the whole ball.
      num_draws: inputs drawn from each distribution at each step, besides its mode.
      num_goals: goals a beam tries for each of its inputs, where there is a budget.
      num_moves: moves of one input by one step that it tries beside them.
      beam_width: inputs in the beam; 0 for no beam.
    """

    num_restarts: int = 10
    num_rivals: int = 9
    num_iterations: int = 40
    learning_rate: float = 0.1
    blur: tuple[float, float] = (2.0, 0.05)
    num_draws: int = 1
    num_goals: int = 16
    num_moves: int = 64
    beam_width: int = 16


DEFAULT_CONFIG = AttackConfig()


class Attack(NamedTuple):
    """The best input found; it is a counterexample if `found`."""

    found: jax.Array  # [] bool
    spike_steps: jax.Array  # [D] int32


def search(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    num_steps: int,
    ball: Ball,
    label: jax.Array,
    tolerance: jax.Array,
    key: jax.Array,
    limits: Limits = NO_LIMITS,
    config: AttackConfig = DEFAULT_CONFIG,
) -> Attack:
    """Searches one ball for an input on which some class beats the label.

    Args:
      layers: static facts of the layers.
      weights: their arrays.
      num_steps: `T`.
      ball: the windows and budgets.
      label: `[]` int32.
      tolerance: `[C]` int32, as in `bounds.decided`.
      key: random key; consumed.
      limits: the kinds of budget there are.
      config: static effort.

    Returns:
      The attack. `found` means that the exact simulator saw the decision broken.
    """
    beam_key, key = jax.random.split(key)
    start = Attack(jnp.bool_(False), ball.spike_steps)
    if config.beam_width and flips.applies(layers, limits):
        beam = flips.search(
            layers,
            weights,
            num_steps,
            ball,
            label,
            tolerance,
            beam_key,
            limits,
            config.num_goals,
            config.num_moves,
            config.beam_width,
        )
        best = jnp.argmin(beam.lacking)
        start = Attack(beam.lacking[best] == 0, beam.spike_steps[best])
    return _climb(
        layers, weights, num_steps, ball, label, tolerance, key, limits, config, start
    )


def _climb(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    num_steps: int,
    ball: Ball,
    label: jax.Array,
    tolerance: jax.Array,
    key: jax.Array,
    limits: Limits,
    config: AttackConfig,
    start: Attack,
) -> Attack:
    """Ascends the odds of a wrong decision from several starts, and draws inputs."""
    classes = jnp.arange(tolerance.shape[0], dtype=jnp.int32)
    # A class whose tolerance is out of reach does not count (see `bounds.decided`).
    counts = (classes != label) & (tolerance > -num_steps)
    optimizer = optax.rmsprop(config.learning_rate, decay=0.9, momentum=0.8)
    distribution = _Distribution(ball, limits, num_steps)

    def broken(steps: jax.Array) -> jax.Array:
        outputs = simulate.spike_steps(layers, weights, num_steps, steps)[-1]
        return (counts & (outputs < outputs[label] + tolerance)).any()

    def odds(logits: jax.Array, blur: jax.Array) -> jax.Array:
        sent = distribution.sent(logits)
        extra = [jnp.square(blur) * variance for variance in widest]
        return mean_field.log_odds(layers, weights, sent, label, tolerance, extra)

    nothing = jnp.zeros((ball.low.shape[0], num_steps), jnp.float32)
    widest = mean_field.variances(layers, weights, distribution.sent(nothing))
    first, last = config.blur
    promise = odds(nothing, jnp.float32(first))
    rank = jnp.argsort(jnp.argsort(-promise))

    def loss(logits: jax.Array, favoured: jax.Array, blur: jax.Array) -> jax.Array:
        return -jax.nn.logsumexp(jnp.where(favoured, odds(logits, blur), -jnp.inf))

    def begin(restart: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        turn = restart % (config.num_rivals + 1)
        favoured = (turn == 0) | (rank == turn - 1)
        # Classes that do not count are no rivals.
        favoured = jnp.where((favoured & counts).any(), favoured, True)
        noise = 0.5 * jax.random.normal(key, nothing.shape)
        return favoured, jnp.where(restart == 0, nothing, noise)

    def ascend(
        favoured: jax.Array,
        logits: jax.Array,
        state: optax.OptState,
        blur: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, optax.OptState, Attack]:
        gradient = jax.grad(loss)(logits, favoured, blur)
        gradient = jnp.nan_to_num(gradient)
        updates, state = optimizer.update(gradient, state)
        logits = optax.apply_updates(logits, updates)
        drawn = distribution.draw(logits, key, config.num_draws)
        hits = jax.vmap(broken)(drawn)
        return logits, state, Attack(hits.any(), drawn[jnp.argmax(hits)])

    restarts = jnp.arange(config.num_restarts, dtype=jnp.int32)
    start_key, key = jax.random.split(key)
    favoured, logits = jax.vmap(begin)(
        restarts, jax.random.split(start_key, len(restarts))
    )
    state = jax.vmap(optimizer.init)(logits)

    def unfinished(carry: tuple) -> jax.Array:
        iteration, _, _, attack = carry
        return (iteration < config.num_iterations) & ~attack.found

    def step(carry: tuple) -> tuple:
        iteration, logits, state, _ = carry
        share = iteration.astype(jnp.float32) / max(config.num_iterations - 1, 1)
        blur = first * jnp.power(last / first, share)
        keys = jax.random.split(jax.random.fold_in(key, iteration), len(restarts))
        logits, state, attacks = jax.vmap(ascend, in_axes=(0, 0, 0, None, 0))(
            favoured, logits, state, blur, keys
        )
        winner = jnp.argmax(attacks.found)
        attack = Attack(attacks.found[winner], attacks.spike_steps[winner])
        return iteration + 1, logits, state, attack

    # Found by the first stage or not, the clean input is what remains otherwise.
    carry = jnp.int32(0), logits, state, start
    return jax.lax.while_loop(unfinished, step, carry)[-1]


class _Distribution:
    """Distributions of spike steps over a ball, from logits `[D, T]`.

    Windows hold strictly. Budgets hold on average in the distributions, by a price on
    changes, and strictly in what is drawn.
    """

    def __init__(self, ball: Ball, limits: Limits, num_steps: int) -> None:
        clock = jnp.arange(num_steps, dtype=jnp.int32)[None, :]
        self.ball = ball
        self.limits = limits
        self.clean = clock == ball.spike_steps[:, None]
        self.inside = (ball.low[:, None] <= clock) & (clock <= ball.high[:, None])
        shift = jnp.abs(clock - ball.spike_steps[:, None])
        # Shares of the budgets that a spike at a step would take.
        self.price = jnp.zeros(shift.shape, jnp.float32)
        for limit, budget, cost in (
            (limits.max_total_shift, ball.max_total_shift, shift),
            (limits.max_changed, ball.max_changed, shift > 0),
        ):
            if limit is not None:
                share = cost.astype(jnp.float32) / jnp.maximum(
                    budget.astype(jnp.float32), 0.5
                )
                self.price = jnp.maximum(self.price, share)

    def sent(self, logits: jax.Array) -> jax.Array:
        """Returns `[T, D]` probabilities that an input has spiked by a step."""
        return jnp.cumsum(jax.nn.softmax(self._priced(logits), axis=1), axis=1).T

    def draw(self, logits: jax.Array, key: jax.Array, count: int) -> jax.Array:
        """Returns the mode and some draws, `[1 + count, D]` int32, all admissible."""
        priced = self._priced(logits)
        noise = jax.random.gumbel(key, (count, *priced.shape))
        perturbed = jnp.concatenate([priced[None], priced[None] + noise], axis=0)
        if self.limits == NO_LIMITS:
            return jnp.argmax(perturbed, axis=2).astype(jnp.int32)
        return jax.vmap(self._most_wanted)(perturbed)

    def _priced(self, logits: jax.Array) -> jax.Array:
        inside = jnp.where(self.inside, logits, -jnp.inf)
        if self.limits == NO_LIMITS:
            return inside

        def halve(
            ends: tuple[jax.Array, jax.Array], _: None
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            low, high = ends
            middle = (low + high) / 2
            shares = jax.nn.softmax(inside - middle * self.price, axis=1) * self.price
            over = shares.sum() > 1
            return (jnp.where(over, middle, low), jnp.where(over, high, middle)), None

        ends = jnp.float32(0), jnp.float32(64)
        (_, multiplier), _ = jax.lax.scan(halve, ends, None, length=12)
        return inside - jax.lax.stop_gradient(multiplier) * self.price

    def _most_wanted(self, logits: jax.Array) -> jax.Array:
        """Moves the inputs whose logits gain most, within the budgets."""
        changed = jnp.where(self.clean, -jnp.inf, logits)
        wanted = jnp.argmax(changed, axis=1).astype(jnp.int32)
        gain = changed.max(axis=1) - jnp.where(self.clean, logits, 0.0).sum(axis=1)
        wanted = jnp.where(jnp.isfinite(gain), wanted, self.ball.spike_steps)
        return _within(self.ball, self.limits, gain, wanted)


def _within(
    ball: Ball, limits: Limits, scores: jax.Array, wanted: jax.Array
) -> jax.Array:
    """Moves inputs towards `wanted`, the highest scores first, within the budgets."""
    shift = jnp.clip(wanted, ball.low, ball.high) - ball.spike_steps
    order = jnp.argsort(jnp.where(shift != 0, -scores, jnp.inf))
    ordered = shift[order]
    if limits.max_changed is not None:
        ordered = jnp.where(jnp.arange(len(ordered)) < ball.max_changed, ordered, 0)
    if limits.max_total_shift is not None:
        spent = jnp.cumsum(jnp.abs(ordered)) - jnp.abs(ordered)
        left = jnp.maximum(ball.max_total_shift - spent, 0)
        ordered = jnp.clip(ordered, -left, left)
    return ball.spike_steps.at[order].add(ordered)
