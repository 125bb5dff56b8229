"""Intervals cover, the null is null, and the floor names the thresholds below it."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import cka, similarity, uncertainty
from jaxprune.similarity import Estimator

group_states = jax.jit(similarity.group_states, static_argnums=2)
null_states = jax.jit(
    uncertainty.null_states, static_argnames=("estimator", "num_permutations")
)
hsic_matrix = jax.jit(cka.hsic_matrix)


def related(n, seed, noise=0.5, width=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width))
    y = x + noise * rng.normal(size=(n, width))
    return x.astype(np.float32), y.astype(np.float32)


def test_bootstrap_matches_numpy_resampling():
    estimator = Estimator(group_size=8)
    groups = group_states(related(256, 0), None, estimator)
    interval = uncertainty.bootstrap_interval(groups, jax.random.key(0))
    hsic = np.asarray(groups.hsic, np.float64)
    rng = np.random.default_rng(1)
    draws = hsic[rng.integers(0, len(hsic), size=(1000, len(hsic)))].sum(1)
    values = draws[:, 0, 1] / np.sqrt(draws[:, 0, 0] * draws[:, 1, 1])
    expected = np.quantile(values, [0.025, 0.975])
    np.testing.assert_allclose(interval.low[0, 1], expected[0], atol=0.01)
    np.testing.assert_allclose(interval.high[0, 1], expected[1], atol=0.01)
    np.testing.assert_allclose(interval.low[0, 0], 1.0, atol=1e-5)


def test_bootstrap_covers_the_truth():
    estimator = Estimator(group_size=8)
    x, y = related(4096, 2)
    truth = float(jax.jit(cka.linear_cka)(x[:2048], y[:2048]))
    covered = 0
    for run in range(40):
        a, b = related(256, 100 + run)
        groups = group_states((a, b), None, estimator)
        low, high = (
            matrix[0, 1]
            for matrix in uncertainty.bootstrap_interval(
                groups, jax.random.key(run), num_replicates=200
            )
        )
        covered += bool(low <= truth <= high)
    assert covered >= 32


def test_few_groups_are_refused():
    groups = group_states(related(64, 0), None, Estimator(group_size=8))
    with pytest.raises(ValueError, match="8 groups of examples are too few"):
        uncertainty.bootstrap_interval(groups, jax.random.key(0))
    with pytest.raises(ValueError, match="confidence=1"):
        uncertainty.bootstrap_interval(groups, jax.random.key(0), confidence=1.5)


def test_undefined_blocks_stay_undefined():
    x, y = related(128, 3)
    layers = [x, np.where(np.arange(128)[:, None] == 5, np.nan, y), y]
    groups = group_states(layers, None, Estimator(group_size=8))
    low, high = uncertainty.bootstrap_interval(
        groups, jax.random.key(0), num_replicates=100
    )
    assert np.isnan(low[1]).all()
    assert np.isnan(high[:, 1]).all()
    assert np.isfinite(low[0, 2])


def test_null_is_all_permutations_of_a_small_group():
    """Mean over random permutations against the mean over every permutation."""
    x, y = related(5, 4)
    gram_x, gram_y = cka.linear_gram(x), cka.linear_gram(y)
    orders = jnp.array(list(itertools.permutations(range(5))))
    permuted = jax.vmap(lambda order: gram_y[order][:, order])(orders)
    pairs = jnp.stack([jnp.broadcast_to(gram_x, permuted.shape), permuted], axis=1)
    exact = np.mean(jax.vmap(hsic_matrix)(pairs)[:, 0, 1])
    states = null_states([x, y], jax.random.key(0), num_permutations=1000)
    hsic = np.asarray(states.hsic) / np.asarray(states.weight)[:, None, None]
    own = hsic_matrix(jnp.stack([gram_x, gram_y]))
    np.testing.assert_allclose(hsic[:, 0, 0], own[0, 0], rtol=1e-4)
    spread = hsic[:, 0, 1].std() / np.sqrt(len(hsic))
    assert abs(hsic[:, 0, 1].mean() - exact) < 4 * spread


def test_null_keeps_masked_examples_apart():
    x, y = related(12, 5)
    mask = np.arange(12) % 4 != 1
    dirty = [np.where(mask[:, None], layer, np.nan) for layer in (x, y)]
    states = null_states(
        dirty, jax.random.key(0), jnp.asarray(mask), num_permutations=50
    )
    assert np.isfinite(states.hsic).all()
    clean = group_states([x[mask], y[mask]], None, Estimator())
    np.testing.assert_allclose(
        states.hsic[:, 1, 1], np.full(50, clean.hsic[0, 1, 1]), rtol=1e-4
    )


def identity_layers(variables, x):
    return x, [x[:, 0], x[:, 1]]


@pytest.mark.parametrize(("debiased", "high"), [(True, False), (False, True)])
def test_noise_floor_of_wide_layers_on_few_examples(debiased, high):
    """The published failure: biased similarity of unrelated layers is near 1."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(40, 2, 768)).astype(np.float32)
    floor = uncertainty.noise_floor(
        identity_layers,
        None,
        [x[:20], x[20:]],
        jax.random.key(0),
        estimator=Estimator(group_size=20, debiased=debiased),
        num_permutations=30,
    )
    assert (floor > 0.95) == high
    if not high:
        assert abs(floor) < 0.1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not uncertainty.warn_if_noise(0.9, floor)
    else:
        with pytest.warns(UserWarning, match=r"reach a similarity of 0\.9"):
            assert uncertainty.warn_if_noise(0.95, floor)


def test_floor_needs_two_blocks_and_a_batch():
    single = lambda variables, x: (x, [x])  # noqa: E731
    floor = uncertainty.noise_floor(
        single,
        None,
        [np.ones((8, 2), np.float32)],
        jax.random.key(0),
        num_permutations=2,
    )
    assert np.isnan(floor)
    assert not uncertainty.warn_if_noise(0.9, floor)
    with pytest.raises(ValueError, match="no batches"):
        uncertainty.noise_floor(single, None, [], jax.random.key(0))
