"""Networks from and to NIR files, the exchange format of spiking networks.

NIR (https://neuroir.org, doi:10.1038/s41467-024-52259-9) describes continuous dynamics
and knows neither steps, nor that each neuron spikes once, nor the forced spike. A graph
made here says so: an integrate-and-fire neuron that can never spike again has the reset
potential minus infinity, and the rest stands in the metadata of the graph. A graph that
says less, or more than this library can do exactly, is refused with the name of the
node.

Delays are delay nodes of whole steps, for inputs before a linear node and for neurons
after it. Responses in time have no node: what NIR calls leaky integrates currents in
continuous time and spikes again, so that such graphs, snnTorch's among them, are
refused. Needs the package `nir` (extra `nir`).
"""

import dataclasses
import itertools
import os
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from jaxsnn import integer
from jaxsnn.sat.response import STEP
from jaxsnn.sat.spec import Conv2D, Dense, IntegerNetwork, Layer

CODING = "time-to-first-spike"

# Why nodes that others write are refused.
_AGAIN = " (it leaks in continuous time and spikes again and again)"
_REASONS = {nir.LIF: _AGAIN, nir.CubaLIF: _AGAIN}
SCHEMA_VERSION = 1


def to_graph(network: IntegerNetwork) -> nir.NIRGraph:
    """Returns a network as a NIR graph of linear and integrate-and-fire nodes.

    Args:
      network: dense and convolutional layers; a convolution is written as the linear
        map that it is.

    Raises:
      ValueError: a pooling layer, a response in time, or delays that are not the sum of
        one of the input and one of the neuron; NIR has no node for them.

    >>> network = IntegerNetwork((Dense(np.array([[2, -1]]), np.array([1])),), 4)
    >>> list(to_graph(network).nodes)
    ['input', 'weights_0', 'neurons_0', 'output']
    """
    nodes: dict[str, Any] = {
        "input": nir.Input({"input": np.array([network.num_inputs])})
    }
    for depth, layer in enumerate(network.layers):
        if layer.delay != 1:
            raise ValueError(
                f"layer {depth} is a {type(layer).__name__}, which NIR cannot express "
                "for spike times; train with strides instead"
            )
        if isinstance(layer, Dense | Conv2D) and layer.response != STEP:
            raise ValueError(
                f"layer {depth} responds to a spike with {layer.response}, which no "
                "node of NIR does in steps"
            )
        weights, thresholds = _dense_form(layer)
        before, after = _delays(layer, depth)
        if before.any():
            nodes[f"input_delays_{depth}"] = nir.Delay(before.astype(np.float64))
        nodes[f"weights_{depth}"] = nir.Linear(weights.astype(np.float64))
        if after.any():
            nodes[f"neuron_delays_{depth}"] = nir.Delay(after.astype(np.float64))
        nodes[f"neurons_{depth}"] = nir.IF(
            r=np.ones(len(thresholds)),
            v_threshold=thresholds.astype(np.float64),
            v_reset=np.full(len(thresholds), -np.inf),
        )
    nodes["output"] = nir.Output({"output": np.array([network.num_classes])})
    names = list(nodes)
    metadata = {
        "coding": CODING,
        "schema": SCHEMA_VERSION,
        "num_steps": network.num_steps,
        "delay": 1,
        "scale": network.scale,
    }
    edges = list(itertools.pairwise(names))
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata)


