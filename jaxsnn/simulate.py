"""The exact simulator on the accelerator: one example, `vmap` outside.

Weights and sums are integers below 2^24 held in float32, one factor of each product
is a response to a spike (0 or 1, unless the layer has another), and products run at the
highest precision: the results are exact integer arithmetic on CPU, GPU and TPU, equal
to `jaxsnn.sat.replay` bit for bit.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.sat import response
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork, Layer


class Weights(NamedTuple):
    """The arrays of one layer as the accelerator sees them.

    Pooling layers hold empty arrays.
    """

    weights: jax.Array  # [N, D] or [KH, KW, C, F] float32 integers
    thresholds: jax.Array  # [N] or [F] float32 integers
    delays: jax.Array  # like the weights, int32; empty if there are none


def device_weights(network: IntegerNetwork) -> tuple[Weights, ...]:
    """Returns the weights of every layer as float32 arrays of exact integers."""

    def convert(layer: Layer) -> Weights:
        delays = np.zeros(0)
        if isinstance(layer, Dense):
            arrays = layer.weights, layer.thresholds
        elif isinstance(layer, Conv2D):
            arrays = layer.kernel, layer.thresholds
        else:
            arrays = np.zeros(0), np.zeros(0)
        if isinstance(layer, Dense | Conv2D) and layer.delays is not None:
            delays = layer.delays
        weights, thresholds = (jnp.asarray(array, jnp.float32) for array in arrays)
        return Weights(weights, thresholds, jnp.asarray(delays, jnp.int32))

    return tuple(convert(layer) for layer in network.layers)


def potentials(layer: Layer, weights: Weights, arrived: jax.Array) -> jax.Array:
    """Returns membrane potentials from the spikes that have been sent.

    Linear in the weights and in the spikes, which need not be 0 or 1.

    Args:
      layer: static facts of the layer.
      weights: its arrays.
      arrived: `[T, D]` float32, 1 where an input has spiked by step t.

    Returns:
      `[T, N]` float32 integers.
    """
    if not is_instant(layer):
        arrived = respond(layer, arrived)
    delays = distinct_delays(layer)
    parts = [
        weighted_sums(layer, delayed_by(weights, delay), later(arrived, delay))
        for delay in delays
    ]
    return functools.reduce(jnp.add, parts)


def is_instant(layer: Layer) -> bool:
    """Whether every spike of a layer counts at once and for ever."""
    return isinstance(layer, EarliestPool2D) or (
        isinstance(layer, Dense | Conv2D)
        and layer.response == response.STEP
        and layer.delays is None
    )


def distinct_delays(layer: Layer) -> tuple[int, ...]:
    """Returns the delays that synapses of a layer have, static."""
    if not isinstance(layer, Dense | Conv2D) or layer.delays is None:
        return (0,)
    return tuple(np.unique(layer.delays).tolist())


def delayed_by(weights: Weights, delay: int) -> Weights:
    """Returns the weights with zeros where a synapse has another delay."""
    if weights.delays.size == 0:
        return weights
    kept = jnp.where(weights.delays == delay, weights.weights, 0.0)
    return weights._replace(weights=kept)


def later(values: jax.Array, steps: int) -> jax.Array:
    """Returns `[T, ...]` values moved to so many steps later; zeros come first."""
    if steps == 0:
        return values
    return jnp.zeros_like(values).at[steps:].set(values[: max(len(values) - steps, 0)])


def respond(layer: Layer, arrived: jax.Array) -> jax.Array:
    """Returns `[T, D]` responses to spikes that have been sent by each step."""
    assert isinstance(layer, Dense | Conv2D)
    if layer.response == response.STEP:
        return arrived
    return jnp.matmul(
        response.matrix(layer.response, len(arrived)), arrived, precision="highest"
    )


def weighted_sums(layer: Layer, weights: Weights, values: jax.Array) -> jax.Array:
    """Returns `[M, N]` sums of `[M, D]` values over the synapses of each neuron."""
    if isinstance(layer, Dense):
        return jnp.matmul(values, weights.weights.T, precision="highest")
    if isinstance(layer, Conv2D):
        images = values.reshape((len(values), *layer.input_shape))
        sums = jax.lax.conv_general_dilated(
            images,
            weights.weights,
            layer.strides,
            layer.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return sums.reshape(len(values), -1)
    if isinstance(layer, EarliestPool2D):
        images = values.reshape((len(values), *layer.input_shape))
        sums = jax.lax.reduce_window(
            images,
            np.float32(0),  # concrete, or it has no derivative
            jax.lax.add,
            (1, *layer.window, 1),
            (1, *layer.strides, 1),
            "VALID",
        )
        return sums.reshape(len(values), -1)
    raise ValueError(f"no simulator for {type(layer).__name__}")


def neuron_thresholds(layer: Layer, weights: Weights) -> jax.Array:
    """Returns `[N]` float32 thresholds, one a neuron."""
    if isinstance(layer, EarliestPool2D):
        return jnp.zeros(layer.num_outputs, jnp.float32)
    repeats = layer.num_outputs // len(weights.thresholds)
    return jnp.tile(weights.thresholds, repeats)


def has_spiked(spike_steps: jax.Array, num_steps: int) -> jax.Array:
    """Returns `[T, N]` float32: 1 from the step at which each of `[N]` spikes."""
    clock = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    return (spike_steps[None, :] <= clock).astype(jnp.float32)


def first_crossing(crossed: jax.Array) -> jax.Array:
    """Returns `[N]` int32 from `[T, N]` booleans, `T` where nothing crosses."""
    first = jnp.where(crossed.any(axis=0), crossed.argmax(axis=0), len(crossed))
    return first.astype(jnp.int32)


def crossing_steps(crossed: jax.Array, delay: int) -> jax.Array:
    """Returns spike steps from `[T, N]` booleans: first crossing, then delay."""
    return jnp.minimum(first_crossing(crossed) + delay, len(crossed) - 1)


def spike_steps(
    layers: Sequence[Layer],
    weights: Sequence[Weights],
    num_steps: int,
    inputs: jax.Array,
) -> list[jax.Array]:
    """Returns the spike steps of every level, the inputs first.

    Args:
      layers: static facts of the layers (`network.layers`).
      weights: their arrays (`device_weights(network)`).
      num_steps: `T`.
      inputs: `[D]` int32 in `0 .. T-1`.

    Returns:
      A list of `[N_k]` int32 arrays, one a level.

    References:
      Seong, Kim and Ko, https://arxiv.org/abs/2408.10900

    >>> network = IntegerNetwork(
    ...     (Dense(np.array([[2, -3]]), np.array([1])),), num_steps=5)
    >>> spike_steps(network.layers, device_weights(network), 5, jnp.array([1, 2]))[-1]
    Array([2], dtype=int32)
    """
    levels = [inputs.astype(jnp.int32)]
    for layer, arrays in zip(layers, weights, strict=True):
        voltages = potentials(layer, arrays, has_spiked(levels[-1], num_steps))
        crossed = voltages > neuron_thresholds(layer, arrays)[None, :]
        levels.append(crossing_steps(crossed, layer.delay))
    return levels


def output_steps(network: IntegerNetwork, inputs: jax.Array) -> jax.Array:
    """Returns the output spikes of a batch: `spike_steps` for one fixed network.

    Args:
      network: the network; static, so that a jitted function closes over it.
      inputs: `[B, D]` integer spike steps.

    Returns:
      `[B, C]` int32; the prediction is the `argmin` over classes.

    Raises:
      AssertionError: when traced, inputs of another shape or not of integers.

    >>> from jaxsnn.sat.spec import Dense
    >>> layer = Dense(np.array([[2, -1], [-1, 2]]), np.array([1, 1]))
    >>> network = IntegerNetwork((layer,), num_steps=8)
    >>> jax.jit(lambda x: output_steps(network, x))(jnp.array([[1, 4]])).tolist()
    [[2, 7]]
    """
    chex.assert_shape(inputs, (None, network.num_inputs))
    chex.assert_type(inputs, int)
    weights = device_weights(network)

    def one(example: jax.Array) -> jax.Array:
        return spike_steps(network.layers, weights, network.num_steps, example)[-1]

    return jax.vmap(one)(inputs)
