"""Relative positions as T5 tells them: in buckets that widen with distance.

Raffel et al., 2019, https://arxiv.org/abs/1910.10683, section 2.1. Half of the buckets
hold one distance each; the others grow by a constant factor up to a largest distance,
and the last one holds all that is beyond. Looking both ways, one half of all buckets is
for what comes before and one for what comes after.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@functools.cache
def distance_buckets(num_buckets: int, max_distance: int) -> np.ndarray:
    """Returns the buckets of the distances `0 .. max_distance`, for one direction.

    With `e = num_buckets // 2` buckets for single distances and `m` others, distance
    `r >= e` is in bucket `e + floor(m log(r/e) / log(max_distance/e))`, at most the
    last. The comparison is done in integers, so that no rounding moves a border.

    Raises:
        ValueError: if the buckets for single distances reach `max_distance` already.

    >>> distance_buckets(4, 8).tolist()
    [0, 1, 2, 2, 3, 3, 3, 3, 3]
    """
    exact = num_buckets // 2
    if not 1 <= exact < max_distance:
        raise ValueError(
            f"{max_distance=} must be above half of the {num_buckets} buckets of a "
            "direction, which are at least two"
        )
    wide = num_buckets - exact

    def bucket(distance: int) -> int:
        if distance < exact:
            return distance
        # The borders are at exact * (max_distance / exact) ** (k / wide).
        borders = (max_distance**k * exact ** (wide - k) for k in range(1, wide))
        return exact + sum(distance**wide >= border for border in borders)

    return np.array([bucket(r) for r in range(max_distance + 1)], np.int32)


def relative_buckets(
    offset: Any, num_buckets: int, max_distance: int, *, both_ways: bool
) -> Array:
    """Returns the bucket of each offset.

    Args:
        offset: integers of any shape, position attended to minus position attending.
        num_buckets: of both directions together.
        max_distance: distances from there on are in one bucket.
        both_ways: whether what comes after is attended to; if not, it is in bucket 0.

    >>> relative_buckets(jnp.arange(-3, 4), 8, 8, both_ways=True).tolist()
    [2, 2, 1, 0, 5, 6, 6]
    """
    offset = jnp.asarray(offset)
    one_way = num_buckets // 2 if both_ways else num_buckets
    table = jnp.asarray(distance_buckets(one_way, max_distance))
    distance = jnp.abs(offset) if both_ways else jnp.maximum(-offset, 0)
    bucket = table[jnp.minimum(distance, max_distance)]
    return bucket + jnp.where(both_ways & (offset > 0), one_way, 0)
