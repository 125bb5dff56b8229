import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import buckets, prunable, recover
from jaxprune.models import text


def padded_total(lengths, bounds):
    bounds = np.array(sorted(bounds))
    return int(bounds[np.searchsorted(bounds, lengths)].sum())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 5))
def test_no_other_bounds_pad_less(lengths, count):
    found = buckets.best_bounds(lengths, count)
    occurring = sorted(set(lengths))
    others = itertools.combinations(occurring[:-1], min(count, len(occurring)) - 1)
    least = min(padded_total(lengths, (*b, occurring[-1])) for b in others)
    assert len(found) <= count
    assert padded_total(lengths, found) == least


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=40), st.integers(0, 3))
def test_every_example_is_there_once_but_what_fills_no_batch(lengths, seed):
    lengths = np.array(lengths)
    order = np.random.default_rng(seed).permutation(len(lengths))
    made = buckets.Buckets(lengths, buckets.best_bounds(lengths), text.trim)
    arranged = made.arrange(order, 4, jax.random.key(seed))
    assert sorted(arranged) == sorted(order[: len(order) // 4 * 4])
    # All batches together are as short as they can be with these examples.
    longest = np.sort(lengths[arranged].reshape(-1, 4).max(axis=1))
    assert sum(np.searchsorted(made.bounds, longest)) <= sum(
        np.searchsorted(made.bounds, np.sort(lengths[arranged])[3::4])
    )


def test_a_batch_is_cut_to_its_longest_text():
    batch = text.pad([[5], [6, 7, 8], [9, 9]], 8)
    made = buckets.Buckets(np.array([1, 3, 2]), (2, 8), text.trim)
    assert made.cut(batch, np.array([0, 2])).token_ids.tolist() == [[5, 0], [9, 9]]
    assert made.cut(batch, np.array([1])).token_ids.shape == (1, 8)


def test_lengths_without_a_place_are_refused():
    with pytest.raises(ValueError, match="no place for a length of 5"):
        buckets.Buckets(np.array([5, 1]), (4,), text.trim)
    with pytest.raises(ValueError, match="count=0"):
        buckets.best_bounds([1, 2], 0)


def test_the_lengths_of_texts_end_with_the_last_token():
    batch = text.Text(np.ones((2, 4), np.int32), np.array([[1, 0, 1, 0], [1, 0, 0, 0]]))
    assert text.buckets(batch).lengths.tolist() == [3, 1]


@pytest.mark.filterwarnings("ignore")
def test_a_text_teaches_the_same_cut_and_uncut():
    """One batch of everything: neither its order nor its padding matters."""

    def apply(variables, batch):
        words = variables["params"]["words"][batch.token_ids]
        return jnp.sum(jnp.where(batch.mask[..., None] > 0, words, 0), axis=1)

    model = prunable.Prunable(
        structure=prunable.Structure({}),
        stacks=(),
        build=lambda structure: model,
        init=lambda key: {"params": {"words": jax.random.normal(key, (99, 2))}},
        apply=apply,
        activations={"none": lambda variables, batch: (apply(variables, batch), [])},
    )
    variables = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 99, n).tolist() for n in (2, 3, 2, 5)]
    inputs, labels = text.pad(sequences, 9), np.array([0, 1, 1, 0])
    recipe = recover.Recipe(epochs=2, batch_size=4, warm_up=0.0)
    with jax.numpy_dtype_promotion("standard"):
        cut, uncut = (
            recover.fine_tune(
                model, variables, inputs, labels, recipe, jax.random.key(1), buckets=b
            )
            for b in (text.buckets(inputs), None)
        )
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(uncut), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
