"""The race between the label and the other outputs, and which neurons decide it.

A class beats the label if it has crossed its threshold by a step and the label has not.
The functions here say what potentials lack of that, and what it would be worth at the
steps where it is nearest if a neuron of the layer before spiked sooner or later.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsnn import simulate
from jaxsnn.sat.spec import Layer


class Opponents(NamedTuple):
    """Whom the label races against; `tolerance` as in `bounds.decided`."""

    label: jax.Array  # [] int32
    tolerance: jax.Array  # [C] int32

    def counts(self, num_steps: int) -> jax.Array:
        """Returns `[C]` bool, the classes that may beat the label."""
        classes = jnp.arange(len(self.tolerance))
        return (classes != self.label) & (self.tolerance > -num_steps)


def gaps(
    layer: Layer, arrays: simulate.Weights, voltages: jax.Array, against: Opponents
) -> jax.Array:
    """Returns what each class lacks of beating the label at each step.

    What its own potential lacks of the threshold, and by how much the label's has
    exceeded it at or before the same step, or the one before, are added up.

    Args:
      layer: the last layer.
      arrays: its weights.
      voltages: `[T, C]` its potentials.
      against: label and tolerance.

    Returns:
      `[T', C]` float32 up to the last step that counts; 0 for a counterexample.
    """
    num_steps = len(voltages)
    thresholds = simulate.neuron_thresholds(layer, arrays)[None, :]
    excess = jax.lax.cummax(voltages, axis=0) - thresholds
    last = num_steps - 1 - layer.delay  # from here on the spike is the forced one
    rises = jnp.maximum(1.0 - excess, 0.0).at[last].set(0.0)[: last + 1]
    falls = jnp.maximum(excess[:, against.label], 0.0)
    falls = falls.at[last].set(jnp.inf)[: last + 1]
    before = jnp.concatenate([jnp.zeros(1), falls[:-1]])
    waits = jnp.where(against.tolerance == 1, before[:, None], falls[:, None])
    return jnp.where(against.counts(num_steps), rises + waits, jnp.inf)


def margin(
    layer: Layer, arrays: simulate.Weights, voltages: jax.Array, against: Opponents
) -> jax.Array:
    """Returns how many steps the label is ahead, below 1 for a counterexample.

    Args:
      layer: the last layer.
      arrays: its weights.
      voltages: `[T, C]` its potentials.
      against: label and tolerance.
    """
    thresholds = simulate.neuron_thresholds(layer, arrays)[None, :]
    steps = simulate.crossing_steps(voltages > thresholds, layer.delay)
    ahead = (steps - steps[against.label] - against.tolerance + 1).astype(jnp.float32)
    return jnp.where(against.counts(len(voltages)), ahead, jnp.inf).min()


class Worth(NamedTuple):
    """What spikes of the layer before are worth in `R` races of a class at a step."""

    at: jax.Array  # [R] int32, the steps
    lacking: jax.Array  # [R] float32
    sooner: jax.Array  # [N, R] float32, for a spike at this step or before
    later: jax.Array  # [N, R] float32, for the next spike instead of this one


def worth(
    layer: Layer,
    arrays: simulate.Weights,
    voltages: jax.Array,
    against: Opponents,
    now: jax.Array,
    then: jax.Array,
) -> Worth:
    """Returns what other spikes would take from the gaps.

    For each class three steps count: where it lacks least, where the label spikes, and
    where the class does.

    Args:
      layer: a dense last layer.
      arrays: its weights.
      voltages: `[T, C]` its potentials.
      against: label and tolerance.
      now: `[N]` int32, when neurons of the layer before spike.
      then: `[N]` int32, when they would if the first crossing did not count.
    """
    found = gaps(layer, arrays, voltages, against)  # [T', C]
    latest = len(found) - 1
    crossed = voltages > simulate.neuron_thresholds(layer, arrays)[None, :]
    steps = simulate.crossing_steps(crossed, 0)
    at = jnp.concatenate(
        [
            jnp.argmin(found, axis=0),
            jnp.broadcast_to(jnp.minimum(steps[against.label], latest), steps.shape),
            jnp.minimum(steps, latest),
        ]
    ).astype(jnp.int32)
    classes = jnp.tile(jnp.arange(found.shape[1], dtype=jnp.int32), 3)
    outputs = arrays.weights.T  # [N, C]
    lead = (outputs - outputs[:, against.label][:, None])[:, classes]
    absent = now[:, None] > at[None, :]
    ends = ~absent & (then[:, None] > at[None, :])
    return Worth(
        at,
        found[at, classes],
        jnp.where(absent, lead, 0.0),
        jnp.where(ends, -lead, 0.0),
    )
