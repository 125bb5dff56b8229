"""The S4NN rule as it is usually programmed: NumPy, one example at a time.

From the description in arXiv 1910.09495: potentials of all steps by a matrix product
with the one-hot spike train and a cumulative sum, errors against target times, and one
update of the weights for each example.
"""

from collections.abc import Sequence

import numpy as np

THRESHOLD = 1.0
MARGIN = 3


def learn(
    weights: Sequence[np.ndarray],
    steps: np.ndarray,
    label: int,
    num_steps: int,
    rate: float,
) -> None:
    """Changes the weights in place by one example.

    Args:
        weights: `[N, D]` float64, one array a layer.
        steps: `[D]` spike times of the inputs.
        label: the class.
        num_steps: `T`.
        rate: learning rate.
    """
    last = num_steps - 1
    levels = [steps]
    for layer in weights:
        train = np.zeros((len(levels[-1]), num_steps))
        train[np.arange(len(levels[-1])), levels[-1]] = 1
        crossed = np.cumsum(layer @ train, axis=1) > THRESHOLD
        first = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, last)
        levels.append(np.minimum(first, last))
    outputs = levels[-1]
    first = outputs.min()
    if first == last:
        target = np.full(len(outputs), last)
        target[label] = last - MARGIN
    else:
        target = np.maximum(outputs, first + MARGIN)
        target[label] = first
    delta = (target - outputs) / last
    for depth in reversed(range(len(weights))):
        delta = delta / (np.linalg.norm(delta) or 1.0)
        causal = levels[depth][None, :] < levels[depth + 1][:, None]
        update = np.where(causal, delta[:, None], 0)
        delta = (update * weights[depth]).sum(axis=0)
        weights[depth][...] -= rate * update
