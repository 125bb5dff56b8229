"""Spike times of a batch, differentiable by weight.

Forward, this is the network itself. Backward, time is seen in bins, and the question
whether a neuron has spiked by the end of a bin, a step function of its highest
potential so far, is given a bell-shaped derivative around the threshold. Unlike a
gradient through the one step of the crossing, this one also knows of spikes that
nearly came earlier, and it vanishes where no small change of a weight could help.

This module works on batches, unlike the rest of the library: the gradient of a weight
is a sum over the batch, and `vmap` would first write down every term of it.
"""

import dataclasses
import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import events, network
from jaxsnn.delays import by_delay
from jaxsnn.network import Neurons
from jaxsnn.sat import response
from jaxsnn.sat.response import STEP, peak


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """How the gradient sees time and thresholds.

    Attributes:
      num_bins: into how many bins it sees time divided, at most `T`; None for `T`,
        where the backward pass sees exactly what the forward pass computes.
      width: distance from the threshold, as a fraction of it, at which the derivative
        of a spike by its potential has fallen to a quarter.

    Raises:
      ValueError: less than three bins, or a width that is not positive.
    """

    num_bins: int | None = None
    width: float = 0.3

    def __post_init__(self) -> None:
        if self.num_bins is not None and self.num_bins < 3:
            raise ValueError(f"{self.num_bins=} must be at least 3")
        if not self.width > 0:
            raise ValueError(f"{self.width=} must be positive")


def output_times(
    config: network.NetworkConfig,
    neurons: Sequence[Neurons],
    steps: jax.Array,
    surrogate: Surrogate,
) -> jax.Array:
    """Returns the spike times of the outputs.

    Args:
      config: the network.
      neurons: weights and threshold of every layer of neurons.
      steps: `[B, D]` spike times of the inputs, whole numbers in `0 .. T-1`.
      surrogate: of the gradient.

    Returns:
      `[B, C]` float32, whole numbers in `1 .. T-1`, differentiable by the weights.

    >>> config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=5)
    >>> def time(weights):
    ...     neurons = [Neurons(weights, jnp.float32(1))]
    ...     return output_times(config, neurons, jnp.array([[1, 2]]), Surrogate())[0, 0]
    >>> value, gradient = jax.value_and_grad(time)(jnp.array([[2.0, -1.5]]))
    >>> float(value), (gradient < 0).tolist()
    (2.0, [[True, False]])
    """
    num_steps = config.num_steps
    num_bins = _num_bins(config, surrogate)
    seen = _output_bins(config, neurons, steps, num_bins, surrogate.width)
    if num_bins == num_steps:
        return seen
    seen = seen * ((num_steps - 1) / (num_bins - 1))
    exact = events.output_steps(config, neurons, steps)
    return seen + jax.lax.stop_gradient(exact.astype(seen.dtype) - seen)


def output_bounds(
    config: network.NetworkConfig,
    neurons: Sequence[Neurons],
    earliest: jax.Array,
    latest: jax.Array,
    surrogate: Surrogate,
) -> tuple[jax.Array, jax.Array]:
    """Returns bounds of the spike times of the outputs over a box of inputs.

    Interval propagation: the highest potential has every input of positive weight spike
    as early as it can and every other one as late, and the lowest the reverse. Where a
    response rises and falls, each change of it is bounded alone, which is loose. With
    as many bins as steps the bounds are sound.

    Args:
      config: the network.
      neurons: weights and threshold of every layer of neurons.
      earliest: `[B, D]` first admissible spike times, whole numbers in `0 .. T-1`.
      latest: `[B, D]` last admissible spike times.
      surrogate: of the gradient.

    Returns:
      The first and the last time each output can spike, `[B, C]` float32 each,
      differentiable by the weights.

    >>> config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=6)
    >>> neurons = [Neurons(jnp.array([[2.0, -1.5]]), jnp.float32(1))]
    >>> box = jnp.array([[0, 1]]), jnp.array([[2, 3]])
    >>> [float(t[0, 0]) for t in output_bounds(config, neurons, *box, Surrogate())]
    [1.0, 5.0]
    """
    num_bins = _num_bins(config, surrogate)
    could = _arrived(earliest, config.num_steps, num_bins)
    must = _arrived(latest, config.num_steps, num_bins)
    remaining = iter(neurons)
    for layer, shape in zip(config.layers, config.shapes[:-1], strict=True):
        if isinstance(layer, network.EarliestPool2D):
            could, must = (_pool(layer, shape, spiked) for spiked in (could, must))
            continue
        weights, threshold = next(remaining)
        middle = _potentials(layer, shape, weights, (could + must) / 2)
        spread = _potentials(
            layer, shape, jnp.abs(weights), (could - must) / 2, magnitude=True
        )
        threshold = threshold * peak(layer.response)
        could = _spiked(middle + spread, threshold, surrogate.width)
        must = _spiked(middle - spread, threshold, surrogate.width)
    unit = (config.num_steps - 1) / (num_bins - 1)
    return (num_bins - could.sum(axis=1)) * unit, (num_bins - must.sum(axis=1)) * unit