def from_graph(
    graph: nir.NIRGraph, num_steps: int | None = None, fractional_bits: int = 4
) -> IntegerNetwork:
    """Returns the network that a NIR graph describes, if it can be one exactly.

    Args:
      graph: a chain of linear and integrate-and-fire nodes.
      num_steps: `T`, for graphs without the metadata of `to_graph`; whoever names it
        vouches that inputs and neurons are meant to spike once, at a step.
      fractional_bits: binary digits kept of weights that are not whole numbers.

    Raises:
      ValueError: naming the node and why it is refused.

    >>> network = IntegerNetwork((Dense(np.array([[2, -1]]), np.array([1])),), 4)
    >>> from_graph(to_graph(network)).layers[0].weights
    array([[ 2, -1]])
    """
    num_steps, scale = _convention(graph.metadata, num_steps)
    linear: list[str] = []
    weights: list[np.ndarray] = []
    thresholds: list[np.ndarray] = []
    pending: np.ndarray | None = None
    # Of the inputs and of the neurons of each layer.
    delays: list[tuple[np.ndarray, np.ndarray]] = []
    before = after = np.zeros(1, np.int64)
    for name in _chain(graph):
        node = graph.nodes[name]
        match node:
            case nir.Linear() | nir.Affine():
                if pending is not None:
                    raise ValueError(f"node {name!r}: follows another linear node")
                if isinstance(node, nir.Affine) and np.any(node.bias):
                    raise ValueError(
                        f"node {name!r}: has a bias, a current without a spike"
                    )
                pending = _finite(name, node.weight)
                linear.append(name)
            case nir.IF():
                if pending is None:
                    raise ValueError(f"node {name!r}: has no linear node before it")
                weights.append(pending)
                thresholds.append(_threshold(name, node, len(pending)))
                delays.append((before, after))
                pending = None
                before = after = np.zeros(1, np.int64)
            case nir.Delay():
                if graph.metadata.get("coding") != CODING:
                    raise ValueError(
                        f"node {name!r}: delays in a unit that the graph does not say; "
                        "this library's graphs count steps"
                    )
                if pending is None:
                    before = before + _whole_steps(name, node)
                else:
                    after = after + _whole_steps(name, node)
            case nir.Flatten():
                # A chain of vectors is flat already.
                if len(next(iter(node.input_type.values()))) > 1:
                    raise ValueError(f"node {name!r}: flattens more than one axis")
            case _:
                raise ValueError(
                    f"node {name!r}: {type(node).__name__} has no exact form here"
                    f"{_REASONS.get(type(node), '')}; Linear, Affine without bias, "
                    "Delay and IF do"
                )
    if pending is not None or before.any() or not weights:
        raise ValueError("the graph does not end with neurons")
    is_whole = all(np.array_equal(w, np.rint(w)) for w in (*weights, *thresholds))
    bits = 0 if is_whole else fractional_bits
    names = [f"node {name!r}" for name in linear]
    rounded = integer.quantize(weights, thresholds, num_steps, bits, names)
    scale = scale if is_whole else rounded.scale
    dense = [layer for layer in rounded.layers if isinstance(layer, Dense)]
    layers = tuple(
        dataclasses.replace(
            layer,
            delays=np.broadcast_to(after[:, None] + before, layer.weights.shape),
        )
        for layer, (before, after) in zip(dense, delays, strict=True)
    )
    return IntegerNetwork(layers, num_steps, scale)


def save(path: str | os.PathLike[str], network: IntegerNetwork) -> None:
    """Writes a network as a NIR file; it appears whole or not at all."""
    with integer.whole_file(path) as temporary:
        nir.write(temporary, to_graph(network))


