"""Float networks of one-spike integrate-and-fire neurons: one example, no batch.

The semantics are those of `jaxsnn.sat.spec`, with float weights: every input and
every neuron spikes once, and a neuron spikes one step after its potential first
exceeds the threshold, at `T - 1` if it never does. This is where a network starts;
its integer form (`jaxsnn.integer`) is what is measured and verified.

Responses are integers here, too, and so are delays: training sees what is verified. A
potential is `sum_i w[n, i] kappa(t - s_i - d[n, i])` and is compared to the threshold
times the peak of `kappa`, so that the scale of a response does not matter.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsnn.delays import Delays, by_delay, responses
from jaxsnn.layers import Conv2D, Dense, EarliestPool2D, Layer, output_shape
from jaxsnn.layers import is_instant as is_instant
from jaxsnn.sat import spec
from jaxsnn.sat.response import STEP, Response, by_age, peak

# The mean of the initial weights is such that the potential of a neuron all of whose
# inputs have spiked is this many thresholds (on average over time, if it leaks), and
# their spread such that its standard deviation is as many.
_INITIAL_MEAN = 3.0
_INITIAL_SPREAD = 1.0


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What does not change in training; hashable, so it can be a static argument.

    Attributes:
      input_shape: `(D,)`, or `(H, W, C)` when a layer is two-dimensional. Inputs
        are numbered row, column, channel.
      layers: from the inputs to the outputs; the last is `Dense`, one neuron a class.
      num_steps: `T`; spike times are `0 .. T-1`.
      threshold: of every neuron, compared strictly. Only its ratio to the weights
        matters.

    Raises:
      ValueError: layers that do not fit the shape they are given, too few steps for
        the depth, or a threshold that is not positive.

    >>> config = NetworkConfig((8, 8, 1), (Conv2D(4), EarliestPool2D(), Dense(10)), 16)
    >>> config.shapes
    ((8, 8, 1), (6, 6, 4), (3, 3, 4), (10,))
    """

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    num_steps: int
    threshold: float = 1.0

    def __post_init__(self) -> None:
        # Lists are welcome; what is static must be hashable.
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers or not isinstance(self.layers[-1], Dense):
            raise ValueError(
                f"layers={self.layers} must end with a Dense layer of classes"
            )
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"threshold={self.threshold} must be positive")
        depth = sum(not isinstance(layer, EarliestPool2D) for layer in self.layers)
        if self.num_steps < depth + 2:
            raise ValueError(
                f"num_steps={self.num_steps} must be at least {depth + 2}: with "
                f"{depth} layers of neurons no output could spike before the last step"
            )
        if self.num_steps > spec.MAX_STEPS:
            raise ValueError(
                f"num_steps={self.num_steps} must be at most {spec.MAX_STEPS}"
            )
        for layer, fan in zip(self.neuron_layers, self.weight_shapes, strict=True):
            if layer.delays is not None and layer.delays.shape != fan:
                raise ValueError(
                    f"delays of shape {layer.delays.shape} for weights of shape {fan}"
                )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of every level, the inputs first."""
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(output_shape(layer, shapes[-1]))
        return tuple(shapes)

    @property
    def neuron_layers(self) -> tuple[Dense | Conv2D, ...]:
        """The layers that have weights."""
        return tuple(la for la in self.layers if not isinstance(la, EarliestPool2D))

    @property
    def weight_shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes of the weights in `Params`."""
        shapes = []
        for layer, shape in zip(self.layers, self.shapes[:-1], strict=True):
            if isinstance(layer, Dense):
                shapes.append((layer.num_neurons, math.prod(shape)))
            elif isinstance(layer, Conv2D):
                taps = math.prod(layer.window) * shape[2]
                shapes.append((layer.num_features, taps))
        return tuple(shapes)


class Params(NamedTuple):
    """The weights of a network, one entry a layer of neurons (pooling has none).

    Attributes:
      weights: `[N, D]` float32 for dense layers; `[F, KH * KW * C]` for convolutions,
        taps numbered row, column, channel.
    """

    weights: tuple[jax.Array, ...]


class Neurons(NamedTuple):
    """The weights of one layer beside the threshold they are compared to.

    Attributes:
      weights: as in `Params`.
      threshold: scalar float32.
    """

    weights: jax.Array
    threshold: jax.Array


def init(key: jax.Array, config: NetworkConfig) -> Params:
    """Draws initial weights.

    They are Gaussian with a positive mean, so that neurons do spike: a network whose
    neurons are silent learns nothing.

    Args:
      key: a PRNG key; consumed.
      config: the network.

    Returns:
      Float32 weights for every layer of neurons.

    >>> config = NetworkConfig((64,), (Dense(32), Dense(10)), num_steps=16)
    >>> [w.shape for w in init(jax.random.key(0), config).weights]
    [(32, 64), (10, 32)]
    """
    weights = []
    keys = jax.random.split(key, len(config.layers))
    with_weights = [
        layer_key
        for layer_key, layer in zip(keys, config.layers, strict=True)
        if not isinstance(layer, EarliestPool2D)
    ]
    for layer_key, layer, fan in zip(
        with_weights, config.neuron_layers, config.weight_shapes, strict=True
    ):
        noise = jax.random.normal(layer_key, fan) / math.sqrt(fan[1])
        mean = _INITIAL_MEAN / fan[1] / _mean_response(layer, config.num_steps)
        weights.append(config.threshold * (mean + _INITIAL_SPREAD * noise))
    return Params(tuple(weights))


