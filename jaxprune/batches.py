"""Batches of one size, so that one compiled program serves a whole stream."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

# A batch -> mask `[n]` or `[n, t]` of the examples or tokens that count.
MaskFn = Callable[[Any], Array | NDArray[np.bool_]]


def num_examples(inputs: Any) -> int:
    """Returns the length of the first axis of the arrays of a batch.

    Raises:
        ValueError: if the batch holds no arrays.

    >>> num_examples({"tokens": np.ones((3, 5)), "mask": np.ones((3, 5))})
    3
    """
    leaves = jax.tree.leaves(inputs)
    if not leaves:
        raise ValueError("a batch holds no arrays")
    return leaves[0].shape[0]


def take(inputs: Any, rows: Any) -> Any:
    """Returns the examples `rows` of a batch, an index or a slice of its first axis.

    >>> take({"tokens": np.arange(6).reshape(3, 2)}, [2, 0])["tokens"].tolist()
    [[4, 5], [0, 1]]
    """
    return jax.tree.map(lambda x: x[rows], inputs)


def pad_batches(
    batches: Iterable[Any], mask_fn: MaskFn | None = None, *, multiple: int = 1
) -> Iterator[tuple[Any, NDArray[np.bool_]]]:
    """Yields each batch, filled up to the size of the largest so far, and its mask.

    Args:
        batches: trees of arrays with the examples on the first axis.
        mask_fn: which examples, or tokens, of a batch count; all if None.
        multiple: sizes are rounded up to a multiple of it, such as the number of
            devices that share a batch.

    Yields:
        The batch, where it is too small with repeats of its last example (zeros might
        drive a model out of its range), and a mask that is False for these.

    Raises:
        ValueError: if a batch holds no arrays, or no examples.

    >>> [mask.tolist() for _, mask in pad_batches([np.ones(3), np.ones(1)])]
    [[True, True, True], [True, False, False]]
    """
    size = 0
    for inputs in batches:
        count = num_examples(inputs)
        if not count:
            raise ValueError("a batch holds no examples: leave it out")
        size = max(size, math.ceil(count / multiple) * multiple)
        missing = size - count
        mask = np.ones(count, bool)
        if mask_fn is not None:
            mask = np.asarray(mask_fn(inputs), bool)
        if missing:
            inputs = jax.tree.map(
                lambda x, missing=missing: jnp.concatenate(
                    [x, jnp.repeat(x[-1:], missing, axis=0)]
                ),
                inputs,
            )
            mask = np.pad(mask, [(0, missing)] + [(0, 0)] * (mask.ndim - 1))
        yield inputs, mask
