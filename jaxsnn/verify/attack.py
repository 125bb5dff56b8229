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
      temperature: width of the relaxed spike in steps; wider sees further.
    """

    num_restarts: int = 4
    num_iterations: int = 12
    temperature: float = 1.0


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
    num_classes = tolerance.shape[0]

    def margins(steps: jax.Array) -> jax.Array:
        """`[C]`: below zero where a class beats the label; never for the label."""
        outputs = simulate.spike_steps(layers, weights, num_steps, steps)[-1]
        gap = outputs - outputs[label] - tolerance
        return jnp.where(jnp.arange(num_classes) == label, num_steps, gap)

    def loss(steps: jax.Array, rival: jax.Array) -> jax.Array:
        outputs = relaxed_outputs(layers, weights, num_steps, steps, config.temperature)
        return outputs[rival] - outputs[label]

    def project(scores: jax.Array, wanted: jax.Array) -> jax.Array:
        return _within(ball, limits, scores, wanted)

    def attack_rival(rival: jax.Array, key: jax.Array) -> Attack:
        start_key, noise_key = jax.random.split(key)
        start = jax.random.randint(
            start_key, ball.low.shape, ball.low, ball.high + 1, jnp.int32
        )
        scatter = jax.random.uniform(noise_key, ball.low.shape)
        # The first restart begins at the clean input.
        start = jnp.where(rival >= num_classes, start, ball.spike_steps)
        start = project(scatter, start)
        rival = rival % num_classes

        def body(carry: tuple, step_key: jax.Array) -> tuple[tuple, None]:
            steps, momentum, found, best = carry
            gradient = jax.grad(loss)(steps.astype(jnp.float32), rival)
            norm = jnp.abs(gradient).max()
            gradient = gradient / jnp.where(norm > 0, norm, 1.0)
            momentum = 0.7 * momentum + gradient
            wanted = jnp.where(
                momentum > 0,
                ball.low,
                jnp.where(momentum < 0, ball.high, steps),
            )
            keep = jax.random.bernoulli(step_key, 0.15, steps.shape)
            wanted = jnp.where(keep, steps, wanted)
            candidate = project(jnp.abs(momentum), wanted)
            broken = (margins(candidate) < 0).any()
            best = jnp.where(broken & ~found, candidate, best)
            return (candidate, momentum, found | broken, best), None

        found = (margins(start) < 0).any()
        carry = (start, jnp.zeros(start.shape, jnp.float32), found, start)
        keys = jax.random.split(key, config.num_iterations)
        (_, _, found, best), _ = jax.lax.scan(body, carry, keys)
        return Attack(found, best)

    rivals = jnp.arange(num_classes * config.num_restarts, dtype=jnp.int32)
    keys = jax.random.split(key, len(rivals))
    attacks = jax.lax.map(lambda arguments: attack_rival(*arguments), (rivals, keys))
    winner = jnp.argmax(attacks.found)
    return Attack(attacks.found.any(), attacks.spike_steps[winner])


def relaxed_outputs(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    num_steps: int,
    inputs: jax.Array,
    temperature: float,
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
