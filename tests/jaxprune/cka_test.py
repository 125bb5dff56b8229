"""CKA against published values, naive loops and its own laws."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from jaxprune import cka


def jitted(function, *static):
    return jax.jit(function, static_argnames=("debiased", *static))


linear_cka = jitted(cka.linear_cka)
feature_space_linear_cka = jitted(cka.feature_space_linear_cka)
rbf_cka = jitted(cka.rbf_cka, "bandwidth")


@pytest.fixture
def kornblith():
    """The example of the notebook published with Kornblith et al., 2019."""
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def naive_biased_hsic(k, g):
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ h @ g @ h) / (n - 1) ** 2


def naive_debiased_hsic(k, g):
    """The average of h over distinct quadruples: the definition of the U-statistic."""
    n = len(k)
    pairs = triples = quadruples = 0.0
    for i in range(n):
        for j in range(n):
            if j == i:
                continue
            pairs += k[i, j] * g[i, j]
            for q in range(n):
                if q in (i, j):
                    continue
                triples += k[i, j] * g[i, q]
                for r in range(n):
                    if r not in (i, j, q):
                        quadruples += k[i, j] * g[q, r]
    return (
        pairs / (n * (n - 1))
        - 2 * triples / (n * (n - 1) * (n - 2))
        + quadruples / (n * (n - 1) * (n - 2) * (n - 3))
    )


def naive_cka(hsic, k, g):
    return hsic(k, g) / np.sqrt(hsic(k, k) * hsic(g, g))


def random_layers(seed, n, widths):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, 4))
    return [
        (base @ rng.normal(size=(4, d)) + rng.normal(size=(n, d))).astype(np.float32)
        for d in widths
    ]


def test_published_linear(kornblith):
    assert float(linear_cka(*kornblith, debiased=False)) == pytest.approx(
        0.55761, abs=1e-5
    )


def test_published_rbf(kornblith):
    assert float(rbf_cka(*kornblith, bandwidth=0.5, debiased=False)) == pytest.approx(
        0.65483, abs=1e-5
    )


@pytest.mark.parametrize("form", [linear_cka, feature_space_linear_cka])
def test_published_debiased(kornblith, form):
    assert float(form(*kornblith)) == pytest.approx(0.51346, abs=1e-5)


def test_u_center_by_hand():
    gram = jnp.array(
        [
            [9.0, 7.0, 2.0, 3.0],
            [7.0, 9.0, 4.0, 5.0],
            [2.0, 4.0, 9.0, 6.0],
            [3.0, 5.0, 6.0, 9.0],
        ]
    )
    # Row sums without the diagonal 12, 16, 12, 14, halved: 6, 8, 6, 7; total 54/6 = 9.
    expected = [[0, 2, -1, -1], [2, 0, -1, -1], [-1, -1, 0, 2], [-1, -1, 2, 0]]
    np.testing.assert_allclose(cka.u_center(gram), expected, atol=1e-6)


def test_u_center_rows_sum_to_zero():
    (x,) = random_layers(0, 9, [5])
    centered = cka.u_center(cka.rbf_gram(x))
    np.testing.assert_allclose(jnp.sum(centered, axis=1), np.zeros(9), atol=1e-5)
    np.testing.assert_array_equal(jnp.diagonal(centered), np.zeros(9))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("gram", [cka.linear_gram, cka.rbf_gram])
def test_hsic_matrix_is_the_naive_sum(debiased, gram):
    layers = random_layers(1, 7, [3, 11, 5])
    grams = jnp.stack([gram(x) for x in layers])
    ours = jax.jit(lambda g: cka.hsic_matrix(g, debiased=debiased))(grams)
    naive = naive_debiased_hsic if debiased else naive_biased_hsic
    grams64 = np.asarray(grams, np.float64)
    expected = [[naive(k, g) for g in grams64] for k in grams64]
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("form", [linear_cka, feature_space_linear_cka])
def test_linear_cka_of_uncentered_grams(debiased, form):
    x, y = random_layers(2, 8, [3, 6])
    x, y = x + 5, y - 7
    naive = naive_debiased_hsic if debiased else naive_biased_hsic
    k, g = (np.asarray(a, np.float64) @ np.asarray(a, np.float64).T for a in (x, y))
    assert float(form(x, y, debiased=debiased)) == pytest.approx(
        naive_cka(naive, k, g), abs=1e-5
    )


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("form", [linear_cka, feature_space_linear_cka, rbf_cka])
def test_masked_examples_do_not_count(form, debiased):
    x, y = random_layers(3, 12, [5, 9])
    mask = np.array([1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 1], bool)
    x_dirty, y_dirty = x.copy(), y.copy()
    x_dirty[~mask], y_dirty[~mask] = np.nan, 1e30
    masked = form(x_dirty, y_dirty, jnp.asarray(mask), debiased=debiased)
    plain = form(x[mask], y[mask], debiased=debiased)
    assert float(masked) == pytest.approx(float(plain), abs=1e-5)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_invariances(seed, scale):
    x, y = random_layers(seed, 16, [6, 6])
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    moved = (scale * (x @ rotation) + scale * rng.normal(size=6)).astype(np.float32)
    for form in (linear_cka, rbf_cka):
        before = form(x, y)
        np.testing.assert_allclose(form(moved, y), before, atol=5e-5)
        np.testing.assert_allclose(form(y, x), before, atol=1e-6)
        assert float(before) <= 1 + 1e-5


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    x=hnp.arrays(np.float32, (8, 3), elements=st.floats(-8, 8, width=16)),
)
def test_biased_cka_of_any_layer_is_in_the_unit_interval(x):
    y = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    value = float(linear_cka(x, y, debiased=False))
    assert np.isnan(value) or -1e-6 <= value <= 1 + 1e-6


def test_independent_layers_are_unlike_only_when_debiased():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 20, 768)).astype(np.float32)
    assert float(linear_cka(x, y, debiased=False)) > 0.95
    assert abs(float(linear_cka(x, y))) < 0.1


def test_large_mean_does_not_hurt():
    x, y = random_layers(5, 32, [16, 16])
    # Shifts of a power of two leave the spread of these values exact in float32.
    x, y = np.round(x * 256) / 256, np.round(y * 256) / 256
    np.testing.assert_allclose(
        linear_cka(x + 512, y + 512), linear_cka(x, y), atol=1e-6
    )


def test_bfloat16_is_centered_in_float32():
    x, y = random_layers(6, 32, [16, 16])
    x16, y16 = jnp.asarray(x + 30, jnp.bfloat16), jnp.asarray(y + 30, jnp.bfloat16)
    exact = linear_cka(
        np.asarray(x16, np.float32) - 30, np.asarray(y16, np.float32) - 30
    )
    value = linear_cka(x16, y16)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, atol=1e-6)


@pytest.mark.parametrize("form", [linear_cka, feature_space_linear_cka])
@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
def test_constant_layer_has_no_similarity(form, constant):
    x = np.full((50, 7), constant, np.float32)
    (y,) = random_layers(7, 50, [7])
    assert np.isnan(float(form(x, y)))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_extreme_scales_stay_finite(scale):
    x, y = random_layers(8, 16, [512, 512])
    np.testing.assert_allclose(
        linear_cka(x * np.float32(scale), y), linear_cka(x, y), atol=1e-5
    )


def test_few_examples_are_refused():
    x = np.ones((3, 2), np.float32)
    for form in (linear_cka, feature_space_linear_cka, rbf_cka):
        with pytest.raises(ValueError, match="at least 4 examples, got 3"):
            form(x, x)


def test_too_few_examples_left_by_the_mask_give_zeros():
    (x,) = random_layers(9, 6, [5])
    mask = jnp.arange(6) < 3
    gram = cka.linear_gram(x, mask)
    assert float(cka.hsic_matrix(gram[None], mask)[0, 0]) == 0


def test_bad_bandwidth():
    with pytest.raises(ValueError, match="bandwidth"):
        cka.rbf_gram(np.ones((4, 2), np.float32), bandwidth=0.0)


def test_different_examples_are_refused():
    with pytest.raises(AssertionError):
        linear_cka(np.ones((4, 2), np.float32), np.ones((5, 2), np.float32))


def test_one_trace_and_vmap():
    x, y = random_layers(10, 8, [4, 4])
    traced = jax.jit(chex.assert_max_traces(cka.linear_cka, n=1))
    for _ in range(2):
        value = traced(x, y)
    batched = jax.vmap(linear_cka)(np.stack([x, y]), np.stack([y, y]))
    np.testing.assert_allclose(batched, [value, 1.0], atol=1e-6)
