"""How often a float network and its integer form decide alike, on data.

The integer form is what is measured and verified; this says how far it is from the
float network that it came from. NumPy and SciPy, batches of examples in float64.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse

from jaxsnn import integer

# Potentials of one batch, in numbers.
_BATCH_ELEMENTS = 2**21


class Agreement(NamedTuple):
    """Counts over examples.

    Attributes:
      num_examples: how many there were.
      predictions: of them with the same prediction, the lowest index winning a tie.
      output_steps: of them with the same spike times of all outputs.
      float_correct: of them that the float network classifies rightly.
      integer_correct: of them that the integer network classifies rightly.
    """

    num_examples: int
    predictions: int
    output_steps: int
    float_correct: int
    integer_correct: int


def measure(
    weights: Sequence[np.ndarray],
    thresholds: Sequence[np.ndarray],
    num_steps: int,
    steps: np.ndarray,
    labels: np.ndarray,
    fractional_bits: int = 4,
) -> Agreement:
    """Compares a dense float network with what `integer.quantize` makes of it.

    Args:
      weights: one `[N, D]` float array a layer, inputs first.
      thresholds: one `[N]` float array a layer.
      num_steps: `T`.
      steps: `[B, D]` spike times of the examples, whole numbers in `0 .. T-1`.
      labels: `[B]` classes.
      fractional_bits: binary digits kept after the point.

    Raises:
      ValueError: as `integer.quantize`.

    >>> weights, thresholds = [np.array([[1.02, 0.4], [1.01, 0.5]])], [np.ones(2)]
    >>> steps, labels = np.array([[0, 1], [1, 0]]), np.array([0, 0])
    >>> measure(weights, thresholds, 6, steps, labels).predictions
    2
    """
    whole = integer.quantize(weights, thresholds, num_steps, fractional_bits)
    rows = [layer.synapses().thresholds for layer in whole.layers]
    exact = [layer.weights.astype(np.float64) for layer in whole.layers]  # type: ignore[attr-defined]
    count = same = identical = float_correct = integer_correct = 0
    for batch in _batches(len(steps), max(len(w) for w in weights)):
        one = output_steps(weights, thresholds, num_steps, steps[batch])
        # Sums of integers far below 2^53 are exact in float64.
        other = output_steps(exact, rows, num_steps, steps[batch])
        classes, others = one.argmin(axis=1), other.argmin(axis=1)
        count += len(one)
        same += int((classes == others).sum())
        identical += int((one == other).all(axis=1).sum())
        float_correct += int((classes == labels[batch]).sum())
        integer_correct += int((others == labels[batch]).sum())
    return Agreement(count, same, identical, float_correct, integer_correct)


def output_steps(
    weights: Sequence[np.ndarray],
    thresholds: Sequence[np.ndarray],
    num_steps: int,
    steps: np.ndarray,
) -> np.ndarray:
    """Returns the `[B, C]` spike times of the outputs of a float network.

    The spikes of each step are a sparse matrix: every input is added once.

    >>> output_steps([np.array([[0.6, 0.6]])], [np.ones(1)], 5, np.array([[0, 2]]))
    array([[3]])
    """
    level = np.asarray(steps)
    last = num_steps - 1
    for weight, threshold in zip(weights, thresholds, strict=True):
        columns = np.ascontiguousarray(np.asarray(weight, np.float64).T)
        potentials = np.zeros((len(level), len(weight)))
        fired = np.full(potentials.shape, last)
        for step in range(last - 1):  # a crossing at T - 2 spikes with the silent ones
            arrived = level == step
            if arrived.any():
                potentials += scipy.sparse.csr_array(arrived.astype(float)) @ columns
            if arrived.any() or step == 0:  # nothing is above a negative threshold
                first = (potentials > threshold) & (fired == last)
                fired[first] = step + 1
        level = fired
    return level


def _batches(count: int, width: int) -> Iterator[slice]:
    size = max(1, _BATCH_ELEMENTS // width)
    for start in range(0, count, size):
        yield slice(start, start + size)
