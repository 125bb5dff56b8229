"""Published weights as they are, in float64: does a verdict survive the rounding?

Only for explanations. What is verified is the integer network, whose arithmetic is
exact; here sums round, and a crossing may depend on it.
"""

import enum
import os
from collections.abc import Sequence

import numpy as np

from jaxsnn.integer import S4NN_THRESHOLD


class Crossing(enum.Enum):
    """When a potential is over the threshold."""

    STRICT = ">"  # the published simulator
    REACHING = ">="  # the published SMT and mixed-integer encodings


def load_weights(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """Returns the `[N, D]` weights of each layer of a published network."""
    with np.load(path, allow_pickle=False) as archive:
        return [archive[f"weights_{depth}"] for depth in range(len(archive.files))]


def output_steps(
    weights: Sequence[np.ndarray],
    num_steps: int,
    spike_steps: np.ndarray,
    crossing: Crossing = Crossing.STRICT,
) -> np.ndarray:
    """Returns the spike steps of the outputs, `[C]`.

    >>> output_steps([np.array([[60.0, 60.0]])], 5, np.array([0, 2]))
    array([3])
    """
    steps = np.asarray(spike_steps)
    last = num_steps - 1
    for weight in weights:
        arrived = steps[:, None] <= np.arange(num_steps)
        potentials = weight @ arrived
        if crossing is Crossing.STRICT:
            crossed = potentials > S4NN_THRESHOLD
        else:
            crossed = potentials >= S4NN_THRESHOLD
        first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), last)
        steps = np.minimum(first + 1, last)
    return steps


def is_violated(outputs: np.ndarray, label: int) -> bool:
    """Whether another output spikes no later than the label's."""
    return bool((np.delete(outputs, label) <= outputs[label]).any())


def find_single_shift(
    weights: Sequence[np.ndarray],
    num_steps: int,
    spike_steps: np.ndarray,
    label: int,
    crossing: Crossing = Crossing.STRICT,
) -> tuple[int, int] | None:
    """Tries every shift of one input by one step; returns the first that violates.

    Returns:
        `(input, step)`, or None if the L1 ball of radius 1 holds no violation but,
        perhaps, the unperturbed input itself.
    """
    for neuron, clean in enumerate(spike_steps):
        for step in (clean - 1, clean + 1):
            if 0 <= step < num_steps:
                changed = np.array(spike_steps)
                changed[neuron] = step
                outputs = output_steps(weights, num_steps, changed, crossing)
                if is_violated(outputs, label):
                    return neuron, int(step)
    return None
