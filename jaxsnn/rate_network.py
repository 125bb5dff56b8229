"""Training and simulation of rate-coded networks: one example, `vmap` outside.

The float form of `jaxsnn.sat.rate`, with the same leak. Spikes pass forward as they
are, and backward through a bell-shaped derivative around the threshold (surrogate
gradient), unrolled through time; weights are rounded while training
(`jaxsnn.low_precision`), so that what has learned is what is verified.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsnn import low_precision, network
from jaxsnn.sat.rate import LIF, Leak, RateNetwork
from jaxsnn.training import Gradient

# The published networks keep 0.95 of a potential; this is the next fraction of 16.
PUBLISHED_LEAK = Leak(15, 4)


@dataclasses.dataclass(frozen=True)
class RateConfig:
    """What does not change in training; hashable.

    Attributes:
      widths: neurons of every level, the inputs first.
      num_steps: `T`.
      leak: share of a potential that is left after a step.
      weight_bits: 2 (ternary) to 8.
      width: of the surrogate derivative, relative to the threshold.

    Raises:
      ValueError: fewer than two levels, or other bits.
    """

    widths: tuple[int, ...]
    num_steps: int
    leak: Leak = PUBLISHED_LEAK
    weight_bits: int = 4
    width: float = 0.5

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1 or self.num_steps < 1:
            raise ValueError(
                f"widths={self.widths} must be two or more positive numbers, "
                f"and num_steps={self.num_steps} positive"
            )
        low_precision.check_bits(self.weight_bits)
        if self.weight_bits == 0:
            raise ValueError("weight_bits=0: rate-coded networks need whole weights")


def init(key: jax.Array, config: RateConfig) -> network.Params:
    """Draws initial weights, with a positive mean so that neurons do spike.

    Args:
      key: a PRNG key; consumed.
      config: the network.

    >>> params = init(jax.random.key(0), RateConfig((4, 3, 2), num_steps=5))
    >>> [w.shape for w in params.weights]
    [(3, 4), (2, 3)]
    """
    keys = jax.random.split(key, len(config.widths) - 1)
    return network.Params(
        tuple(
            2.0 / inputs + jax.random.normal(layer_key, (outputs, inputs)) / inputs**0.5
            for layer_key, (inputs, outputs) in zip(
                keys, itertools.pairwise(config.widths), strict=True
            )
        )
    )


def integer_network(config: RateConfig, params: network.Params) -> RateNetwork:
    """Returns the exact network that training has made.

    Raises:
      ValueError: a neuron whose potential could leave 32 bits (named).
    """
    layers = []
    for weights in params.weights:
        neurons = low_precision.quantize(weights, 1.0, config.weight_bits)
        whole = np.asarray(neurons.weights).astype(np.int64)
        layers.append(LIF(whole, np.full(len(whole), int(neurons.threshold))))
    return RateNetwork(tuple(layers), config.num_steps, config.leak)


def output_spikes(rate_network: RateNetwork, spikes: jax.Array) -> jax.Array:
    """Returns the output spikes of one example, exactly, on any device.

    Args:
      rate_network: the exact network.
      spikes: `[T, D]` booleans.

    Returns:
      `[T, C]` booleans, those of `jaxsnn.sat.rate.spike_trains`: currents are float32
      sums below 2^24 and potentials int32.

    >>> layer = LIF(np.array([[2]]), np.array([2]))
    >>> one = RateNetwork((layer,), num_steps=4, leak=Leak(1, 1))
    >>> output_spikes(one, jnp.ones((4, 1), bool))[:, 0].astype(int).tolist()
    [0, 1, 0, 1]
    """
    numerator, bits = rate_network.leak
    units = 2 ** (bits * jnp.arange(rate_network.num_steps, dtype=jnp.int32))
    for layer in rate_network.layers:
        weights = jnp.asarray(layer.weights, jnp.float32)
        thresholds = jnp.asarray(layer.thresholds, jnp.int32)
        currents = jnp.matmul(
            spikes.astype(jnp.float32), weights.T, precision="highest"
        ).astype(jnp.int32)

        def advance(
            state: tuple[jax.Array, jax.Array],
            inputs: tuple[jax.Array, jax.Array],
            thresholds: jax.Array = thresholds,
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            potential, spiked = state
            current, unit = inputs
            current = current - jnp.where(spiked, thresholds, 0)
            potential = numerator * potential + unit * current
            spiked = potential > unit * thresholds
            return (potential, spiked), spiked

        start = jnp.zeros_like(thresholds), jnp.zeros(thresholds.shape, bool)
        spikes = jax.lax.scan(advance, start, (currents, units))[1]
    return spikes


def gradient(config: RateConfig, temperature: float = 1.0) -> Gradient:
    """Returns the mean loss of a batch and its surrogate gradient, as a function.

    The loss is the cross-entropy of the label under a softmax of spike counts.

    Args:
      config: the network.
      temperature: number of spikes in which the odds of a class grow by a factor e.

    Returns:
      What `jaxsnn.training.make_update` takes; its inputs are `[B, T, D]` spikes.
    """

    def mean_loss(
        params: network.Params,
        spikes: jax.Array,
        labels: jax.Array,
        num_updates: jax.Array,
    ) -> jax.Array:
        del num_updates
        neurons = [
            low_precision.quantize(weights, 1.0, config.weight_bits)
            for weights in params.weights
        ]
        counts = jax.vmap(functools.partial(_counts, config, neurons))(spikes)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            counts / temperature, labels
        )
        return losses.mean()

    return jax.value_and_grad(mean_loss)


def _counts(
    config: RateConfig, neurons: Sequence[network.Neurons], spikes: jax.Array
) -> jax.Array:
    """`[C]` spike counts of the outputs of one example, differentiable."""
    level = spikes.astype(jnp.float32)
    for weights, threshold in neurons:
        currents = jnp.matmul(level, weights.T, precision="highest")

        def advance(
            state: tuple[jax.Array, jax.Array],
            current: jax.Array,
            threshold: jax.Array = threshold,
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            potential, spiked = state
            potential = config.leak.share * potential + current - threshold * spiked
            spiked = _spike(potential / threshold - 1, config.width)
            return (potential, spiked), spiked

        zeros = jnp.zeros(len(weights), jnp.float32)
        level = jax.lax.scan(advance, (zeros, zeros), currents)[1]
    return level.sum(axis=0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _spike(excess: jax.Array, width: float) -> jax.Array:
    """1 where a potential is over its threshold, else 0."""
    return (excess > 0).astype(excess.dtype)


@_spike.defjvp
def _spike_jvp(
    width: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (excess,), (tangent,) = primals, tangents
    slope = 1 / (1 + jnp.abs(excess) / width) ** 2
    return _spike(excess, width), slope * tangent
