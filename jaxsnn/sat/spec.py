"""Integer networks: the exact objects that are simulated, bounded and verified.

Time is `0 .. T-1`. Input `i` spikes once, at step `s_i`. A neuron `n` with
integer weights `w` and threshold `theta` follows

    V_n(t)  = sum of w[n, i] over the inputs with s_i <= t
    fire(n) = 1 + the first t with V_n(t) > theta, at most T - 1,

and spikes at `T - 1`, the forced spike, if its potential never crosses. The next
layer takes `fire` as its `s`. The class is the output that fires first, the lowest
index first. (arXiv 2408.10900, with the strict comparison of the published
simulator.)

A layer is any object with `num_inputs`, `num_outputs`, `delay` and `synapses()`;
everything that verifies works on the sparse `Synapses` alone.
"""

import dataclasses
import functools
from typing import NamedTuple, Protocol

import numpy as np

# Products of a float32 weight and a 0/1 spike stay exact integers below this sum.
MAX_EXACT_SUM = 2**24


class Synapses(NamedTuple):
    """Incoming connections of a layer's neurons, one row a neuron.

    The synapses of neuron `n` are the positions `starts[n]:starts[n + 1]`.
    """

    starts: np.ndarray  # [N + 1] int64
    inputs: np.ndarray  # [S] int64, index of the presynaptic neuron
    weights: np.ndarray  # [S] int64
    thresholds: np.ndarray  # [N] int64

    @property
    def neurons(self) -> np.ndarray:
        """Index of the postsynaptic neuron of each synapse, `[S]` int64."""
        return np.repeat(np.arange(len(self.thresholds)), np.diff(self.starts))


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
    return array.astype(np.int64)


def _check_exact(weights_sum: np.ndarray, thresholds: np.ndarray) -> None:
    load = weights_sum + np.abs(thresholds)
    if load.size and load.max() >= MAX_EXACT_SUM:
        neuron = int(load.argmax())
        raise ValueError(
            f"neuron {neuron}: sum |w| + |theta| = {int(load.max())} is not below "
            f"2^24 = {MAX_EXACT_SUM}, so float32 would round; use fewer fractional bits"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A fully connected layer.

    Attributes:
      weights: `[N, D]` integers.
      thresholds: `[N]` integers, compared strictly.

    Raises:
      ValueError: shapes that do not fit, other types than integers, or a neuron whose
        sums could leave the exact range of float32 (named).
    """

    weights: np.ndarray
    thresholds: np.ndarray
    delay: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        weights = _integers("weights", self.weights, 2)
        thresholds = _integers("thresholds", self.thresholds, 1)
        if len(weights) != len(thresholds):
            raise ValueError(
                f"weights of {len(weights)} neurons, but {len(thresholds)} thresholds"
            )
        _check_exact(np.abs(weights).sum(axis=1), thresholds)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "thresholds", thresholds)

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
        neurons, inputs = np.nonzero(self.weights)
        starts = np.searchsorted(neurons, np.arange(self.num_outputs + 1))
        return Synapses(
            starts=starts.astype(np.int64),
            inputs=inputs.astype(np.int64),
            weights=self.weights[neurons, inputs],
            thresholds=self.thresholds,
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
    """

    kernel: np.ndarray
    thresholds: np.ndarray
    input_shape: tuple[int, int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    delay: int = dataclasses.field(default=1, init=False)

    def __post_init__(self) -> None:
        kernel = _integers("kernel", self.kernel, 4)
        thresholds = _integers("thresholds", self.thresholds, 1)
        if kernel.shape[3] != len(thresholds) or kernel.shape[2] != self.input_shape[2]:
            raise ValueError(
                f"kernel {kernel.shape} does not fit input {self.input_shape} "
                f"and {len(thresholds)} thresholds"
            )
        if min(self.output_shape) < 1 or min(self.strides) < 1:
            raise ValueError(
                f"kernel {kernel.shape} with strides {self.strides} leaves nothing of "
                f"input {self.input_shape}"
            )
        _check_exact(np.abs(kernel).sum(axis=(0, 1, 2)), thresholds)
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(self, "thresholds", thresholds)

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
        patches = _patches(
            self.input_shape, (taps_h, taps_w), self.strides, self.padding
        )  # [H', W', KH, KW], position of the tap or -1
        inputs = patches[..., None] * channels + np.arange(channels)
        inside = np.broadcast_to(patches[..., None] >= 0, inputs.shape)
        shape = (height, width, features, taps_h, taps_w, channels)
        inputs = np.broadcast_to(inputs[:, :, None], shape)
        inside = np.broadcast_to(inside[:, :, None], shape)
        weights = np.broadcast_to(np.moveaxis(self.kernel, 3, 0), shape)
        return _sparse_rows(
            inputs.reshape(self.num_outputs, -1),
            np.where(inside, weights, 0).reshape(self.num_outputs, -1),
            np.tile(self.thresholds, height * width),
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
        if min(self.output_shape) < 1 or min(self.window + self.strides) < 1:
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
        patches = _patches(
            self.input_shape, self.window, self.strides, ((0, 0), (0, 0))
        )
        corners = (patches * channels).reshape(height, width, 1, -1)
        inputs = corners + np.arange(channels)[:, None]
        inputs = inputs.reshape(self.num_outputs, -1)
        thresholds = np.zeros(self.num_outputs, np.int64)
        return _sparse_rows(inputs, np.ones_like(inputs), thresholds)


def _patches(
    input_shape: tuple[int, int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> np.ndarray:
    """Positions `row * W + column` under each window, -1 in the padding."""
    positions = np.arange(input_shape[0] * input_shape[1], dtype=np.int64)
    grid = np.pad(
        positions.reshape(input_shape[:2]), padding, constant_values=np.int64(-1)
    )
    views = np.lib.stride_tricks.sliding_window_view(grid, window)
    return views[:: strides[0], :: strides[1]]


def _sparse_rows(
    inputs: np.ndarray, weights: np.ndarray, thresholds: np.ndarray
) -> Synapses:
    """Drops zero weights of `[N, K]` inputs and weights."""
    kept = weights != 0
    starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return Synapses(starts, inputs[kept], weights[kept], thresholds)


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A feed-forward network of one-spike integrate-and-fire neurons.

    Attributes:
      layers: from the inputs to the outputs; widths must fit.
      num_steps: `T`; spike times are `0 .. T-1`.
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
        if self.num_steps < 2:
            raise ValueError(f"{self.num_steps=} must be at least 2")
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
        return self.num_steps - 2 - sum(layer.delay for layer in self.layers[depth:])
