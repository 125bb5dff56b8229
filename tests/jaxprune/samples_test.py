"""Samples against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import samples


def test_means_as_samples():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, 3, 2)).astype(np.float32)
    mask = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], bool)
    means, valid = samples.means_as_samples(jnp.asarray(x), jnp.asarray(mask))
    np.testing.assert_array_equal(valid, [True, True, True, False])
    for i in range(3):
        np.testing.assert_allclose(means[i], x[i][mask[i]].mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        samples.means_as_samples(jnp.asarray(x), None)[0], x.mean(1), rtol=1e-5
    )


def test_random_tokens_draws_valid_ones_without_replacement():
    x = jnp.arange(20.0).reshape(4, 5, 1)
    mask = np.zeros((4, 5), bool)
    mask[0, :3] = mask[2, 1:4] = True
    drawn, valid = samples.random_tokens(jax.random.key(0), 8)(x, jnp.asarray(mask))
    assert sorted(np.asarray(drawn[valid, 0]).tolist()) == [0, 1, 2, 11, 12, 13]
    assert int(valid.sum()) == 6
    with pytest.raises(ValueError, match="num_samples=21 is more than the 20"):
        samples.random_tokens(jax.random.key(0), 21)(x, None)


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 5, 5, 4), (3, 1, 1, 4)])
def test_samples_are_positions_of_the_input(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    sampled = np.asarray(samples.at_positions(jnp.asarray(x), 4))
    assert len(sampled) == 3 * min(4, int(np.prod(shape[1:-1])))
    rows = {tuple(row) for row in x.reshape(-1, 4).tolist()}
    assert {tuple(row) for row in sampled.tolist()} <= rows
    assert len({tuple(row) for row in sampled.tolist()}) == len(sampled)