def _num_bins(config: network.NetworkConfig, surrogate: Surrogate) -> int:
    """Returns `G`; delays and responses count steps, and need a bin for each."""
    num_bins = min(surrogate.num_bins or config.num_steps, config.num_steps)
    if num_bins < config.num_steps and not all(
        map(network.is_instant, config.neuron_layers)
    ):
        raise ValueError(
            f"num_bins={surrogate.num_bins} must be None, or at least "
            f"{config.num_steps}, for layers with delays or a response in time"
        )
    return num_bins


def _bins(steps: jax.Array, num_steps: int, num_bins: int) -> jax.Array:
    steps = steps.astype(jnp.int32)
    return steps if num_bins == num_steps else steps * (num_bins - 1) // (num_steps - 1)


def _arrived(steps: jax.Array, num_steps: int, num_bins: int) -> jax.Array:
    """Returns `[B, G, D]` 0 or 1: whether each input has spiked by each bin."""
    clock = jnp.arange(num_bins, dtype=jnp.int32)[None, :, None]
    return (_bins(steps, num_steps, num_bins)[:, None] <= clock).astype(jnp.float32)


def _output_bins(
    config: network.NetworkConfig,
    neurons: Sequence[Neurons],
    steps: jax.Array,
    num_bins: int,
    width: float,
) -> jax.Array:
    """Returns `[B, C]` bins in which the outputs spike, seen in bins throughout."""
    remaining = iter(neurons)
    first = config.layers[0]
    if isinstance(first, network.Dense) and network.is_instant(first):
        weights, threshold = next(remaining)
        bins = _bins(steps, config.num_steps, num_bins)
        potentials = binned_potentials(weights, bins, num_bins)
        spiked = _spiked(potentials, threshold, width)
        above = 1
    else:
        spiked = _arrived(steps, config.num_steps, num_bins)
        above = 0
    for layer, shape in zip(
        config.layers[above:], config.shapes[above:-1], strict=True
    ):
        if isinstance(layer, network.EarliestPool2D):
            spiked = _pool(layer, shape, spiked)
            continue
        weights, threshold = next(remaining)
        potentials = _potentials(layer, shape, weights, spiked)
        spiked = _spiked(potentials, threshold * peak(layer.response), width)
    return num_bins - spiked.sum(axis=1)


def _potentials(
    layer: network.Dense | network.Conv2D,
    shape: tuple[int, ...],
    weights: jax.Array,
    spiked: jax.Array,
    magnitude: bool = False,
) -> jax.Array:
    """Returns `[B, G, N]` potentials from `[B, G, D]` spikes that have been sent.

    With `magnitude` changes of the response count by their size.
    """
    if layer.response != STEP:
        matrix = response.matrix(layer.response, spiked.shape[1])
        matrix = np.abs(matrix) if magnitude else matrix
        spiked = jnp.einsum("gh,bhd->bgd", matrix, spiked, precision="highest")
    parts = []
    for delay, part in by_delay(weights, layer.delays):
        late = jnp.pad(spiked, ((0, 0), (delay, 0), (0, 0)))[:, : spiked.shape[1]]
        parts.append(_weighted_sums(layer, shape, part, late))
    return functools.reduce(jnp.add, parts)


def _weighted_sums(
    layer: network.Dense | network.Conv2D,
    shape: tuple[int, ...],
    weights: jax.Array,
    spiked: jax.Array,
) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST
    if isinstance(layer, network.Dense):
        return jnp.matmul(spiked, weights.T[None], precision=precision)
    batch = spiked.shape[:2]
    sums = jax.lax.conv_general_dilated(
        spiked.reshape((batch[0] * batch[1], *shape)),
        weights.reshape(len(weights), *layer.window, shape[2]),
        layer.strides,
        "VALID",
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        precision=precision,
    )
    return sums.reshape((*batch, -1))


def _pool(
    layer: network.EarliestPool2D, shape: tuple[int, ...], spiked: jax.Array
) -> jax.Array:
    """Returns `[B, G, N]`: whether any position of each window has spiked."""
    one = functools.partial(network.patches, layer, shape)
    windows = jax.vmap(jax.vmap(one))(spiked)
    return windows.max(axis=-1).reshape((*spiked.shape[:2], -1))


