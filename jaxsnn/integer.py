"""The trust boundary: from float weights and files to exact integer networks.

What this module returns *is* the network that is simulated and verified; a float
network is only where it came from. NumPy alone: checkers and solver processes read
networks without jax.
"""

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxsnn.sat.response import STEP
from jaxsnn.sat.spec import (
    MAX_EXACT_SUM,
    Conv2D,
    Dense,
    EarliestPool2D,
    IntegerNetwork,
    Layer,
)

# Version 2 adds responses and delays; networks without them are written as version 1.
SCHEMA_VERSION = 2

# Digits after the point beyond which no weight of 2^-52 or more changes.
_MOST_BITS = 52

# The networks published with arXiv 2408.10900 (S4NN rule, arXiv 1910.09495) have
# this threshold in every layer and do not store it.
S4NN_THRESHOLD = 100.0


def finest_fractional_bits(
    weights: Sequence[np.ndarray],
    thresholds: Sequence[np.ndarray],
    maximum: int = 16,
    peaks: Sequence[int] | None = None,
) -> int:
    """Returns the most fractional bits that keep every neuron exact in float32.

    Args:
      weights: one `[N, D]` array a layer.
      thresholds: one `[N]` array a layer.
      maximum: never return more than this.
      peaks: of the response of each layer, by which its sums are multiplied; ones if
        it is left out.

    Raises:
      ValueError: not even integers fit.
    """
    peaks = peaks or [1] * len(weights)
    load = max(
        float((np.abs(w).sum(axis=1) + np.abs(theta) + 1).max()) * peak
        for w, theta, peak in zip(weights, thresholds, peaks, strict=True)
    )
    # Rounding moves each weight by at most one half unit.
    fan_in = max(w.shape[1] * peak for w, peak in zip(weights, peaks, strict=True))
    for bits in range(maximum, -1, -1):
        if load * 2**bits + fan_in / 2 < MAX_EXACT_SUM:
            return bits
    raise ValueError(f"weights sum to {load:g}, beyond 2^24; scale them down first")


def quantize(
    weights: Sequence[np.ndarray],
    thresholds: Sequence[np.ndarray],
    num_steps: int,
    fractional_bits: int = 4,
    names: Sequence[str] | None = None,
) -> IntegerNetwork:
    """Rounds a dense float network to integers, exactly `2^fractional_bits` finer.

    Args:
      weights: one `[N, D]` float array a layer, inputs first.
      thresholds: one `[N]` float array a layer.
      num_steps: `T`.
      fractional_bits: binary digits kept after the point (0 or more).
      names: what errors call the layers, by default `layer 0`, ...

    Returns:
      The integer network; its `scale` is `2^fractional_bits`.

    Raises:
      ValueError: non-finite values (the layer is named), widths that do not fit, or
        sums that float32 cannot hold (the neuron is named).

    >>> network = quantize([np.array([[1.26]])], [np.array([1.0])], num_steps=4)
    >>> network.layers[0].weights, network.layers[0].thresholds
    (array([[20]]), array([16]))
    """
    if not 0 <= fractional_bits <= _MOST_BITS:
        raise ValueError(f"{fractional_bits=} must be 0 to {_MOST_BITS}")
    if len(weights) != len(thresholds):
        raise ValueError(
            f"weights of {len(weights)} layers, but thresholds of {len(thresholds)}"
        )
    scale = 2**fractional_bits
    names = names or [f"layer {depth}" for depth in range(len(weights))]
    layers = []
    for depth, (weight, threshold) in enumerate(zip(weights, thresholds, strict=True)):
        for name, values in (("weights", weight), ("thresholds", threshold)):
            if not np.isfinite(values).all():
                raise ValueError(f"{name}_{depth} holds values that are not finite")
        try:
            layers.append(Dense(rounded(weight, scale), rounded(threshold, scale)))
        except ValueError as error:
            raise ValueError(f"{names[depth]}: {error}") from error
    return IntegerNetwork(tuple(layers), num_steps, float(scale))


