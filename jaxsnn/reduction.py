"""Smaller integer networks: without what never matters, or hardly does.

What `without_silent` leaves out changes no decision, on any input. What the others
leave out may; `experiments.compare_snn` proves on which inputs it does not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsnn.sat import intervals
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import Conv2D, Dense, IntegerNetwork, Layer


def matters(network: IntegerNetwork) -> list[np.ndarray]:
    """Returns which neurons of each hidden layer can have a say in the outputs.

    A neuron has none if on no input it spikes before the last informative step, or if
    all that it reaches has none.

    Returns:
      One `[N]` boolean array for each layer but the last.

    >>> hidden = Dense(np.array([[1], [1], [-1]]), np.array([0, 0, 0]))
    >>> outputs = Dense(np.array([[2, 0, 1], [-1, 0, 1]]), np.array([0, 0]))
    >>> matters(IntegerNetwork((hidden, outputs), num_steps=6))
    [array([ True, False, False])]
    """
    inputs = np.zeros(network.num_inputs, np.int64)
    anything = Query(inputs, inputs, inputs + network.num_steps - 1, label=0)
    levels = intervals.propagate(network, anything)
    found: list[np.ndarray] = []
    reaches = np.ones(network.num_classes, bool)
    for depth in range(len(network.layers) - 1, 0, -1):
        synapses = network.layers[depth].synapses()
        heard = np.zeros(network.layers[depth].num_inputs, bool)
        heard[synapses.inputs[reaches[synapses.neurons]]] = True
        timely = levels[depth].low <= network.last_informative_step(depth)
        reaches = heard & timely
        found.append(reaches)
    return found[::-1]


def without_silent(network: IntegerNetwork) -> IntegerNetwork:
    """Returns the network without the neurons that never matter, all but one a layer.

    Guarantees:
      Equal output spikes on every input.

    Raises:
      ValueError: some layer is not dense.
    """
    kept = matters(network)
    for mask in kept:
        mask[0] |= not mask.any()  # a layer keeps at least one
    return keep_neurons(network, kept)


def keep_neurons(network: IntegerNetwork, kept: Sequence[np.ndarray]) -> IntegerNetwork:
    """Returns the network with only some of its hidden neurons.

    Args:
      network: dense wherever neurons are left out.
      kept: one `[N]` boolean array for each layer but the last.

    Raises:
      ValueError: masks that do not fit, a layer that would be empty, or one that is
        not dense.
    """
    widths = [layer.num_outputs for layer in network.layers[:-1]]
    if [mask.shape for mask in kept] != [(width,) for width in widths]:
        raise ValueError(
            f"kept has shapes {[mask.shape for mask in kept]}; the hidden layers have "
            f"{widths} neurons"
        )
    everything = np.ones(network.num_inputs, bool)
    outputs = np.ones(network.num_classes, bool)
    masks = [everything, *kept, outputs]
    layers: list[Layer] = []
    for depth, layer in enumerate(network.layers):
        columns, rows = masks[depth], masks[depth + 1]
        if not rows.any():
            raise ValueError(f"layer {depth} would have no neurons left")
        if rows.all() and columns.all():
            layers.append(layer)
            continue
        if not isinstance(layer, Dense):
            raise ValueError(
                f"layer {depth} is {type(layer).__name__}; neurons can be left out of "
                "dense layers"
            )
        block = np.ix_(rows, columns)
        delays = None if layer.delays is None else layer.delays[block]
        layers.append(
            dataclasses.replace(
                layer,
                weights=layer.weights[block],
                thresholds=layer.thresholds[rows],
                delays=delays,
            )
        )
    return dataclasses.replace(network, layers=tuple(layers))


def prune_neurons(network: IntegerNetwork, share: float) -> IntegerNetwork:
    """Leaves out the hidden neurons with the least outgoing weight.

    Args:
      network: of dense layers.
      share: of the neurons of each hidden layer, in `[0, 1)`, rounded down.

    Raises:
      ValueError: as `keep_neurons`, or a share outside `[0, 1)`.
    """
    _check_share(share)
    kept = []
    for layer, after in zip(network.layers, network.layers[1:], strict=False):
        synapses = after.synapses()
        outgoing = np.zeros(layer.num_outputs, np.int64)
        np.add.at(outgoing, synapses.inputs, np.abs(synapses.weights))
        mask = np.ones(layer.num_outputs, bool)
        order = np.argsort(outgoing, kind="stable")
        mask[order[: int(share * layer.num_outputs)]] = False
        kept.append(mask)
    return keep_neurons(network, kept)


def prune_weights(network: IntegerNetwork, share: float) -> IntegerNetwork:
    """Sets the weights of least magnitude of each layer to zero.

    Args:
      network: any; pooling has no weights.
      share: of the weights of each layer, in `[0, 1]`, rounded down.

    Raises:
      ValueError: a share outside `[0, 1]`.

    >>> layer = Dense(np.array([[4, -1, 2, -3]]), np.array([1]))
    >>> prune_weights(IntegerNetwork((layer,), num_steps=4), 0.5).layers[0].weights
    array([[ 4,  0,  0, -3]])
    """
    if share != 1:
        _check_share(share)
    layers: list[Layer] = []
    for layer in network.layers:
        if isinstance(layer, Dense):
            weights = _without_smallest(layer.weights, share)
            layers.append(dataclasses.replace(layer, weights=weights))
        elif isinstance(layer, Conv2D):
            kernel = _without_smallest(layer.kernel, share)
            layers.append(dataclasses.replace(layer, kernel=kernel))
        else:
            layers.append(layer)
    return dataclasses.replace(network, layers=tuple(layers))


def _without_smallest(weights: np.ndarray, share: float) -> np.ndarray:
    pruned = weights.copy()
    order = np.argsort(np.abs(weights), axis=None, kind="stable")
    pruned.flat[order[: int(share * weights.size)]] = 0
    return pruned


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{share=} must lie in [0, 1)")
