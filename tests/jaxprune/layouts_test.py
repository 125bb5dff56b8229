import flax.core
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.layouts import Layout, Listed, Named, Stacked

# The same three blocks, with weights 0, 1, 2, wherever they may be kept.
NAMED = {"net": {"layer_0": [0], "layer_1": [1], "layer_2": [2]}, "head": 9}
LISTED = {"net": [[0], [1], [2]], "head": 9}
INTEGER_KEYS = {"net": {0: [0], 1: [1], 2: [2]}, "head": 9}
STACKED = {"net": np.array([[0], [1], [2]]), "head": 9}


def test_take_renumbers_names():
    taken = Named("layer_{}", ("net",)).take(NAMED, [0, 2])
    assert taken == {"net": {"layer_0": [0], "layer_1": [2]}, "head": 9}
    assert NAMED["net"]["layer_1"] == [1]


def test_take_shortens_lists():
    assert Listed(("net",)).take(LISTED, [1]) == {"net": [[1]], "head": 9}
    assert Listed(("net",)).take(INTEGER_KEYS, [2]) == {"net": {0: [2]}, "head": 9}
    assert Listed().take((1, 2, 3), [0, 2]) == (1, 3)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_take_slices_the_stacked_axis(axis):
    blocks = np.arange(24).reshape(3, 2, 4)
    tree = {"net": {"kernel": jnp.asarray(np.moveaxis(blocks, 0, axis))}}
    layout = Stacked(("net",), axis=axis)
    assert layout.count(tree) == 3
    taken = layout.take(tree, [0, 2])["net"]["kernel"]
    np.testing.assert_array_equal(np.moveaxis(taken, axis, 0), blocks[[0, 2]])
    np.testing.assert_array_equal(layout.blocks(tree)[1]["kernel"], blocks[1])


@pytest.mark.parametrize(
    ("layout", "tree"),
    [
        (Named("layer_{}", ("net",)), NAMED),
        (Listed(("net",)), LISTED),
        (Listed(("net",)), INTEGER_KEYS),
        (Stacked(("net",)), STACKED),
    ],
)
def test_layouts_agree(layout: Layout, tree):
    assert layout.count(tree) == 3
    assert [int(block[0]) for block in layout.blocks(tree)] == [0, 1, 2]
    smaller = layout.take(tree, [1, 2])
    assert [int(block[0]) for block in layout.blocks(smaller)] == [1, 2]
    assert smaller["head"] == 9


def test_names_sort_as_numbers():
    tree = {f"block_{index}": index for index in range(12)}
    assert Named("block_{}").blocks(tree) == list(range(12))
    assert Named("block_{}").take(tree, [2, 10]) == {"block_0": 2, "block_1": 10}


def test_names_may_have_a_suffix_and_neighbours():
    tree = {"h0.mlp": 0, "h1.mlp": 1, "h0.attention": 2, "hx.mlp": 3}
    assert Named("h{}.mlp").take(tree, [1]) == {
        "h0.mlp": 1,
        "h0.attention": 2,
        "hx.mlp": 3,
    }


def test_containers_keep_their_type():
    frozen = flax.core.freeze({"block_0": {"w": 1}, "block_1": {"w": 2}})
    taken = Named("block_{}").take(frozen, [1])
    assert isinstance(taken, flax.core.FrozenDict)
    assert taken == flax.core.freeze({"block_0": {"w": 2}})


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 6),
    data=st.data(),
)
def test_taking_twice_is_taking_once(count, data):
    tree = {"x": {f"b{i}": i for i in range(count)}}
    layout = Named("b{}", ("x",))
    first = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    first.sort()
    second = data.draw(st.lists(st.integers(0, len(first) - 1), unique=True))
    second.sort()
    both = layout.take(tree, [first[index] for index in second])
    once = layout.take(tree, first)
    assert layout.take(once, second) == both
    assert layout.take(tree, range(count)) == tree


@pytest.mark.parametrize("kept", [[2, 1], [0, 0], [-1], [3]])
def test_kept_must_be_increasing_indices(kept):
    with pytest.raises(ValueError, match="increasing indices within"):
        Listed(("net",)).take(LISTED, kept)


@pytest.mark.parametrize(
    ("layout", "tree", "message"),
    [
        (Named("layer_{}", ("nett",)), NAMED, r"no 'nett'.*found \['head', 'net'\]"),
        (Named("block_{}", ("net",)), NAMED, "must count from 0"),
        (Named("b{}"), {"b0": 1, "b2": 1}, r"without a gap: found indices \[0, 2\]"),
        (Listed(("head",)), LISTED, "no list of blocks"),
        (Listed(("net",)), {"net": []}, "empty"),
        (Listed(("net",)), {"net": {1: 0}}, "integers from 0"),
        (Stacked(("net",), axis=2), STACKED, "same number of blocks on axis 2"),
        (Stacked(("a",)), {"a": [np.ones(2), np.ones(3)]}, "same number of blocks"),
        (Stacked(("a",)), {"a": {}}, "no array"),
    ],
)
def test_what_is_not_there_is_told(layout, tree, message):
    with pytest.raises(ValueError, match=message):
        layout.count(tree)


@pytest.mark.parametrize("pattern", ["block", "block_{}_{}", "block_{i}"])
def test_patterns_hold_one_index(pattern):
    with pytest.raises(ValueError, match="exactly one"):
        Named(pattern)
