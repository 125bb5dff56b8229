"""Which examples a pruning run uses for what; none is used for two of them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import data
from jaxprune.batches import num_examples, take

# A split as it was read -> inputs of the model `[N, ...]` and what it should say.
PrepareFn = Callable[[data.Dataset], tuple[Any, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of a model and what it should say about them.

    Attributes:
        inputs: tree of arrays `[N, ...]`.
        labels: `[N]` classes, or `[N, T]` tokens.
    """

    inputs: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Examples":
        """Returns the examples `rows`."""
        return Examples(take(self.inputs, rows), self.labels[rows])

    def join(self, others: "Examples") -> "Examples":
        """Returns these examples and the others after them."""
        both = jax.tree.map(
            lambda *arrays: np.concatenate(arrays),
            (self.inputs, self.labels),
            (others.inputs, others.labels),
        )
        return Examples(*both)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The examples of a run.

    Attributes:
        training: to train on; its first ones, without labels, serve for calibration.
        calibration: for similarity and repair, a part of `training`.
        selection: decide whether a cut is accepted.
        certificate: for the final comparison and its certificate, untouched before.
        class_names: name of each class.
        num_duplicates: held-out texts left out because they also stand in training.
    """

    training: Examples
    calibration: Examples
    selection: Examples
    certificate: Examples
    class_names: tuple[str, ...]
    num_duplicates: int = 0

    def describe(self) -> dict[str, int]:
        """Returns the number of examples of each part, for the report."""
        parts = ("training", "calibration", "selection", "certificate")
        sizes = {name: len(getattr(self, name)) for name in parts}
        return {**sizes, "dropped_duplicates": self.num_duplicates}


def load(
    name: str,
    data_dir: str | None,
    make_prepare: Callable[[data.Dataset], PrepareFn],
    *,
    seed: int,
    num_calibration: int,
    num_selection: int,
    num_training: int | None = None,
    num_certificate: int | None = None,
    trained_elsewhere: bool,
    needs_training: bool,
) -> Splits:
    """Loads a data set and divides it.

    Where there is a validation split, selection takes from it, and what it leaves is
    certified on, too. Otherwise published weights have seen the whole training split,
    so that selection must take from the test split; a model trained here is kept away
    from some training examples instead.

    Args:
        name: of the data set.
        data_dir: where it is.
        make_prepare: from the training split, what makes inputs of any split.
        seed: of the division.
        num_calibration: examples for calibration.
        num_selection: examples for selection, at most a fifth of their split unless
            that is the validation split.
        num_training: examples to train on, those for calibration among them; all if
            None.
        num_certificate: examples to certify on; all that are left if None.
        trained_elsewhere: whether the weights come from a file.
        needs_training: whether anything is trained; if not, only the training images
            needed for calibration are read.
    """
    has_texts = "validation" in data.splits(name)
    limit = None if needs_training or has_texts else num_calibration
    train = data.load(name, "train", data_dir, limit=limit)
    test = data.load(name, "test", data_dir)
    prepare = make_prepare(train)
    rng = np.random.default_rng(seed)
    dropped = 0

    def shuffled(dataset: data.Dataset) -> Examples:
        # Read in the files' order, shuffled here once: any prefix is a random sample.
        examples = Examples(*prepare(dataset))
        return examples.take(rng.permutation(len(examples)))

    if has_texts:
        validation = data.load(name, "validation", data_dir)
        test, in_test = without_texts(test, (train, validation))
        validation, in_validation = without_texts(validation, (train,))
        dropped = in_test + in_validation
        training, testing = shuffled(train), shuffled(test)
        source = shuffled(validation)
        num_selection = min(num_selection, len(source))
    else:
        training, testing = shuffled(train), shuffled(test)
        source = testing if trained_elsewhere else training
        num_selection = min(num_selection, len(source) // 5)
    selection = source.take(np.arange(num_selection))
    rest = source.take(np.arange(num_selection, len(source)))
    if has_texts:
        testing = testing.join(rest)
    elif trained_elsewhere:
        testing = rest
    else:
        training = rest
    if num_training is not None:
        training = training.take(np.arange(min(num_training, len(training))))
    if num_certificate is not None:
        testing = testing.take(np.arange(min(num_certificate, len(testing))))
    calibration = training.take(np.arange(min(num_calibration, len(training))))
    return Splits(training, calibration, selection, testing, train.class_names, dropped)


def without_texts(
    dataset: data.Dataset, others: tuple[data.Dataset, ...]
) -> tuple[data.Dataset, int]:
    """Returns a split without the texts that stand in others, and their number."""
    assert dataset.texts is not None
    known = {text for other in others for text in other.texts or ()}
    rows = [row for row, text in enumerate(dataset.texts) if text not in known]
    texts = tuple(dataset.texts[row] for row in rows)
    kept = dataclasses.replace(dataset, texts=texts, labels=dataset.labels[rows])
    if dataset.answers is not None:
        answers = tuple(dataset.answers[row] for row in rows)
        kept = dataclasses.replace(kept, answers=answers)
    return kept, len(dataset) - len(rows)


def batches(tree: Any, size: int) -> list[Any]:
    """Returns a tree of arrays `[N, ...]` cut into batches of `size`, the last smaller.

    >>> [len(batch) for batch in batches(np.arange(5), 2)]
    [2, 2, 1]
    """
    starts = range(0, num_examples(tree), size)
    return [take(tree, slice(start, start + size)) for start in starts]


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
