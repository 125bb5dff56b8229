"""Integer networks: the exact objects that are simulated, bounded and verified.

Time is `0 .. T-1`. Input `i` spikes once, at step `s_i`. A neuron `n` with
integer weights `w` and threshold `theta` follows

    V_n(t)  = sum of w[n, i] over the inputs with s_i <= t
    fire(n) = 1 + the first t with V_n(t) > theta, at most T - 1,

and spikes at `T - 1`, the forced spike, if its potential never crosses. The next
layer takes `fire` as its `s`. The class is the output that fires first, the lowest
index first. (arXiv 2408.10900, with the strict comparison of the published
simulator.)

Two options stay linear in "input i has spiked by step t". A synapse may have a delay
`d[n, i]`, counted in whole steps, and a layer a response `kappa` to each spike:

    V_n(t)  = sum over inputs i of w[n, i] kappa(t - s_i - d[n, i])

with `kappa(u) = 0` before the spike arrives; by default `d = 0` and `kappa = 1`. As
sparse synapses this is several of one input, delayed each by so much
(`jaxsnn.sat.response`).

A layer is any object with `num_inputs`, `num_outputs`, `delay` and `synapses()`;
everything that verifies works on the sparse `Synapses` alone.
"""

import dataclasses
import functools
from typing import Protocol

import numpy as np

from jaxsnn.sat.response import STEP, Response, canonical, peak
from jaxsnn.sat.synapses import Synapses, patches, sparse_rows

# Products of a float32 weight and a 0/1 spike stay exact integers below this sum.
MAX_EXACT_SUM = 2**24
# Spike times and delays fit in 16 bits, and nothing as long as time grows beyond
# measure.
MAX_STEPS = 2**15


class Layer(Protocol):
    """What verification asks of a layer."""

    @property
    def num_inputs(self) -> int:
        """Number of presynaptic neurons."""

    @property
    def num_outputs(self) -> int:
        """Number of neurons."""

    @property
    def delay(self) -> int:
        """Steps from a crossing to the spike: 1 for neurons, 0 for pooling."""

    def synapses(self) -> Synapses:
        """Returns the layer as sparse rows."""


def _integers(name: str, values: np.ndarray, ndim: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}; it must have {ndim} axes")
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} has type {array.dtype}; exact networks hold integers "
            "(jaxsnn.integer.quantize makes them)"
        )
    return array


def _check_exact(
    weights: np.ndarray, thresholds: np.ndarray, response: Response
) -> None:
    """Checks `[..., N]` weights; sums are taken in float64, which never wraps."""
    sizes = np.abs(weights.astype(np.float64)).sum(axis=tuple(range(weights.ndim - 1)))
    load = sizes * peak(response) + np.abs(thresholds.astype(np.float64))
    if load.size and load.max() >= MAX_EXACT_SUM:
        neuron = int(load.argmax())
        sums = "sum |w|" if response == STEP else f"sum |w| * {peak(response)}"
        raise ValueError(
            f"neuron {neuron}: {sums} + |theta| = {int(load.max())} is not below "
            f"2^24 = {MAX_EXACT_SUM}, so float32 would round; use fewer fractional bits"
        )