def rounded(values: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Returns the nearest integers to `values * scale`, both finite.

    Numbers that no exact network holds stay as large as int64 allows, where a cast
    would wrap, so that `Dense` refuses them.

    >>> rounded(np.array([1.26, -1e300]), 16).tolist()
    [20, -4611686018427387904]
    """
    with np.errstate(over="ignore"):
        scaled = np.rint(np.asarray(values, np.float64) * scale)
    return np.clip(scaled, -(2.0**62), 2.0**62).astype(np.int64)


def save(path: str | os.PathLike[str], network: IntegerNetwork) -> None:
    """Writes a network as `.npz`: integer arrays and a JSON `spec`, never pickle.

    The file appears whole or not at all.
    """
    arrays: dict[str, np.ndarray] = {}
    described = []
    for depth, layer in enumerate(network.layers):
        facts, parameters = _describe(layer)
        described.append(facts)
        arrays |= {f"{name}_{depth}": value for name, value in parameters.items()}
    spec = {
        "schema": 2 if any("response" in facts for facts in described) else 1,
        "num_steps": network.num_steps,
        "scale": network.scale,
        "layers": described,
    }
    arrays["spec"] = np.array(json.dumps(spec))
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields a temporary name that becomes `path` if all goes well, else is removed."""
    temporary = f"{os.fspath(path)}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def load(
    path: str | os.PathLike[str],
    num_steps: int | None = None,
    fractional_bits: int = 4,
) -> IntegerNetwork:
    """Reads a network written by `save`, or a published S4NN `.npz`.

    Args:
      path: the file.
      num_steps: `T`. An S4NN file does not store it and needs it; for the project's
        own files it may be omitted and must agree.
      fractional_bits: binary digits kept of the float weights of an S4NN file.

    Returns:
      The exact network.

    Raises:
      ValueError: the file is missing, is no such archive, has a schema from the
        future, or its arrays do not fit; each names the file.
    """
    name = os.fspath(path)
    try:
        if os.path.isfile(name) and not zipfile.is_zipfile(name):
            # NumPy would take it for a pickle, and tell how to load that all the same.
            raise zipfile.BadZipFile("no zip archive, or cut off")
        with np.load(name, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except Exception as error:  # damaged bytes make NumPy and zipfile raise anything
        raise ValueError(f"{name}: not a readable .npz of arrays ({error})") from None
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise ValueError(f"{name}: {key} is no array")
        if value.size == 0:
            raise ValueError(f"{name}: {key} of shape {value.shape} is empty")
    try:
        if "spec" in arrays:
            return _from_spec(arrays, num_steps)
        return _from_s4nn(arrays, num_steps, fractional_bits)
    except KeyError as error:
        raise ValueError(f"{name}: lacks {error}, which its spec needs") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def _describe(layer: Layer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    match layer:
        case Dense():
            facts: dict[str, Any] = {"kind": "dense"}
            arrays = {"weights": layer.weights, "thresholds": layer.thresholds}
        case Conv2D():
            facts = {
                "kind": "conv2d",
                "input_shape": layer.input_shape,
                "strides": layer.strides,
                "padding": layer.padding,
            }
            arrays = {"weights": layer.kernel, "thresholds": layer.thresholds}
        case EarliestPool2D():
            facts = {
                "kind": "earliest_pool2d",
                "input_shape": layer.input_shape,
                "window": layer.window,
                "strides": layer.strides,
            }
            return facts, {}
        case _:
            raise ValueError(f"{type(layer).__name__} has no place in the file format")
    if layer.response != STEP or layer.delays is not None:
        facts["response"] = layer.response
    if layer.delays is not None:
        arrays["delays"] = layer.delays
    return facts, arrays


def _from_spec(arrays: dict[str, np.ndarray], num_steps: int | None) -> IntegerNetwork:
    try:
        spec = json.loads(str(arrays["spec"]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its spec is no JSON ({error})") from None
    wanted = {"schema", "num_steps", "scale", "layers"}
    if not isinstance(spec, dict) or not wanted <= set(spec):
        raise ValueError(f"its spec is no network; it must name {sorted(wanted)}")
    for key in ("schema", "num_steps"):
        if type(spec[key]) is not int or spec[key] < 1:
            raise ValueError(
                f"its spec has {key}={spec[key]!r}, not a positive whole number"
            )
    if not isinstance(spec["layers"], list):
        raise ValueError(f"its spec has layers={spec['layers']!r}, no list")
    if type(spec["scale"]) not in (int, float) or not 0 < spec["scale"] < math.inf:
        raise ValueError(f"its spec has scale={spec['scale']!r}, not a positive number")
    if spec["schema"] > SCHEMA_VERSION:
        raise ValueError(
            f"schema {spec['schema']} is newer than {SCHEMA_VERSION}; update jaxsnn"
        )
    if num_steps not in (None, spec["num_steps"]):
        raise ValueError(f"num_steps is {spec['num_steps']} there, not {num_steps}")

    layers: list[Layer] = []
    for depth, facts in enumerate(spec["layers"]):
        try:
            layers.append(_layer(facts, arrays, depth))
        except (ValueError, TypeError) as error:
            raise ValueError(f"layer {depth}: {error}") from error
    return IntegerNetwork(tuple(layers), spec["num_steps"], spec["scale"])


def _layer(facts: Any, arrays: dict[str, np.ndarray], depth: int) -> Layer:
    """Returns one layer as its spec describes it."""
    if not isinstance(facts, dict):
        raise ValueError(f"its spec is {facts!r}, no object")

    def pair(name: str, values: Any) -> tuple[int, int]:
        first, second = _numbers(name, values, 2)
        return first, second

    def image() -> tuple[int, int, int]:
        height, width, channels = _numbers("input_shape", facts["input_shape"], 3)
        return height, width, channels

    kind = facts["kind"]
    if kind == "earliest_pool2d":
        shape, window = image(), pair("window", facts["window"])
        return EarliestPool2D(shape, window, pair("strides", facts["strides"]))
    if kind not in ("dense", "conv2d"):
        raise ValueError(f"is of unknown kind {kind!r}")
    weights, thresholds = arrays[f"weights_{depth}"], arrays[f"thresholds_{depth}"]
    options: dict[str, Any] = {"delays": arrays.get(f"delays_{depth}")}
    if "response" in facts:
        options["response"] = _numbers("response", facts["response"])
    if kind == "dense":
        return Dense(weights, thresholds, **options)
    rows, columns = facts["padding"]
    return Conv2D(
        weights,
        thresholds,
        image(),
        pair("strides", facts["strides"]),
        (pair("padding", rows), pair("padding", columns)),
        **options,
    )


def _numbers(name: str, values: Any, count: int | None = None) -> tuple[int, ...]:
    """Returns whole numbers of a spec, so many of them if `count` says so."""
    wanted = isinstance(values, list) and count in (None, len(values))
    if not wanted or not all(type(value) is int for value in values):
        many = "" if count is None else f"{count} "
        raise ValueError(f"its spec has {name}={values!r}, not {many}whole numbers")
    return tuple(values)


def _from_s4nn(
    arrays: dict[str, np.ndarray], num_steps: int | None, fractional_bits: int
) -> IntegerNetwork:
    names = [f"weights_{depth}" for depth in range(len(arrays))]
    if not names or set(names) != set(arrays):
        raise ValueError(
            f"holds {sorted(arrays)}; a network has weights_0, weights_1, ... "
            "or a spec beside them"
        )
    if num_steps is None:
        raise ValueError("an S4NN file does not store num_steps; say it")
    weights = [arrays[name] for name in names]
    for name, weight in zip(names, weights, strict=True):
        if weight.ndim != 2 or weight.dtype.kind not in "fiu":
            raise ValueError(
                f"{name} is {weight.dtype} of shape {weight.shape}; "
                "it must be numbers as [out, in]"
            )
    thresholds = [np.full(len(weight), S4NN_THRESHOLD) for weight in weights]
    return quantize(weights, thresholds, num_steps, fractional_bits)