# Whether neurons have spiked, from their potentials.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spiked(potentials: jax.Array, threshold: jax.Array, width: float) -> jax.Array:
    """Returns `[B, G, N]` 0 or 1: whether a neuron has spiked by each bin.

    One bin after its potential first exceeds the threshold, and in the last bin at any
    rate.
    """
    crossed = jax.lax.cummax(potentials, axis=1) > threshold
    delayed = jnp.roll(crossed.astype(potentials.dtype), 1, axis=1)
    return delayed.at[:, 0].set(0).at[:, -1].set(1)


def _spiked_forward(
    potentials: jax.Array, threshold: jax.Array, width: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _spiked(potentials, threshold, width), (potentials, threshold)


def _spiked_backward(
    width: float, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gives each bin's share to the bin in which the potential so far was highest."""
    potentials, threshold = residuals
    highest = jax.lax.cummax(potentials, axis=1)
    distance = jnp.abs(highest - threshold) / (width * threshold)
    slope = 1 / (threshold * (1 + distance) ** 2)
    # The first and the last bin of the output are constants.
    share = jnp.roll(cotangent.at[:, 0].set(0).at[:, -1].set(0), -1, axis=1) * slope
    before = jnp.roll(highest, 1, axis=1).at[:, 0].set(-jnp.inf)
    is_record = potentials > before

    def collect(
        owed: jax.Array, one_bin: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        share, is_record = one_bin
        owed += share
        return jnp.where(is_record, 0, owed), jnp.where(is_record, owed, 0)

    by_bin = (jnp.moveaxis(share, 1, 0), jnp.moveaxis(is_record, 1, 0))
    start = jnp.zeros_like(share[:, 0])
    paid = jax.lax.scan(collect, start, by_bin, reverse=True)[1]
    return jnp.moveaxis(paid, 0, 1), jnp.zeros_like(threshold)


_spiked.defvjp(_spiked_forward, _spiked_backward)


# Potentials of the first layer, from spike times.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def binned_potentials(weights: jax.Array, bins: jax.Array, num_bins: int) -> jax.Array:
    """Returns the potentials of a batch at the end of every bin of time.

    Args:
      weights: `[N, D]`.
      bins: `[B, D]` int32, the bin in which each input spikes.
      num_bins: `G`.

    Returns:
      `[B, G, N]`: the sum of the weights of all inputs that have spiked.

    >>> binned_potentials(jnp.array([[2.0, -1.5]]), jnp.array([[1, 2]]), 4)[0, :, 0]
    Array([0. , 2. , 0.5, 0.5], dtype=float32)
    """
    chex.assert_rank([weights, bins], 2)
    chex.assert_equal_shape_suffix([weights, bins], 1)
    precision = jax.lax.Precision.HIGHEST

    def arrive(sums: jax.Array, one_bin: jax.Array) -> tuple[jax.Array, jax.Array]:
        arrived = (bins == one_bin).astype(weights.dtype)
        sums += jnp.matmul(arrived, weights.T, precision=precision)
        return sums, sums

    start = jnp.zeros((bins.shape[0], weights.shape[0]), weights.dtype)
    sums = jax.lax.scan(arrive, start, jnp.arange(num_bins, dtype=bins.dtype))[1]
    return jnp.moveaxis(sums, 0, 1)


def _binned_potentials_forward(
    weights: jax.Array, bins: jax.Array, num_bins: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return binned_potentials(weights, bins, num_bins), (weights, bins)


def _binned_potentials_backward(
    num_bins: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, None]:
    """Gives each weight what its input's spike has contributed to, from then on."""
    weights, bins = residuals
    from_then_on = jax.lax.cumsum(cotangent, axis=1, reverse=True)

    def add_example(
        total: jax.Array, example: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        from_then_on, bins = example
        return total + from_then_on[bins], None

    def add_bin(
        total: jax.Array, one_bin: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        from_then_on, index = one_bin
        return total + jnp.matmul(
            (bins == index).T.astype(total.dtype), from_then_on
        ), None

    zeros = jnp.zeros_like(weights.T)
    if events.prefer_events(weights, num_bins):
        gradient = jax.lax.scan(add_example, zeros, (from_then_on, bins))[0]
    else:
        clock = jnp.arange(num_bins, dtype=bins.dtype)
        by_bin = (jnp.moveaxis(from_then_on, 1, 0), clock)
        gradient = jax.lax.scan(add_bin, zeros, by_bin)[0]
    return gradient.T, None


binned_potentials.defvjp(_binned_potentials_forward, _binned_potentials_backward)
