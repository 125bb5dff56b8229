"""Batches of text, as every language model here takes them."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from jaxprune.buckets import Buckets, best_bounds
from jaxprune.sequence_labels import IGNORED

Array = jax.Array | np.ndarray


class Text(NamedTuple):
    """Token sequences of one length, the shorter ones filled up.

    Attributes:
        token_ids: `[B, S]` int32.
        mask: `[B, S]` int32, 1 for a token, 0 for padding.
        token_type_ids: `[B, S]` int32, the segment of each token, for models that tell
            two sentences apart; None for one segment.
    """

    token_ids: Array
    mask: Array
    token_type_ids: Array | None = None


class Seq2Seq(NamedTuple):
    """Pairs of sequences, for a model that reads one and writes the other.

    While such a model learns, it is told at each position what it should have written
    before; `pairs` makes such batches, with what is to be written as labels.

    Attributes:
        token_ids: `[B, S]` int32, what is read.
        mask: `[B, S]` int32, 1 for a token, 0 for padding.
        decoder_ids: `[B, T]` int32, what was written before each position.
        decoder_mask: `[B, T]` int32, 1 for a token, 0 for padding.
    """

    token_ids: Array
    mask: Array
    decoder_ids: Array
    decoder_mask: Array


def pad(
    sequences: Sequence[Sequence[int]],
    length: int | None = None,
    *,
    pad_id: int = 0,
    left: bool = False,
    vocab_size: int | None = None,
) -> Text:
    """Returns sequences of token ids as one batch.

    Args:
        sequences: token ids of each example.
        length: of the batch; that of the longest sequence by default.
        pad_id: stands where there is no token; its value does not matter to a model.
        left: fill up before the tokens rather than after them.
        vocab_size: of the model. With it, a token that the model does not know is
            refused here; a compiled model cannot, and makes NaN of it.

    Raises:
        ValueError: if a sequence is empty or longer than `length`, or a token is not
            in the vocabulary.

    >>> text = pad([[101, 7592, 102], [101, 102]])
    >>> text.token_ids.tolist(), text.mask.tolist()
    ([[101, 7592, 102], [101, 102, 0]], [[1, 1, 1], [1, 1, 0]])
    """
    longest = max(map(len, sequences), default=0)
    length = longest if length is None else length
    if longest > length or not all(map(len, sequences)):
        raise ValueError(
            f"sequences need 1 to length={length} tokens, there are some of "
            f"{min(map(len, sequences))} and of {longest}: cut them first"
        )
    token_ids = np.full((len(sequences), length), pad_id, np.int32)
    mask = np.zeros((len(sequences), length), np.int32)
    for row, sequence in enumerate(sequences):
        place = slice(length - len(sequence), None) if left else slice(len(sequence))
        token_ids[row, place] = sequence
        mask[row, place] = 1
    if vocab_size is not None:
        unknown = (token_ids < 0) | (token_ids >= vocab_size)
        if unknown.any():
            raise ValueError(
                f"token id {token_ids[unknown][0]} is not in 0..{vocab_size - 1}: the "
                "tokenizer is not that of the model"
            )
    return Text(token_ids, mask)


def pairs(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    start_id: int,
    lengths: tuple[int | None, int | None] = (None, None),
    pad_id: int = 0,
    vocab_size: int | None = None,
) -> tuple[Seq2Seq, np.ndarray]:
    """Returns pairs of sequences as one batch, and its labels.

    Args:
        sources: token ids to be read.
        targets: token ids to be written, the one that ends a sequence among them.
        start_id: stands before the first token that is written.
        lengths: of the batch, read and written; those of the longest by default.
        pad_id: stands where there is no token.
        vocab_size: of the model, as in `pad`.

    Returns:
        The batch, and labels `[B, T]` int32 as `jaxprune.sequence_labels` takes them:
        the token to be written, `IGNORED` where there is none.

    Raises:
        ValueError: if a sequence is empty or longer than its length, or a token is not
            in the vocabulary.

    >>> batch, labels = pairs([[5, 6, 7]], [[7, 6, 1]], start_id=0, lengths=(3, 4))
    >>> batch.decoder_ids.tolist(), labels.tolist()
    ([[0, 7, 6, 0]], [[7, 6, 1, -100]])
    """
    padded = functools.partial(pad, pad_id=pad_id, vocab_size=vocab_size)
    read = padded(sources, lengths[0])
    written = padded(targets, lengths[1])
    shown = padded(
        [[start_id, *target[:-1]] for target in targets], written.token_ids.shape[1]
    )
    batch = Seq2Seq(read.token_ids, read.mask, shown.token_ids, shown.mask)
    labels = np.where(written.mask > 0, written.token_ids, np.int32(IGNORED))
    return batch, labels


_Batch = TypeVar("_Batch", Text, Seq2Seq)


def trim(batch: _Batch, length: int) -> _Batch:
    """Returns a batch whose texts to be read have only the first `length` positions.

    >>> trim(pad([[5, 6], [7]], 4), 2).token_ids.tolist()
    [[5, 6], [7, 0]]
    """
    batch = batch._replace(
        token_ids=batch.token_ids[:, :length], mask=batch.mask[:, :length]
    )
    if isinstance(batch, Text) and batch.token_type_ids is not None:
        batch = batch._replace(token_type_ids=batch.token_type_ids[:, :length])
    return batch


def buckets(batch: Text | Seq2Seq) -> Buckets:
    """Returns how texts are put together by length to be trained on.

    Args:
        batch: all of them, filled up after their tokens, on the host.

    >>> buckets(pad([[5, 6], [7], [8, 9]])).bounds
    (1, 2)
    """
    # Where the last token stands, rather than their number.
    lengths = batch.mask.shape[1] - np.argmax(batch.mask[:, ::-1], axis=1)
    return Buckets(lengths, best_bounds(lengths), trim)


def token_mask(text: Text | Seq2Seq) -> Array:
    """Returns `[B, S]` boolean, True for tokens; the `mask_fn` of similarity.

    Of pairs, for what is read: the tokens of an encoder.

    >>> token_mask(pad([[5, 6], [7]])).tolist()
    [[True, True], [True, False]]
    """
    return text.mask > 0


def decoder_token_mask(batch: Seq2Seq) -> Array:
    """Returns `[B, T]` boolean, True for tokens that are written.

    Activations of a decoder are to be compared over all of them, not over the last step
    of a generation alone.
    """
    return batch.decoder_mask > 0
