"""Batches of examples of similar length, cut to what their longest needs.

Sequences of one data set differ in length several times over, and padding costs as much
as text. `Buckets` says which lengths batches are cut to, few enough for a compiled
program of each, and puts examples of one of them into a batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxprune.batches import take


@dataclasses.dataclass(frozen=True, eq=False)
class Buckets:
    """How examples are put together by length.

    Attributes:
        lengths: `[N]` of the examples.
        bounds: lengths that batches are cut to, increasing; the last fits all.
        trim: `(inputs, length) -> inputs` of that length.
    """

    lengths: NDArray[np.integer[Any]]
    bounds: tuple[int, ...]
    trim: Callable[[Any, int], Any]

    def __post_init__(self) -> None:
        """Checks that every length has a bound."""
        if not self.bounds or max(self.lengths, default=0) > self.bounds[-1]:
            raise ValueError(
                f"bounds={self.bounds} have no place for a length of "
                f"{max(self.lengths, default=0)}"
            )

    def arrange(
        self, order: NDArray[np.integer[Any]], batch_size: int, key: jax.Array
    ) -> NDArray[np.integer[Any]]:
        """Returns full batches of examples of one bound, the batches in random order.

        Args:
            order: of the examples, at random.
            batch_size: examples of a batch; what is left over at the end of `order`
                is left out.
            key: of the order of the batches.

        >>> buckets = Buckets(np.array([1, 9, 2, 8]), (2, 9), trim=None)
        >>> sorted(
        ...     buckets.arrange(np.arange(4), 2, jax.random.key(0))
        ...     .reshape(2, 2)
        ...     .tolist()
        ... )
        [[0, 2], [1, 3]]
        """
        order = order[: len(order) // batch_size * batch_size]
        bucket = np.searchsorted(self.bounds, self.lengths[order])
        batches = order[np.argsort(bucket, kind="stable")].reshape(-1, batch_size)
        return batches[np.asarray(jax.random.permutation(key, len(batches)))].ravel()

    def cut(self, inputs: Any, rows: NDArray[np.integer[Any]]) -> Any:
        """Returns the examples `rows`, cut to the bound of the longest of them."""
        longest = np.searchsorted(self.bounds, self.lengths[rows].max())
        return self.trim(take(inputs, rows), self.bounds[longest])


def best_bounds(lengths: ArrayLike, count: int = 4) -> tuple[int, ...]:
    """Returns the bounds, at most `count`, with the least padding in all.

    Exact, by a dynamic programme over the lengths that occur.

    Args:
        lengths: `[N]` of the examples.
        count: largest number of bounds.

    Raises:
        ValueError: without lengths, or if `count` is not positive.

    >>> best_bounds([3, 3, 4, 9, 10], count=2)
    (4, 10)
    """
    occurring, numbers = np.unique(np.asarray(lengths), return_counts=True)
    if not len(occurring) or count < 1:
        raise ValueError(f"there is no best of {count=} bounds of {len(occurring)}")
    below = np.concatenate([[0], np.cumsum(numbers)])
    # Cost of the shortest lengths `:end` in one bucket, which is as long as its last.
    cost = below[1:] * occurring
    choices: list[NDArray[np.integer[Any]]] = []
    for _ in range(min(count, len(occurring)) - 1):
        # [start, end]: the lengths `start + 1 : end + 1` in a bucket of their own.
        last = (below[None, 1:] - below[1:, None]) * occurring[None]
        total = np.where(last >= 0, cost[:, None] + last, np.iinfo(np.int64).max)
        choices.append(total.argmin(axis=0))
        cost = total.min(axis=0)
    ends = [len(occurring) - 1]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    return tuple(int(occurring[end]) for end in sorted(set(ends)))
