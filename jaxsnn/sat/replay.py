"""The reference simulator: plain NumPy, int64, one example, no shortcuts.

It shares no code with the accelerated simulator, the bounds or the encodings, and
every counterexample is run through it before it is reported.
"""

import numpy as np

from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Monotone, alike
from jaxsnn.sat.spec import IntegerNetwork, Layer


def potentials(layer: Layer, spike_steps: np.ndarray, num_steps: int) -> np.ndarray:
    """Returns the membrane potentials of a layer.

    Args:
      layer: the layer.
      spike_steps: `[D]` integers, the step at which each input spikes.
      num_steps: `T`.

    Returns:
      `[N, T]` int64: `V_n(t)`, the sum of the weights of all spikes that have arrived
      by `t`.
    """
    synapses = layer.synapses()
    arrivals = np.zeros((layer.num_outputs, num_steps), np.int64)
    steps = np.asarray(spike_steps)[synapses.inputs] + synapses.delays
    in_time = steps < num_steps
    np.add.at(
        arrivals,
        (synapses.neurons[in_time], steps[in_time]),
        synapses.weights[in_time],
    )
    return np.cumsum(arrivals, axis=1)


def spike_steps(network: IntegerNetwork, inputs: np.ndarray) -> list[np.ndarray]:
    """Returns the spike steps of every level, the inputs first.

    Args:
      network: the network.
      inputs: `[D]` integers in `0 .. T-1`.

    Returns:
      A list of `[N_k]` int64 arrays, one a level; the last are the outputs.

    Raises:
      ValueError: inputs of another shape, or outside `0 .. T-1`.

    >>> from jaxsnn.sat.spec import Dense
    >>> layer = Dense(np.array([[2, -3]]), np.array([1]))
    >>> spike_steps(IntegerNetwork((layer,), num_steps=5), np.array([1, 2]))[-1]
    array([2])
    """
    steps = np.asarray(inputs, dtype=np.int64)
    if steps.shape != (network.num_inputs,):
        raise ValueError(
            f"inputs of shape {steps.shape}; the network takes ({network.num_inputs},)"
        )
    last = network.num_steps - 1
    if steps.size and (steps.min() < 0 or steps.max() > last):
        raise ValueError(
            f"spike steps from {steps.min()} to {steps.max()}; "
            f"they must lie in 0 .. {last}"
        )
    levels = [steps]
    for layer in network.layers:
        voltages = potentials(layer, levels[-1], network.num_steps)
        crossed = voltages > layer.synapses().thresholds[:, None]
        first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), last)
        levels.append(np.minimum(first + layer.delay, last))
    return levels


def prediction(output_steps: np.ndarray) -> int:
    """Returns the class: the output that spikes first, the lowest index first."""
    return int(np.argmin(output_steps))


def falsifies(
    network: IntegerNetwork, query: Query, counterexample: np.ndarray
) -> bool:
    """Whether an input, or a pair of inputs, is a counterexample to a query.

    Args:
      network: the network.
      query: the query.
      counterexample: `[D]` spike steps; `[2, D]` for `Monotone`, where the second
        differs from the first in one input that spikes earlier.

    Returns:
      Whether all of it is admissible and breaks what the query requires.
    """
    inputs = np.atleast_2d(counterexample)
    if not all(query.admits(steps) for steps in inputs):
        return False
    outputs = [spike_steps(network, steps)[-1] for steps in inputs]
    match query.requires:
        case Monotone(moved, output):
            if len(inputs) != 2 or inputs[1, moved] >= inputs[0, moved]:
                return False
            same = np.delete(inputs[0] == inputs[1], moved).all()
            return bool(same and outputs[1][output] > outputs[0][output])
        case Alike(other):
            (steps,) = inputs
            others = spike_steps(other, steps)[-1]
            return not alike(query.tie, outputs[0], others)
    return len(inputs) == 1 and query.violated_by(outputs[0])