def _mean_response(layer: Dense | Conv2D, num_steps: int) -> float:
    """Share of its weight that a spike contributes on average, 1 for a step."""
    values = by_age(layer.response, num_steps)[num_steps:]
    return max(float(values.mean()) / peak(layer.response), 1 / num_steps)


def apply(config: NetworkConfig, params: Params, steps: jax.Array) -> list[jax.Array]:
    """Returns the spike times of every level of one example.

    Args:
      config: the network.
      params: its weights.
      steps: `[D]` spike times of the inputs, whole numbers in `0 .. T-1`.

    Returns:
      A list of `[N_k]` float32 arrays of whole numbers, the inputs first; the class is
      the `argmin` of the last. Not differentiable: see `jaxsnn.surrogate`.

    >>> config = NetworkConfig((2,), (Dense(1),), num_steps=5)
    >>> apply(config, Params((jnp.array([[2.0, -1.5]]),)), jnp.array([1, 2]))[-1]
    Array([2.], dtype=float32)
    """
    chex.assert_shape(steps, (math.prod(config.input_shape),))
    threshold = jnp.float32(config.threshold)
    weights = iter(params.weights)
    levels = [steps.astype(jnp.float32)]
    for layer, shape in zip(config.layers, config.shapes[:-1], strict=True):
        if isinstance(layer, EarliestPool2D):
            levels.append(patches(layer, shape, levels[-1]).min(axis=-1).ravel())
            continue
        if isinstance(layer, Conv2D):
            rows = patches(layer, shape, levels[-1])[:, 0]
        else:
            rows = levels[-1][None]
        fired = jax.vmap(
            functools.partial(
                spike_steps,
                next(weights),
                threshold=threshold,
                num_steps=config.num_steps,
                response=layer.response,
                delays=layer.delays,
            )
        )(rows)
        levels.append(fired.ravel())
    return levels


def spike_steps(
    weights: jax.Array,
    steps: jax.Array,
    threshold: jax.Array,
    num_steps: int,
    response: Response = STEP,
    delays: Delays | None = None,
) -> jax.Array:
    """Returns the steps at which neurons spike.

    Args:
      weights: `[N, D]`.
      steps: `[D]` spike times of their inputs.
      threshold: scalar, or `[N]`; multiplied by the peak of the response.
      num_steps: `T`.
      response: to each spike.
      delays: of the synapses, `[N, D]`.

    Returns:
      `[N]` float32: one step after the potential first exceeds the threshold, at most
      `T - 1`.

    >>> weights = jnp.array([[2.0, -1.5], [1.0, 1.0]])
    >>> spike_steps(weights, jnp.array([1, 2]), jnp.float32(1), num_steps=9)
    Array([2., 3.], dtype=float32)
    """
    voltages = potentials(weights, steps, num_steps, response, delays)
    threshold = jnp.broadcast_to(threshold * peak(response), voltages.shape[:1])
    crossed = voltages > threshold[:, None]
    first = jnp.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, num_steps - 1)
    return jnp.minimum(first, num_steps - 1).astype(jnp.float32)


def potentials(
    weights: jax.Array,
    steps: jax.Array,
    num_steps: int,
    response: Response = STEP,
    delays: Delays | None = None,
) -> jax.Array:
    """Returns the membrane potentials of neurons at every step.

    Args:
      weights: `[N, D]`.
      steps: `[D]` spike times of their inputs.
      num_steps: `T`.
      response: to each spike.
      delays: of the synapses, `[N, D]`.

    Returns:
      `[N, T]`: the sum of the weights of all inputs that have spiked up to `t`, times
      the responses to them.

    >>> potentials(jnp.array([[2.0, -1.5]]), jnp.array([1, 2]), num_steps=4)
    Array([[0. , 2. , 0.5, 0.5]], dtype=float32)
    """
    clock = jnp.arange(num_steps, dtype=steps.dtype)
    if response == STEP and delays is None:
        arrived = steps[:, None] <= clock[None, :]
        return jnp.matmul(
            weights, arrived.astype(weights.dtype), precision=jax.lax.Precision.HIGHEST
        )
    ages = (clock[None, :] - steps[:, None]).astype(jnp.int32)
    parts = [
        jnp.matmul(
            part,
            responses(response, ages - delay, num_steps),
            precision=jax.lax.Precision.HIGHEST,
        )
        for delay, part in by_delay(weights, delays)
    ]
    return functools.reduce(jnp.add, parts)


def patches(
    layer: Conv2D | EarliestPool2D, shape: tuple[int, ...], steps: jax.Array
) -> jax.Array:
    """Returns the spike times under every position of a layer's window.

    Args:
      layer: a two-dimensional layer.
      shape: `(H, W, C)` of its input.
      steps: `[H * W * C]`.

    Returns:
      For a convolution `[P, 1, KH * KW * C]`, for pooling `[P, C, KH * KW]`, with `P`
      positions, row by row.
    """
    image = steps.reshape(shape)
    rows, columns, _ = output_shape(layer, shape)
    taps = jnp.stack(
        [
            image[
                i : i + (rows - 1) * layer.strides[0] + 1 : layer.strides[0],
                j : j + (columns - 1) * layer.strides[1] + 1 : layer.strides[1],
            ].reshape(rows * columns, shape[2])
            for i in range(layer.window[0])
            for j in range(layer.window[1])
        ],
        axis=1,
    )
    if isinstance(layer, Conv2D):
        return taps.reshape(rows * columns, 1, -1)
    return jnp.moveaxis(taps, 1, 2)
