"""Texts as inputs of a network: to be classified, or answered in words."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import data, progress, prune_data, text_tokenizers
from jaxprune.models import text

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def obtain_tokenizer(
    model: str, dataset: str, data_dir: str | None, directory: str | None
) -> "Tokenizer":
    """Returns the tokenizer of a checkpoint, or one made from the training split.

    Args:
        model: as given to --model.
        dataset: whose training split it is made from.
        data_dir: of the data set.
        directory: of the checkpoint, None if there is none.
    """
    if directory is not None:
        return text_tokenizers.read(pathlib.Path(directory))
    train = data.load(dataset, "train", data_dir)
    assert train.texts is not None
    # Answers are words to be written, and must be known.
    return text_tokenizers.make(model, [*train.texts, *2 * train.class_names])


def to_classify(
    tokenizer: "Tokenizer", max_length: int, train: data.Dataset
) -> prune_data.PrepareFn:
    """Returns what makes `Text` of one length, and labels, of any split.

    Args:
        tokenizer: of the model.
        max_length: above which texts are cut.
        train: the training split; its longest text decides the length.
    """
    length = _common_length(tokenizer, max_length, train)

    def prepare(dataset: data.Dataset) -> tuple[text.Text, np.ndarray]:
        sequences = text_tokenizers.encode(tokenizer, dataset.texts or (), length)
        return text.pad(sequences, length), np.asarray(dataset.labels, np.int32)

    return prepare


def to_answer(
    tokenizer: "Tokenizer",
    max_length: int,
    start_id: int,
    end_id: int,
    train: data.Dataset,
) -> prune_data.PrepareFn:
    """Returns what makes `Seq2Seq` of texts and answers, or the names of their classes.

    Args:
        tokenizer: of the model.
        max_length: above which texts are cut.
        start_id: token before the first that is written.
        end_id: token that ends what is written.
        train: the training split; its longest text decides the length.
    """
    length = _common_length(tokenizer, max_length, train)

    def written(answers: Sequence[str]) -> list[list[int]]:
        return [
            ids if ids[-1:] == [end_id] else [*ids, end_id]
            for ids in text_tokenizers.encode(tokenizer, answers)
        ]

    named = written(train.class_names)
    longest = max(map(len, named or written(train.answers or ())))

    def prepare(dataset: data.Dataset) -> tuple[Any, np.ndarray]:
        sequences = text_tokenizers.encode(tokenizer, dataset.texts or (), length)
        if dataset.answers is None:
            targets = [named[label] for label in dataset.labels]
        else:
            targets = written(dataset.answers)
        return text.pairs(
            sequences, targets, start_id=start_id, lengths=(length, longest)
        )

    return prepare


def _common_length(tokenizer: "Tokenizer", max_length: int, train: data.Dataset) -> int:
    lengths = [len(ids) for ids in text_tokenizers.encode(tokenizer, train.texts or ())]
    length = min(max(lengths), max_length)
    if cut := sum(n > length for n in lengths):
        progress.note(
            f"{cut} of {len(lengths)} training texts are cut at {length} tokens"
        )
    return length
