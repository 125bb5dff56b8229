"""A network whose inputs spike at random, by moments: one example, `vmap` outside.

Each input spikes at a step drawn from a distribution of its own. Sums of many
independent spikes are nearly normal, so that a mean and a variance a neuron and step
say how likely it is to have crossed; its spikes are taken as independent in turn. The
result is a smooth function of the input distributions whose gradient sees as far as
these are wide. Nothing here is exact, and nothing relies on it being so.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat.spec import Conv2D, Dense, Layer

# Potentials are integers: half a unit either side of a threshold is no information.
_LEAST_VARIANCE = 1.0


def log_odds(
    layers: Sequence[Layer],
    weights: Sequence[simulate.Weights],
    sent: jax.Array,
    label: jax.Array,
    tolerance: jax.Array,
    extra: Sequence[jax.Array | float],
) -> jax.Array:
    """Returns how likely each class is to beat the label.

    Args:
      layers: static facts of the layers.
      weights: their arrays.
      sent: `[T, D]` probabilities that an input has spiked by a step.
      label: `[]` int32.
      tolerance: `[C]` int32, as in `bounds.decided`.
      extra: for each layer a variance that is added to that of its potentials,
        broadcastable to `[T, N]`: what blurs the view.

    Returns:
      `[C]` log-likelihoods, summed over steps as if these excluded one another; `-inf`
      for classes that do not count. Only differences and gradients mean anything.
    """
    num_steps = len(sent)
    for layer, arrays, variance in zip(layers[:-1], weights[:-1], extra, strict=False):
        crossed = _cdf(_excess(layer, arrays, sent, variance))
        sent = simulate.later(crossed, layer.delay).at[num_steps - 1].set(1.0)
    excess = _excess(layers[-1], weights[-1], sent, extra[-1])
    last = num_steps - 1 - layers[-1].delay  # from here on the spike is the forced one
    spiked = _log_cdf(excess).at[last].set(0.0)[: last + 1]
    waits = _log_cdf(-excess[:, label]).at[last].set(-jnp.inf)[: last + 1]
    before = jnp.concatenate([jnp.zeros(1, jnp.float32), waits[:-1]])
    waits = jnp.where(tolerance == 1, before[:, None], waits[:, None])
    classes = jnp.arange(len(tolerance))
    counts = (classes != label) & (tolerance > -num_steps)
    return jnp.where(counts, jax.nn.logsumexp(spiked + waits, axis=0), -jnp.inf)


def variances(
    layers: Sequence[Layer], weights: Sequence[simulate.Weights], sent: jax.Array
) -> list[jax.Array]:
    """Returns the variances `[T, N]` of the potentials of every layer.

    Args:
      layers: static facts of the layers.
      weights: their arrays.
      sent: `[T, D]` probabilities that an input has spiked by a step.
    """
    found = []
    for layer, arrays in zip(layers, weights, strict=True):
        found.append(_variance(layer, arrays, sent))
        crossed = _cdf(_excess(layer, arrays, sent, 0.0))
        sent = simulate.later(crossed, layer.delay).at[len(sent) - 1].set(1.0)
    return found


def _cdf(deviations: jax.Array) -> jax.Array:
    """The normal distribution, as nearly as a logistic one comes to it."""
    return jax.nn.sigmoid(1.702 * deviations)


def _log_cdf(deviations: jax.Array) -> jax.Array:
    return jax.nn.log_sigmoid(1.702 * deviations)


def _excess(
    layer: Layer, arrays: simulate.Weights, sent: jax.Array, extra: jax.Array | float
) -> jax.Array:
    """Highest potential over the threshold so far, in standard deviations: `[T, N]`."""
    mean = simulate.potentials(layer, arrays, sent)
    mean -= simulate.neuron_thresholds(layer, arrays)[None, :] + 0.5
    variance = _variance(layer, arrays, sent) + extra + _LEAST_VARIANCE
    return jax.lax.cummax(mean / jnp.sqrt(variance), axis=0)


def _variance(layer: Layer, arrays: simulate.Weights, sent: jax.Array) -> jax.Array:
    """Variances of potentials `[T, N]` when inputs spike independently."""
    spread = sent * (1 - sent)
    if isinstance(layer, Dense | Conv2D):
        if not simulate.is_instant(layer):
            spread *= float(np.square(layer.response).max())  # no less than it is
        arrays = arrays._replace(weights=jnp.square(arrays.weights))
    parts = [
        simulate.weighted_sums(
            layer, simulate.delayed_by(arrays, delay), simulate.later(spread, delay)
        )
        for delay in simulate.distinct_delays(layer)
    ]
    return sum(parts[1:], parts[0])
