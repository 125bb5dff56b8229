"""Clusters against hand-worked tables and exhaustive enumeration."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxprune import clusters


def symmetric(size, values):
    matrix = np.eye(size)
    matrix[np.triu_indices(size, 1)] = values
    return np.maximum(matrix, matrix.T)


@st.composite
def problems(draw):
    size = draw(st.integers(1, 7))
    pairs = size * (size - 1) // 2
    grades = st.sampled_from([0.5, 0.9, 0.95, 1.0, np.nan])
    values = draw(st.lists(grades, min_size=pairs, max_size=pairs))
    costs = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    stages = sorted(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    protected = sorted(draw(st.sets(st.integers(0, size - 1))))
    stride = draw(st.integers(1, 3))
    return symmetric(size, values), costs, stages, protected, stride


def all_segmentations(size):
    for cuts in itertools.product([False, True], repeat=size - 1):
        starts = [0, *(i + 1 for i, cut in enumerate(cuts) if cut)]
        yield tuple(
            tuple(range(a, b)) for a, b in zip(starts, [*starts[1:], size], strict=True)
        )


def is_feasible(clustering, similarity, stages, protected, stride, complete):
    for cluster in clustering:
        firsts = cluster if complete else cluster[:1]
        pairs = [(i, j) for i in firsts for j in cluster if i < j]
        if not all(similarity[i, j] >= 0.9 for i, j in pairs):
            return False
        if len({stages[i] for i in cluster}) > 1:
            return False
        if set(cluster[1::stride]) & set(protected):
            return False
    return True


def saved(removed, costs):
    return sum(costs[i] for i in removed)


# Similarities of six blocks, worked by hand.
TABLE = symmetric(
    6,
    # 01   02    03    04    05    12    13    14    15    23   24   25   34   35   45
    [
        0.99,
        0.98,
        0.97,
        0.99,
        0.10,
        0.90,
        0.99,
        0.99,
        0.2,
        0.9,
        0.9,
        0.1,
        0.98,
        0.1,
        0.1,
    ],
)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.98, ((0, 1, 2), (3, 4), (5,))),
        (0.97, ((0, 1, 2, 3, 4), (5,))),
        (0.995, ((0,), (1,), (2,), (3,), (4,), (5,))),
        (0.05, ((0, 1, 2, 3, 4, 5),)),
        (1.0, ((0,), (1,), (2,), (3,), (4,), (5,))),
    ],
)
def test_anchored_by_hand(threshold, expected):
    assert clusters.anchored(TABLE, threshold) == expected


def test_anchored_does_not_cross_stages():
    assert clusters.anchored(TABLE, 0.97, stages="aabbbb") == (
        (0, 1),
        (2,),
        (3, 4),
        (5,),
    )


@pytest.mark.parametrize(
    ("stride", "expected"),
    [(1, (1, 2, 3, 4, 6)), (2, (1, 3, 6)), (3, (1, 4, 6)), (9, (1, 6))],
)
def test_removable_by_hand(stride, expected):
    assert clusters.removable(((0, 1, 2, 3, 4), (5, 6), (7,)), stride) == expected


def test_single_block():
    assert clusters.anchored([[1.0]], 0.98) == ((0,),)
    assert clusters.optimal([[1.0]], 0.98, [1]) == ((0,),)
    assert clusters.removable(((0,),)) == ()


def test_undefined_blocks_stand_alone_with_a_warning():
    matrix = np.ones((4, 4))
    matrix[1, :] = matrix[:, 1] = np.nan
    with pytest.warns(UserWarning, match=r"blocks \[1\] have no defined similarity"):
        assert clusters.anchored(matrix, 0.9) == ((0,), (1,), (2, 3))
    with pytest.warns(UserWarning, match=r"blocks \[1\]"):
        assert clusters.optimal(matrix, 0.9, [1] * 4) == ((0,), (1,), (2, 3))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(problem=problems(), complete=st.booleans())
def test_optimal_is_the_best_of_all_segmentations(problem, complete):
    similarity, costs, stages, protected, stride = problem
    linkage = clusters.complete_linkage if complete else clusters.anchored_linkage
    ours = clusters.optimal(
        similarity, 0.9, costs, stages, protected, stride=stride, linkage=linkage
    )
    constraints = (similarity, stages, protected, stride, complete)
    feasible = [
        c for c in all_segmentations(len(costs)) if is_feasible(c, *constraints)
    ]
    assert ours in feasible
    assert saved(clusters.removable(ours, stride), costs) == max(
        saved(clusters.removable(c, stride), costs) for c in feasible
    )


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(problem=problems(), num_plans=st.integers(1, 12))
def test_best_plans_are_the_best_of_all(problem, num_plans):
    similarity, costs, stages, protected, stride = problem
    plans = clusters.best_clusters(
        similarity, 0.9, costs, stages, protected, num_plans=num_plans, stride=stride
    )
    removed = [clusters.removable(plan, stride) for plan in plans]
    constraints = (similarity, stages, protected, stride, False)
    everything = {
        clusters.removable(c, stride)
        for c in all_segmentations(len(costs))
        if is_feasible(c, *constraints)
    }
    assert len(set(removed)) == len(removed) == min(num_plans, len(everything))
    assert set(removed) <= everything
    best = sorted((saved(r, costs) for r in everything), reverse=True)[:num_plans]
    assert [saved(r, costs) for r in removed] == best


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(problem=problems())
def test_optimal_removes_at_least_what_the_paper_does(problem):
    similarity, costs, stages, _, _ = problem
    paper = clusters.anchored(similarity, 0.9, stages=stages)
    ours = clusters.optimal(similarity, 0.9, costs, stages)
    assert saved(clusters.removable(ours), costs) >= saved(
        clusters.removable(paper), costs
    )
    assert sorted(sum(ours, ())) == sorted(sum(paper, ())) == list(range(len(costs)))


@pytest.mark.parametrize("threshold", [0, -0.1, 98, float("nan")])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match=r"threshold=.* is not in \(0, 1\]"):
        clusters.anchored(TABLE, threshold)


@pytest.mark.parametrize("similarity", [np.ones(3), np.ones((2, 3)), np.ones((0, 0))])
def test_bad_matrix(similarity):
    with pytest.raises(ValueError, match="expected \\[L, L\\]"):
        clusters.anchored(similarity, 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"costs": [1, 2]}, "costs"),
        ({"costs": [1, 2, 3, 4, 5, float("inf")]}, "costs"),
        ({"costs": [-1] * 6}, "costs"),
        ({"stages": [0]}, "1 stages for 6 blocks"),
        ({"protected": [6]}, r"protected blocks \[6\]"),
        ({"stride": 0}, "stride=0"),
        ({"num_plans": 0}, "num_plans=0"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "similarity": TABLE,
        "threshold": 0.9,
        "costs": [1] * 6,
        "num_plans": 1,
    }
    with pytest.raises(ValueError, match=message):
        clusters.best_clusters(**(arguments | change))
