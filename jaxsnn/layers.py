"""The layers of a float network: static, hashable descriptions without weights."""

import dataclasses

from jaxsnn.delays import Delays
from jaxsnn.sat.response import STEP, Response, canonical


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully connected layer.

    Attributes:
      num_neurons: `N`.
      response: of a potential to a spike (`jaxsnn.sat.response`), integers; the
        default is a step.
      delays: of the synapses, `[N, D]`, or None.

    Raises:
      ValueError: another kind of delays, or no response.
    """

    num_neurons: int
    response: Response = STEP
    delays: Delays | None = None

    def __post_init__(self) -> None:
        _check_synapses(self)


@dataclasses.dataclass(frozen=True)
class Conv2D:
    """A convolution; neurons are numbered row, column, feature.

    Attributes:
      num_features: `F`.
      window: `(rows, columns)` of the kernel.
      strides: `(rows, columns)`.
      response: as in `Dense`.
      delays: `[F, KH * KW * C]`, or None.
    """

    num_features: int
    window: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    response: Response = STEP
    delays: Delays | None = None

    def __post_init__(self) -> None:
        _check_synapses(self)
        _check_pairs(self)


@dataclasses.dataclass(frozen=True)
class EarliestPool2D:
    """The earliest spike of each window, without delay and without weights.

    Attributes:
      window: `(rows, columns)`.
      strides: `(rows, columns)`.
    """

    window: tuple[int, int] = (2, 2)
    strides: tuple[int, int] = (2, 2)

    def __post_init__(self) -> None:
        _check_pairs(self)


Layer = Dense | Conv2D | EarliestPool2D


def _check_synapses(layer: Dense | Conv2D) -> None:
    object.__setattr__(layer, "response", canonical(layer.response))
    if not isinstance(layer.delays, Delays | None):
        raise ValueError(
            f"delays of type {type(layer.delays).__name__} must be static: "
            "Delays.of(array)"
        )


def _check_pairs(layer: Conv2D | EarliestPool2D) -> None:
    for name in ("window", "strides"):
        value = getattr(layer, name)
        if not isinstance(value, tuple) or len(value) != 2:
            raise ValueError(f"{name}={value!r} must be (rows, columns)")


def is_instant(layer: Dense | Conv2D) -> bool:
    """Whether every spike counts at once and for ever."""
    return layer.response == STEP and layer.delays is None


def output_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of the neurons of a layer, from that of its inputs.

    Raises:
      ValueError: a layer without neurons, or that does not fit its inputs.
    """
    if isinstance(layer, Dense):
        if layer.num_neurons < 1:
            raise ValueError(f"{layer} must have at least one neuron")
        return (layer.num_neurons,)
    if len(shape) != 3:
        raise ValueError(f"{layer} takes an input of shape (H, W, C), not {shape}")
    if min(layer.window + layer.strides) < 1:
        raise ValueError(f"{layer} must have positive window and strides")
    rows, columns = (
        (size - taps) // stride + 1
        for size, taps, stride in zip(
            shape[:2], layer.window, layer.strides, strict=True
        )
    )
    if min(rows, columns) < 1:
        raise ValueError(f"{layer} leaves nothing of an input of shape {shape}")
    channels = layer.num_features if isinstance(layer, Conv2D) else shape[2]
    if channels < 1:
        raise ValueError(f"{layer} must have at least one feature")
    return (rows, columns, channels)
