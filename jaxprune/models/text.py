"""Batches of text, as every language model here takes them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

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


def pad(
    sequences: Sequence[Sequence[int]],
    length: int | None = None,
    *,
    pad_id: int = 0,
    left: bool = False,
) -> Text:
    """Returns sequences of token ids as one batch.

    Args:
        sequences: token ids of each example.
        length: of the batch; that of the longest sequence by default.
        pad_id: stands where there is no token; its value does not matter to a model.
        left: fill up before the tokens rather than after them.

    Raises:
        ValueError: if a sequence is empty or longer than `length`.

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
    return Text(token_ids, mask)


def token_mask(text: Text) -> Array:
    """Returns `[B, S]` boolean, True for tokens; the `mask_fn` of similarity.

    >>> token_mask(pad([[5, 6], [7]])).tolist()
    [[True, True], [True, False]]
    """
    return text.mask > 0