def _delays(delays: np.ndarray | None, weights: np.ndarray) -> np.ndarray | None:
    if delays is None:
        return None
    steps = _integers("delays", delays, weights.ndim)
    least, most = int(steps.min(initial=0)), int(steps.max(initial=0))
    if steps.shape != weights.shape or not 0 <= least <= most < MAX_STEPS:
        raise ValueError(
            f"delays of shape {steps.shape} from {least} to {most}; they must be 0 to "
            f"{MAX_STEPS - 1}, one a weight {weights.shape}"
        )
    return steps.astype(np.int64) if steps.any() else None


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A fully connected layer.

    Attributes:
      weights: `[N, D]` integers.
      thresholds: `[N]` integers, compared strictly.
      response: of a potential to a spike, `kappa(0), kappa(1), ...`; the last value
        stays (`jaxsnn.sat.response` has leak, ramp and alpha).
      delays: `[N, D]` whole steps of each synapse, or None for none.

    Raises:
      ValueError: shapes that do not fit, other types than integers, negative delays,
        or a neuron whose sums could leave the exact range of float32 (named).

    >>> from jaxsnn.sat import replay
    >>> layer = Dense(np.array([[3]]), np.array([4]), response=(2, 1, 0))
    >>> replay.potentials(layer, np.array([1]), num_steps=6)
    array([[0, 6, 3, 0, 0, 0]])
    """

    weights: np.ndarray
    thresholds: np.ndarray
    response: Response = STEP
    delays: np.ndarray | None = None
    delay: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        weights = _integers("weights", self.weights, 2)
        thresholds = _integers("thresholds", self.thresholds, 1)
        if len(weights) != len(thresholds):
            raise ValueError(
                f"weights of {len(weights)} neurons, but {len(thresholds)} thresholds"
            )
        response = canonical(self.response)
        _check_exact(weights.T, thresholds, response)
        object.__setattr__(self, "weights", weights.astype(np.int64))
        object.__setattr__(self, "thresholds", thresholds.astype(np.int64))
        object.__setattr__(self, "response", response)
        object.__setattr__(self, "delays", _delays(self.delays, weights))

    @property
    def num_inputs(self) -> int:
        """Number of presynaptic neurons."""
        return self.weights.shape[1]

    @property
    def num_outputs(self) -> int:
        """Number of neurons."""
        return self.weights.shape[0]

    def synapses(self) -> Synapses:
        """Returns the connections of nonzero weight."""
        return self._synapses

    @functools.cached_property
    def _synapses(self) -> Synapses:
        inputs = np.broadcast_to(np.arange(self.num_inputs), self.weights.shape)
        return sparse_rows(
            inputs, self.weights, self.thresholds, self.response, self.delays
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Conv2D:
    """A two-dimensional convolution; neurons are numbered row, column, channel.

    Attributes:
      kernel: `[KH, KW, C, F]` integers.
      thresholds: `[F]` integers, one a feature.
      input_shape: `(H, W, C)`.
      strides: `(rows, columns)`.
      padding: zeros before and after, `((top, bottom), (left, right))`; a padded
        position has no synapse.
      response: as in `Dense`.
      delays: `[KH, KW, C, F]` whole steps, one a weight of the kernel, or None.
    """

    kernel: np.ndarray
    thresholds: np.ndarray
    input_shape: tuple[int, int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    response: Response = STEP
    delays: np.ndarray | None = None
    delay: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        kernel = _integers("kernel", self.kernel, 4)
        thresholds = _integers("thresholds", self.thresholds, 1)
        if kernel.shape[3] != len(thresholds) or kernel.shape[2] != self.input_shape[2]:
            raise ValueError(
                f"kernel {kernel.shape} does not fit input {self.input_shape} "
                f"and {len(thresholds)} thresholds"
            )
        if min(*self.padding[0], *self.padding[1]) < 0:
            raise ValueError(f"padding={self.padding} must not be negative")
        if min(self.strides) < 1 or min(self.output_shape) < 1:
            raise ValueError(
                f"kernel {kernel.shape} with strides {self.strides} leaves nothing of "
                f"input {self.input_shape}"
            )
        response = canonical(self.response)
        _check_exact(kernel, thresholds, response)
        object.__setattr__(self, "kernel", kernel.astype(np.int64))
        object.__setattr__(self, "thresholds", thresholds.astype(np.int64))
        object.__setattr__(self, "response", response)
        object.__setattr__(self, "delays", _delays(self.delays, kernel))

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """`(H', W', F)`."""
        height, width = (
            (size + sum(pad) - window) // stride + 1
            for size, pad, window, stride in zip(
                self.input_shape[:2],
                self.padding,
                self.kernel.shape[:2],
                self.strides,
                strict=True,
            )
        )
        return height, width, self.kernel.shape[3]

    @property
    def num_inputs(self) -> int:
        """Number of presynaptic neurons."""
        return int(np.prod(self.input_shape))

    @property
    def num_outputs(self) -> int:
        """Number of neurons."""
        return int(np.prod(self.output_shape))

    def synapses(self) -> Synapses:
        """Returns the connections of nonzero weight."""
        return self._synapses

    @functools.cached_property
    def _synapses(self) -> Synapses:
        height, width, features = self.output_shape
        taps_h, taps_w, channels, _ = self.kernel.shape
        taps = patches(
            self.input_shape, (taps_h, taps_w), self.strides, self.padding
        )  # [H', W', KH, KW], position of the tap or -1
        inputs = taps[..., None] * channels + np.arange(channels)
        inside = np.broadcast_to(taps[..., None] >= 0, inputs.shape)
        shape = (height, width, features, taps_h, taps_w, channels)
        inputs = np.broadcast_to(inputs[:, :, None], shape)
        inside = np.broadcast_to(inside[:, :, None], shape)

        def at_every_position(kernel: np.ndarray) -> np.ndarray:
            taps = np.broadcast_to(np.moveaxis(kernel, 3, 0), shape)
            return np.where(inside, taps, 0).reshape(self.num_outputs, -1)

        return sparse_rows(
            inputs.reshape(self.num_outputs, -1),
            at_every_position(self.kernel),
            np.tile(self.thresholds, height * width),
            self.response,
            None if self.delays is None else at_every_position(self.delays),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class EarliestPool2D:
    """Pooling of spike times: the earliest spike of each window, without delay.

    The time-domain form of max pooling: an output spikes as soon as one input of
    its window has.

    Attributes:
      input_shape: `(H, W, C)`.
      window: `(rows, columns)`.
      strides: `(rows, columns)`.
    """

    input_shape: tuple[int, int, int]
    window: tuple[int, int] = (2, 2)
    strides: tuple[int, int] = (2, 2)
    delay: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        if min(self.window + self.strides) < 1 or min(self.output_shape) < 1:
            raise ValueError(
                f"window {self.window} with strides {self.strides} leaves nothing of "
                f"input {self.input_shape}"
            )

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """`(H', W', C)`."""
        height, width, channels = self.input_shape
        return (
            (height - self.window[0]) // self.strides[0] + 1,
            (width - self.window[1]) // self.strides[1] + 1,
            channels,
        )

    @property
    def num_inputs(self) -> int:
        """Number of presynaptic neurons."""
        return int(np.prod(self.input_shape))

    @property
    def num_outputs(self) -> int:
        """Number of pooled positions."""
        return int(np.prod(self.output_shape))

    def synapses(self) -> Synapses:
        """Returns unit weights and thresholds of zero: any spike crosses."""
        return self._synapses

    @functools.cached_property
    def _synapses(self) -> Synapses:
        height, width, channels = self.output_shape
        taps = patches(self.input_shape, self.window, self.strides, ((0, 0), (0, 0)))
        corners = (taps * channels).reshape(height, width, 1, -1)
        inputs = corners + np.arange(channels)[:, None]
        inputs = inputs.reshape(self.num_outputs, -1)
        thresholds = np.zeros(self.num_outputs, np.int64)
        return sparse_rows(inputs, np.ones_like(inputs), thresholds)


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A feed-forward network of one-spike integrate-and-fire neurons.

    Attributes:
      layers: from the inputs to the outputs; widths must fit.
      num_steps: `T`, at most `MAX_STEPS`; spike times are `0 .. T-1`.
      scale: integers per unit of the float network the weights came from (a label;
        the semantics do not use it).

    >>> layer = Dense(np.array([[2, -1], [1, 1]]), np.array([1, 0]))
    >>> IntegerNetwork((layer,), num_steps=4).num_inputs
    2
    """

    layers: tuple[Layer, ...]
    num_steps: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a network needs at least one layer")
        if not 2 <= self.num_steps <= MAX_STEPS:
            raise ValueError(f"num_steps={self.num_steps} must be 2 to {MAX_STEPS}")
        for depth in range(1, len(self.layers)):
            before, after = self.layers[depth - 1], self.layers[depth]
            if before.num_outputs != after.num_inputs:
                raise ValueError(
                    f"layer {depth} takes {after.num_inputs} inputs, but layer "
                    f"{depth - 1} has {before.num_outputs} neurons"
                )

    @property
    def num_inputs(self) -> int:
        """Number of input neurons."""
        return self.layers[0].num_inputs

    @property
    def num_classes(self) -> int:
        """Number of output neurons."""
        return self.layers[-1].num_outputs

    def last_informative_step(self, depth: int) -> int:
        """Returns the last spike step of level `depth` that outputs can tell apart.

        Level 0 are the inputs, level `k` the neurons of `layers[k - 1]`. A spike after
        this step reaches the outputs no sooner than the forced spike at `T - 1`; all
        such times, and silence, are one value.
        """
        return self.num_steps - 2 - sum(self._latencies[depth:])

    @functools.cached_property
    def _latencies(self) -> tuple[int, ...]:
        """The fewest steps in which a spike can pass through each layer."""
        return tuple(
            layer.delay + int(delays.min() if delays.size else 0)
            for layer in self.layers
            for delays in [layer.synapses().delays]
        )
