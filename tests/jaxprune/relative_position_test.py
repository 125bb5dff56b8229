import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxprune.models import relative_position


def naive_bucket(offset, num_buckets, max_distance, both_ways):
    """One offset, with logarithms, as the paper's code defines it."""
    start = 0
    if both_ways:
        num_buckets //= 2
        start = num_buckets if offset > 0 else 0
        distance = abs(offset)
    else:
        distance = max(-offset, 0)
    exact = num_buckets // 2
    if distance < exact:
        return start + distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    # Borders are hit exactly, where a logarithm may be a rounding error below.
    wide = math.floor(share * (num_buckets - exact) + 1e-9)
    return start + min(exact + wide, num_buckets - 1)


def test_a_table_worked_by_hand():
    # Two buckets for 0 and 1; the ratio 16 / 2 in three steps of 2: 2, 4, 8.
    assert relative_position.distance_buckets(5, 16).tolist() == [
        *(0, 1, 2, 2, 3, 3, 3, 3),
        *(4, 4, 4, 4, 4, 4, 4, 4, 4),
    ]
    # Two buckets for 0 and 1; the ratio 8 / 2 in two steps of 2: 2, 4. What comes after
    # is four buckets further, and none of it at distance zero.
    offsets = np.arange(-10, 11)
    both = relative_position.relative_buckets(offsets, 8, 8, both_ways=True)
    assert both.tolist() == [
        *(3, 3, 3, 3, 3, 3, 3, 2, 2, 1, 0),
        *(5, 6, 6, 7, 7, 7, 7, 7, 7, 7),
    ]
    one = relative_position.relative_buckets(offsets, 4, 8, both_ways=False)
    assert one.tolist() == [*(3, 3, 3, 3, 3, 3, 3, 2, 2, 1, 0), *[0] * 10]


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    st.integers(2, 32), st.integers(17, 300), st.booleans(), st.integers(-400, 400)
)
def test_buckets_are_the_naive_ones(one_way, max_distance, both_ways, start):
    num_buckets = 2 * one_way if both_ways else one_way
    offsets = np.arange(start, start + 50)
    buckets = relative_position.relative_buckets(
        offsets, num_buckets, max_distance, both_ways=both_ways
    )
    assert buckets.tolist() == [
        naive_bucket(int(offset), num_buckets, max_distance, both_ways)
        for offset in offsets
    ]


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(8, 4), (1, 8)])
def test_sizes_without_borders_are_refused(num_buckets, max_distance):
    with pytest.raises(ValueError, match=f"max_distance={max_distance} must be above"):
        relative_position.distance_buckets(num_buckets, max_distance)


@pytest.mark.peer
@pytest.mark.parametrize("both_ways", [False, True])
def test_buckets_are_those_of_transformers(both_ways):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    theirs = modeling.T5Attention._relative_position_bucket
    for num_buckets, max_distance in [(32, 128), (8, 20), (20, 100), (64, 512)]:
        offsets = np.arange(-2 * max_distance, 2 * max_distance)
        expected = theirs(
            torch.from_numpy(offsets), both_ways, num_buckets, max_distance
        )
        buckets = relative_position.relative_buckets(
            offsets, num_buckets, max_distance, both_ways=both_ways
        )
        assert buckets.tolist() == expected.tolist()
