"""Weights of a few bits: rounded while training, integers afterwards.

Training sees the very integers that are verified: `quantize` rounds weights to whole
numbers of `bits` bits and scales the threshold along, also to a whole number, in every
update. Gradients pass the rounding unchanged (the straight-through estimator,
arXiv 1308.3432). Responses in time are integers already: the thresholds of an integer
network are multiplied by the peak of the response, its fixed point.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import integer, network
from jaxsnn.sat import spec
from jaxsnn.sat.response import peak

# The step between levels, in standard deviations, that rounds a Gaussian with the
# least squared error to 2^(bits - 1) - 1 levels on either side of zero.
_GAUSSIAN_STEP = {
    2: 1.2240,
    3: 0.6508,
    4: 0.3534,
    5: 0.1932,
    6: 0.1055,
    7: 0.0573,
    8: 0.0309,
}


def check_bits(bits: int) -> None:
    """Raises ValueError unless `bits` is 0 (float) or 2 (ternary) to 8."""
    if bits and bits not in _GAUSSIAN_STEP:
        raise ValueError(f"{bits=} must be 2 (ternary) to 8, or 0 for float weights")


def quantize(weights: jax.Array, threshold: float, bits: int) -> network.Neurons:
    """Rounds the weights of one layer to whole numbers of `bits` bits.

    The step between levels follows from the mean square of the weights, so the result
    is a function of the weights alone, and training and export agree.

    Args:
      weights: `[N, D]` float32.
      threshold: of the neurons.
      bits: 2 (ternary) to 8; 0 returns the weights as they are.

    Returns:
      Whole numbers of at most `2^(bits - 1) - 1` in magnitude, as float32, and a
      positive whole threshold. Gradients reach the weights as if they had only been
      scaled.

    Raises:
      ValueError: another number of bits.

    >>> quantize(jnp.array([[0.5, -0.2, 0.1, -0.4]]), 1.0, bits=3)[0].tolist()
    [[2.0, -1.0, 0.0, -2.0]]
    """
    check_bits(bits)
    chex.assert_rank(weights, 2)
    if bits == 0:
        return network.Neurons(weights, jnp.float32(threshold))
    largest = 2 ** (bits - 1) - 1
    step = _GAUSSIAN_STEP[bits] * jnp.sqrt(jnp.mean(weights**2))
    # The threshold must be a whole number of steps: the step gives way.
    levels = jnp.clip(jnp.round(threshold / step), 1, spec.MAX_EXACT_SUM // 2)
    levels = jax.lax.stop_gradient(levels)
    scaled = weights * (levels / threshold)
    rounded = jnp.clip(jnp.round(scaled), -largest, largest)
    return network.Neurons(scaled + jax.lax.stop_gradient(rounded - scaled), levels)


def integer_neurons(
    config: network.NetworkConfig, params: network.Params, bits: int
) -> list[network.Neurons]:
    """Returns weights and thresholds as the whole numbers of `integer_network`.

    They are float32 that hold integers exactly, so that `jaxsnn.events.output_steps`
    of them is what the integer network does, on every device.

    Args:
      config: the float network.
      params: its weights.
      bits: as in `quantize`; with 0 the weights are rounded to as many fractional bits
        as float32 sums can hold, at most 16.

    Raises:
      ValueError: weights that are not finite (the layer is named).
    """
    for depth, weights in enumerate(params.weights):
        if not bool(jnp.isfinite(weights).all()):
            raise ValueError(
                f"weights of layer {depth} hold values that are not finite"
            )
    neurons = [quantize(weights, config.threshold, bits) for weights in params.weights]
    if bits:
        return neurons
    # Of weights in thresholds: only the ratio of the two matters.
    bits = integer.finest_fractional_bits(
        [np.asarray(w, np.float64) / config.threshold for w, _ in neurons],
        [np.ones(len(layer.weights)) for layer in neurons],
        peaks=[peak(layer.response) for layer in config.neuron_layers],
    )
    scale = 2.0**bits / config.threshold
    return [
        network.Neurons(jnp.round(weights * scale), jnp.float32(2.0**bits))
        for weights, _ in neurons
    ]


def integer_network(
    config: network.NetworkConfig, params: network.Params, bits: int
) -> spec.IntegerNetwork:
    """Returns the exact network that training with `bits` bits has made.

    Args:
      config: the float network.
      params: its weights.
      bits: as in `integer_neurons`.

    Returns:
      The integer network.

    Raises:
      ValueError: weights that are not finite, or sums that leave the exact range.

    >>> config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=5)
    >>> params = network.Params((jnp.array([[2.0, -1.5]]),))
    >>> integer_network(config, params, bits=4).layers[0].weights
    array([[ 4, -3]])
    """
    remaining = iter(integer_neurons(config, params, bits))
    layers: list[spec.Layer] = []
    scale = 1.0
    for layer, shape in zip(config.layers, config.shapes[:-1], strict=True):
        if isinstance(layer, network.EarliestPool2D):
            layers.append(
                spec.EarliestPool2D(_image(shape), layer.window, layer.strides)
            )
            continue
        neurons = next(remaining)
        scale = float(neurons.threshold) / config.threshold
        weights = np.asarray(neurons.weights).astype(np.int64)
        # Above what the neurons can reach, one threshold is as good as another.
        reach = int(np.abs(weights).sum(axis=1).max())
        threshold = min(int(neurons.threshold), max(reach, 1)) * peak(layer.response)
        thresholds = np.full(len(weights), threshold)
        delays = None if layer.delays is None else layer.delays.steps
        if isinstance(layer, network.Dense):
            layers.append(spec.Dense(weights, thresholds, layer.response, delays))
            continue

        def as_kernel(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            return np.moveaxis(values.reshape(len(values), *shape), 0, -1)

        taps = (*layer.window, shape[2])
        layers.append(
            spec.Conv2D(
                as_kernel(weights, taps),
                thresholds,
                _image(shape),
                layer.strides,
                response=layer.response,
                delays=None if delays is None else as_kernel(delays, taps),
            )
        )
    return spec.IntegerNetwork(tuple(layers), config.num_steps, scale)


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape
    return height, width, channels
