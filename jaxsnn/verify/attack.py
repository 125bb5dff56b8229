"""Search for counterexamples in the exact simulator: one query, `vmap` outside.

Spike steps are relaxed to reals for the gradient only; every candidate is integral,
admissible by construction and judged by the exact simulator.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsnn import simulate
from jaxsnn.sat.spec import Layer
from jaxsnn.verify.bounds import NO_LIMITS, Ball, Limits


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """How hard to search.

    Attributes:
      num_restarts: starting points, the first of them the clean input.
      num_iterations: gradient steps from each.
      temperatures: widths of the relaxed spike in steps, one a restart in turn; wider
        sees further, narrower is truer.
      momentum: share of the direction that is kept from step to step.
      stay: probability that an input sits a step out, which breaks cycles.
    """

    num_restarts: int = 6
    num_iterations: int = 20
    temperatures: tuple[float, ...] = (0.3, 1.0, 3.0)
    momentum: float = 0.9
    stay: float = 0.5


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
    classes = jnp.arange(tolerance.shape[0])
    # A class whose tolerance is out of reach does not count (see `bounds.decided`).
    counts = (classes != label) & (tolerance > -num_steps)
    temperatures = jnp.asarray(config.temperatures, jnp.float32)

    def broken(steps: jax.Array) -> jax.Array:
        outputs = simulate.spike_steps(layers, weights, num_steps, steps)[-1]
        return (counts & (outputs < outputs[label] + tolerance)).any()

    def loss(steps: jax.Array, temperature: jax.Array) -> jax.Array:
        """How much later than the label the soonest rival spikes."""
        outputs = relaxed_outputs(layers, weights, num_steps, steps, temperature)
        soonest = -jax.nn.logsumexp(jnp.where(counts, -outputs, -jnp.inf))
        return soonest - outputs[label]

    def from_start(restart: jax.Array, key: jax.Array) -> Attack:
        temperature = temperatures[restart % len(temperatures)]
        start_key, score_key, key = jax.random.split(key, 3)
        anywhere = jax.random.randint(
            start_key, ball.low.shape, ball.low, ball.high + 1, jnp.int32
        )
        start = jnp.where(restart > 0, anywhere, ball.spike_steps)
        scores = jax.random.uniform(score_key, ball.low.shape)
        start = _within(ball, limits, scores, start)

        def step(
            carry: tuple[jax.Array, jax.Array, Attack], key: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array, Attack], None]:
            steps, direction, attack = carry
            gradient = jax.grad(loss)(steps.astype(jnp.float32), temperature)
            size = jnp.abs(gradient).mean()
            gradient = gradient / jnp.where(size > 0, size, 1.0)
            direction = config.momentum * direction + gradient
            wanted = jnp.where(direction < 0, ball.high, steps)
            wanted = jnp.where(direction > 0, ball.low, wanted)
            stays = jax.random.bernoulli(key, config.stay, steps.shape)
            wanted = jnp.where(stays, steps, wanted)
            steps = _within(ball, limits, jnp.abs(direction), wanted)
            found = broken(steps)
            best = jnp.where(found & ~attack.found, steps, attack.spike_steps)
            return (steps, direction, Attack(attack.found | found, best)), None

        no_direction = jnp.zeros(start.shape, jnp.float32)
        carry = (start, no_direction, Attack(broken(start), start))
        keys = jax.random.split(key, config.num_iterations)
        (_, _, attack), _ = jax.lax.scan(step, carry, keys)
        return attack

    restarts = jnp.arange(config.num_restarts, dtype=jnp.int32)
    keys = jax.random.split(key, config.num_restarts)
    attacks = jax.vmap(from_start)(restarts, keys)
    winner = jnp.argmax(attacks.found)
    return Attack(attacks.found.any(), attacks.spike_steps[winner])


def relaxed_outputs(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    num_steps: int,
    inputs: jax.Array,
    temperature: jax.Array | float,
) -> jax.Array:
    """Returns smooth `[C]` output steps of real-valued `[D]` input steps.

    Arrivals and crossings become sigmoids, the latch a running maximum; only the
    gradient of this is used.
    """
    steps = jnp.arange(num_steps, dtype=jnp.float32)[:, None]
    times = inputs
    for layer, arrays in zip(layers, weights, strict=True):
        arrived = jax.nn.sigmoid((steps + 0.5 - times[None, :]) / temperature)
        voltages = simulate.potentials(layer, arrays, arrived)
        excess = voltages - simulate.neuron_thresholds(layer, arrays)[None, :] - 0.5
        scale = jnp.std(voltages, axis=0, keepdims=True) * 0.25 + 1e-3
        crossed = jax.nn.sigmoid(excess / jax.lax.stop_gradient(scale))
        latched = jax.lax.cummax(crossed, axis=0)
        times = layer.delay + (1.0 - latched[:-1]).sum(axis=0)
    return times


def _within(
    ball: Ball, limits: Limits, scores: jax.Array, wanted: jax.Array
) -> jax.Array:
    """Moves inputs towards `wanted`, the highest scores first, within the budgets."""
    shift = jnp.clip(wanted, ball.low, ball.high) - ball.spike_steps
    if limits == NO_LIMITS:
        return ball.spike_steps + shift
    order = jnp.argsort(jnp.where(shift != 0, -scores, jnp.inf))
    ordered = shift[order]
    if limits.max_changed is not None:
        ordered = jnp.where(jnp.arange(len(ordered)) < ball.max_changed, ordered, 0)
    if limits.max_total_shift is not None:
        spent = jnp.cumsum(jnp.abs(ordered)) - jnp.abs(ordered)
        left = jnp.maximum(ball.max_total_shift - spent, 0)
        ordered = jnp.clip(ordered, -left, left)
    return ball.spike_steps.at[order].add(ordered)