def load(
    path: str | os.PathLike[str],
    num_steps: int | None = None,
    fractional_bits: int = 4,
) -> IntegerNetwork:
    """Reads a NIR file.

    Args:
      path: the file.
      num_steps: as in `from_graph`.
      fractional_bits: as in `from_graph`.

    Raises:
      ValueError: the file is missing or no NIR file, or as in `from_graph`; each names
        the file.
    """
    name = os.fspath(path)
    try:
        graph = nir.read(name)
    except FileNotFoundError:
        raise ValueError(f"{name}: no such file") from None
    except Exception as error:  # over damaged bytes h5py and nir raise anything
        raise ValueError(f"{name}: not a readable NIR file ({error})") from None
    try:
        return from_graph(graph, num_steps, fractional_bits)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _delays(layer: Layer, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Parts the delays of a layer into those of its inputs and of its neurons."""
    delays = layer.delays if isinstance(layer, Dense) else layer.synapses().delays
    if delays is None or not delays.any():
        return np.zeros(layer.num_inputs, np.int64), np.zeros(layer.num_outputs)
    if isinstance(layer, Dense):
        after = delays[:, 0] - delays[:, 0].min()
        before = delays[0] - after[0]
        if np.array_equal(delays, after[:, None] + before):
            return before, after
    raise ValueError(
        f"layer {depth} has a delay for each synapse; NIR has delays of inputs and of "
        "neurons, which these are not sums of"
    )


def _finite(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"node {name!r}: holds values that are not finite")
    return array


def _whole_steps(name: str, node: nir.Delay) -> np.ndarray:
    delay = np.atleast_1d(_finite(name, node.delay))
    if not np.array_equal(delay, np.rint(delay)) or delay.min() < 0:
        raise ValueError(f"node {name!r}: delays must be whole steps, 0 or more")
    return delay.astype(np.int64)


def _dense_form(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    synapses = layer.synapses()
    weights = np.zeros((layer.num_outputs, layer.num_inputs), np.int64)
    weights[synapses.neurons, synapses.inputs] = synapses.weights
    return weights, synapses.thresholds


def _convention(
    metadata: Mapping[str, Any], num_steps: int | None
) -> tuple[int, float]:
    """Returns the number of steps and the scale, or refuses the graph."""
    coding = metadata.get("coding")
    if coding is None:
        if num_steps is None:
            raise ValueError(
                "the graph does not say that it codes by spike times; if it does, say "
                "num_steps"
            )
        return num_steps, 1.0
    if coding != CODING:
        raise ValueError(f"the graph codes by {coding!r}, not by {CODING!r}")
    schema, delay, stored = (
        _whole(metadata, name) for name in ("schema", "delay", "num_steps")
    )
    if schema > SCHEMA_VERSION:
        raise ValueError(f"schema {schema} is newer than {SCHEMA_VERSION}; update")
    if delay != 1:
        raise ValueError(f"neurons with a delay of {delay} steps have no form here")
    if num_steps not in (None, stored):
        raise ValueError(f"num_steps is {stored} there, not {num_steps}")
    scale = metadata.get("scale")
    try:
        return stored, float(scale)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"its metadata have scale={scale!r}, no number") from None


def _whole(metadata: Mapping[str, Any], name: str) -> int:
    value = metadata.get(name)
    if not isinstance(value, (int, np.integer)):
        raise ValueError(f"its metadata have {name}={value!r}, no whole number")
    return int(value)


def _chain(graph: nir.NIRGraph) -> list[str]:
    """Returns the names of the nodes between input and output, in order."""
    after: dict[str, str] = {}
    targets: set[str] = set()
    for source, target in graph.edges:
        if source in after:
            raise ValueError(f"node {source!r}: branches; only chains have a form here")
        if target in targets:
            raise ValueError(f"node {target!r}: joins; only chains have a form here")
        after[source] = target
        targets.add(target)
    starts = [n for n, node in graph.nodes.items() if isinstance(node, nir.Input)]
    if len(starts) != 1:
        raise ValueError(f"the graph has {len(starts)} inputs; it must have one")
    names = []
    name = after.get(starts[0])
    while name is not None and not isinstance(graph.nodes[name], nir.Output):
        names.append(name)
        name = after.get(name)
        if name in names:
            raise ValueError(f"node {name!r}: is part of a cycle")
    if name is None:
        raise ValueError("the graph's input does not reach its output")
    if unreached := set(graph.nodes) - {starts[0], name, *names}:
        raise ValueError(f"node {min(unreached)!r}: is not on the way to the output")
    return names


def _threshold(name: str, node: nir.IF, num_neurons: int) -> np.ndarray:
    if not np.all(np.asarray(node.r) == 1):
        raise ValueError(f"node {name!r}: has a resistance other than 1")
    if not np.all(np.isneginf(np.asarray(node.v_reset, np.float64))):
        raise ValueError(
            f"node {name!r}: may spike more than once; the reset potential of neurons "
            "that spike once is minus infinity"
        )
    threshold = _finite(name, node.v_threshold)
    return np.broadcast_to(threshold, num_neurons).copy()
