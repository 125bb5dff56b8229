"""Padded batches hold every example once, in one size."""

import numpy as np
import pytest

from jaxprune.batches import pad_batches


def test_sizes_and_masks():
    data = [{"x": np.arange(5)}, {"x": np.arange(5, 8)}, {"x": np.arange(8, 15)}]
    padded = list(pad_batches(data, multiple=2))
    assert [len(batch["x"]) for batch, _ in padded] == [6, 6, 8]
    kept = np.concatenate([np.asarray(batch["x"])[mask] for batch, mask in padded])
    np.testing.assert_array_equal(kept, np.arange(15))
    np.testing.assert_array_equal(padded[1][0]["x"], [5, 6, 7, 7, 7, 7])


def test_token_masks_are_padded_too():
    batches = [np.ones((3, 2)), np.ones((1, 2))]
    masks = [mask for _, mask in pad_batches(batches, lambda x: x > 0)]
    np.testing.assert_array_equal(masks[1], [[True, True], [False] * 2, [False] * 2])


def test_batch_without_arrays():
    with pytest.raises(ValueError, match="holds no arrays"):
        list(pad_batches([()]))


def test_batch_without_examples():
    with pytest.raises(ValueError, match="holds no examples"):
        list(pad_batches([np.ones((3, 2)), np.ones((0, 2))]))
