"""Contiguous clusters of similar blocks, and which of their members to remove.

Blocks of one stack are numbered `0..L-1`. A cluster is a run of consecutive blocks;
its first member always stays, because its output stands in for those of the members
that are removed. Everything here is NumPy on an `[L, L]` matrix.
"""

import heapq
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Clusters = tuple[tuple[int, ...], ...]

# (similarity `[L, L]`, threshold) -> `[L, L]` boolean: whether the blocks from i to j
# (i <= j) may form one cluster.
LinkageFn = Callable[[NDArray[np.floating], float], NDArray[np.bool_]]


def anchored_linkage(
    similarity: NDArray[np.floating], threshold: float
) -> NDArray[np.bool_]:
    """Every member is similar to the first, whose output replaces theirs.

    >>> matrix = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, 0.5], [0.9, 0.5, 1.0]])
    >>> anchored_linkage(matrix, 0.8)[0].tolist()
    [True, True, True]
    """
    size = len(similarity)
    may_join = np.zeros((size, size), bool)
    for first in range(size):
        may_join[first, first] = True
        for last in range(first + 1, size):
            if not similarity[first, last] >= threshold:
                break
            may_join[first, last] = True
    return may_join


def complete_linkage(
    similarity: NDArray[np.floating], threshold: float
) -> NDArray[np.bool_]:
    """Every pair of members is similar: stricter than `anchored_linkage`.

    >>> matrix = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, 0.5], [0.9, 0.5, 1.0]])
    >>> complete_linkage(matrix, 0.8)[0].tolist()
    [True, True, False]
    """
    size = len(similarity)
    may_join = np.zeros((size, size), bool)
    for first in range(size):
        may_join[first, first] = True
        for last in range(first + 1, size):
            if not np.all(similarity[first:last, last] >= threshold):
                break
            may_join[first, last] = True
    return may_join


def _check(similarity: ArrayLike, threshold: float) -> NDArray[np.floating]:
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(
            f"similarity has shape {matrix.shape}, expected [L, L] with L >= 1"
        )
    if not 0 < threshold <= 1:
        raise ValueError(
            f"{threshold=} is not in (0, 1]: a fraction, such as 0.98 for 98 %"
        )
    undefined = np.flatnonzero(np.isnan(np.diagonal(matrix)))
    if undefined.size:
        warnings.warn(
            f"blocks {undefined.tolist()} have no defined similarity (constant or NaN "
            "activations) and join no cluster",
            stacklevel=3,
        )
    return matrix


def _check_stages(stages: Sequence[object] | None, size: int) -> list[object]:
    if stages is None:
        return [None] * size
    if len(stages) != size:
        raise ValueError(f"{len(stages)} stages for {size} blocks: give one a block")
    return list(stages)


def _check_stride(stride: int) -> None:
    if stride < 1:
        raise ValueError(f"{stride=} must be at least 1, which removes the most")


def anchored(
    similarity: ArrayLike,
    threshold: float,
    *,
    stages: Sequence[object] | None = None,
) -> Clusters:
    """Returns the paper's clusters: a block joins while it resembles the first one.

    From left to right, block j joins the current cluster if its similarity to the
    first member is at least the threshold, and starts a cluster of its own otherwise.

    Args:
        similarity: `[L, L]`. An entry that is NaN is below every threshold; a block
            without any defined similarity is warned about and stands alone.
        threshold: in (0, 1].
        stages: one label a block; no cluster crosses from one label to another.
            Without it the rule is the paper's.

    Returns:
        Consecutive runs that together hold every block once.

    Raises:
        ValueError: if the matrix is not square or the threshold not in (0, 1].

    References:
        MPruner, https://arxiv.org/abs/2408.13482

    >>> matrix = np.array([[1.0, 0.99, 0.7], [0.99, 1.0, 0.99], [0.7, 0.99, 1.0]])
    >>> anchored(matrix, 0.98)
    ((0, 1), (2,))
    """
    matrix = _check(similarity, threshold)
    labels = _check_stages(stages, len(matrix))
    clusters = [[0]]
    for block in range(1, len(matrix)):
        first = clusters[-1][0]
        similar = matrix[first, block] >= threshold
        if similar and labels[block] == labels[first]:
            clusters[-1].append(block)
        else:
            clusters.append([block])
    return tuple(tuple(cluster) for cluster in clusters)


def removable(clusters: Clusters, stride: int = 1) -> tuple[int, ...]:
    """Returns the blocks to remove: positions 1, 1 + K, 1 + 2K, ... of each cluster.

    Args:
        clusters: as returned by `anchored` or `optimal`.
        stride: K, at least 1. A stride of one removes all but the first of a cluster.

    Returns:
        Block indices in increasing order.

    Raises:
        ValueError: if `stride` is below 1.

    >>> removable(((0, 1, 2, 3), (4,), (5, 6)), stride=2)
    (1, 3, 6)
    """
    _check_stride(stride)
    return tuple(sorted(block for cluster in clusters for block in cluster[1::stride]))


