"""Which examples a pruning run uses for what; none is used for two of them."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from experiments import data
from jaxprune.batches import num_examples

# Mean and standard deviation that published weights expect; grey images go to 0..1.
_NORMALIZATION = {
    "cifar10_jpeg": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of a model and what it should say about them.

    Attributes:
        inputs: normalised images `[N, H, W, C]` float32.
        labels: `[N]` int32.
    """

    inputs: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Examples":
        """Returns the examples `rows`."""
        return Examples(_rows(self.inputs, rows), self.labels[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The examples of a run.

    Attributes:
        training: to train on; its first ones, without labels, serve for calibration.
        calibration: for similarity and repair, a part of `training`.
        selection: decide whether a cut is accepted.
        certificate: for the final comparison and its certificate, untouched before.
        num_classes: number of classes.
    """

    training: Examples
    calibration: Examples
    selection: Examples
    certificate: Examples
    num_classes: int


def load(
    name: str,
    data_dir: str | None,
    *,
    seed: int,
    num_calibration: int,
    num_selection: int,
    trained_elsewhere: bool,
    needs_training: bool,
) -> Splits:
    """Loads a data set and divides it.

    Published weights have seen the whole training split, so that selection must take
    from the test split; a model trained here is kept away from some training examples
    instead.

    Args:
        name: of the data set.
        data_dir: where it is.
        seed: of the division.
        num_calibration: examples for calibration.
        num_selection: examples for selection, at most a fifth of their split.
        trained_elsewhere: whether the weights come from a file.
        needs_training: whether anything is trained; if not, only the training examples
            needed for calibration are read.
    """
    limit = None if needs_training else num_calibration
    train = data.load(name, "train", data_dir, limit=limit)
    test = data.load(name, "test", data_dir)
    rng = np.random.default_rng(seed)
    training, testing = _prepared(train), _prepared(test)
    # Read in the files' order, shuffled here once: any prefix is a random sample.
    training = training.take(rng.permutation(len(training)))
    testing = testing.take(rng.permutation(len(testing)))
    source = testing if trained_elsewhere else training
    num_selection = min(num_selection, len(source) // 5)
    selection = source.take(np.arange(num_selection))
    rest = source.take(np.arange(num_selection, len(source)))
    if trained_elsewhere:
        testing = rest
    else:
        training = rest
    calibration = training.take(np.arange(min(num_calibration, len(training))))
    return Splits(training, calibration, selection, testing, train.num_classes)


def _prepared(dataset: data.Dataset) -> Examples:
    assert dataset.images is not None
    assert dataset.max_value is not None
    images = np.asarray(dataset.images, np.float32) / np.float32(dataset.max_value)
    if images.ndim == 3:
        images = images[..., None]
    if dataset.name in _NORMALIZATION:
        mean, deviation = _NORMALIZATION[dataset.name]
        shift, scale = np.array(mean), np.array(deviation)
        images = ((images - shift) / scale).astype(np.float32)
    return Examples(np.ascontiguousarray(images), np.asarray(dataset.labels, np.int32))


def _rows(tree: Any, rows: Any) -> Any:
    return jax.tree.map(lambda array: array[rows], tree)


def batches(tree: Any, size: int) -> list[Any]:
    """Returns a tree of arrays `[N, ...]` cut into batches of `size`, the last smaller.

    >>> [len(batch) for batch in batches(np.arange(5), 2)]
    [2, 2, 1]
    """
    starts = range(0, num_examples(tree), size)
    return [_rows(tree, slice(start, start + size)) for start in starts]


def full_batches(tree: Any, size: int) -> list[Any]:
    """Returns batches of exactly `size` examples, or one of all if there are fewer.

    What is left over is dropped: another shape would have to be compiled for.

    >>> [len(batch) for batch in full_batches(np.arange(5), 2)]
    [2, 2]
    """
    count = max(num_examples(tree) // size, 1)
    return batches(tree, size)[:count]


def batch_size(inputs: Any, at_most: int) -> int:
    """Returns how many examples fit into a batch of some 2 million numbers.

    >>> batch_size(np.zeros((1000, 32, 32, 3)), at_most=500)
    500
    >>> batch_size(np.zeros((100, 224, 224, 3)), at_most=500)
    13
    """
    numbers = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(inputs))
    return max(1, min(at_most, 2**21 // max(numbers, 1)))