def best_clusters(
    similarity: ArrayLike,
    threshold: float,
    costs: Sequence[float],
    stages: Sequence[object] | None = None,
    protected: Sequence[int] = (),
    *,
    num_plans: int,
    stride: int = 1,
    linkage: LinkageFn = anchored_linkage,
) -> tuple[Clusters, ...]:
    """Returns the clusterings that remove the most cost, best first.

    An exact dynamic programme over the end of the last cluster, which carries the
    `num_plans` best clusterings of each prefix: O(L^2) clusters are considered, each
    once. Clusterings that remove the same blocks count as one.

    Args:
        similarity: `[L, L]`; NaN is below every threshold.
        threshold: in (0, 1].
        costs: what the removal of each block saves: parameters, FLOPs or measured
            latency; finite, not negative.
        stages: one label a block; no cluster crosses from one label to another.
        protected: blocks that must stay.
        num_plans: how many to return; fewer if there are fewer.
        stride: removes positions 1, 1 + K, 1 + 2K, ... of each cluster.
        linkage: which runs of blocks may form a cluster.

    Returns:
        At most `num_plans` clusterings with different removals, in order of
        decreasing removed cost. The last may be the one that removes nothing.

    Raises:
        ValueError: on a wrong argument, naming it.

    >>> plans = best_clusters(np.ones((3, 3)), 0.9, [1, 1, 1], num_plans=2)
    >>> [removable(plan) for plan in plans]
    [(1, 2), (1,)]
    """
    matrix = _check(similarity, threshold)
    size = len(matrix)
    labels = _check_stages(stages, size)
    _check_stride(stride)
    if num_plans < 1:
        raise ValueError(f"{num_plans=} must be at least 1")
    if len(costs) != size or not all(math.isfinite(c) and c >= 0 for c in costs):
        raise ValueError(
            f"costs={list(costs)} must be {size} finite numbers that are not negative"
        )
    outside = sorted(block for block in protected if not 0 <= block < size)
    if outside:
        raise ValueError(f"protected blocks {outside} are not in 0..{size - 1}")
    must_stay = frozenset(protected)
    may_join = linkage(matrix, threshold)

    def removals(first: int, last: int) -> tuple[int, ...] | None:
        """What the cluster first..last removes; None if it may not be formed."""
        if not may_join[first, last]:
            return None
        if any(labels[block] != labels[first] for block in range(first, last + 1)):
            return None
        removed = tuple(range(first + 1, last + 1, stride))
        return None if must_stay.intersection(removed) else removed

    # best[j]: the best clusterings of the blocks before j, as (saved cost, removed
    # blocks, starts of the clusters).
    best: list[list[tuple[float, tuple[int, ...], tuple[int, ...]]]] = [[(0.0, (), ())]]
    for last in range(size):
        candidates: dict[
            tuple[int, ...], tuple[float, tuple[int, ...], tuple[int, ...]]
        ] = {}
        for first in range(last + 1):
            removed = removals(first, last)
            if removed is None:
                continue
            saved = sum(costs[block] for block in removed)
            for prefix_saved, prefix_removed, starts in best[first]:
                key = prefix_removed + removed
                candidate = (prefix_saved + saved, key, (*starts, first))
                candidates.setdefault(key, candidate)
        # Equal savings: fewer removed blocks first, then the earlier ones.
        best.append(
            heapq.nsmallest(
                num_plans, candidates.values(), key=lambda c: (-c[0], len(c[1]), c[1])
            )
        )
    return tuple(
        tuple(
            tuple(range(start, end))
            for start, end in zip(starts, (*starts[1:], size), strict=True)
        )
        for _, _, starts in best[size]
    )


def optimal(
    similarity: ArrayLike,
    threshold: float,
    costs: Sequence[float],
    stages: Sequence[object] | None = None,
    protected: Sequence[int] = (),
    *,
    stride: int = 1,
    linkage: LinkageFn = anchored_linkage,
) -> Clusters:
    """Returns the clustering that removes the most cost under the same threshold.

    Arguments as of `best_clusters`, whose first answer this is. With the default
    linkage it keeps the constraint of `anchored` and removes at least as much.

    >>> matrix = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.9], [0.1, 0.9, 1.0]])
    >>> optimal(matrix, 0.9, costs=[5, 1, 5])
    ((0,), (1, 2))
    """
    return best_clusters(
        similarity,
        threshold,
        costs,
        stages,
        protected,
        num_plans=1,
        stride=stride,
        linkage=linkage,
    )[0]
