import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.least_squares import batch_moments, merge_moments, solve_ridge


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 17]))
def test_ridge_without_shrinkage_is_least_squares(seed, split):
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 3, size=(60, 4))
    y = rng.normal(size=(60, 3)) + x[:, :3]
    moments = merge_moments(
        batch_moments(x[:split], y[:split]),
        batch_moments(x[split:], y[split:]),
    )
    linear_map, unexplained = solve_ridge(moments, ridge=0.0)
    design = np.column_stack([x, np.ones(60)])
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    np.testing.assert_allclose(linear_map.kernel, solution[:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linear_map.bias, solution[4], rtol=1e-4, atol=1e-4)
    residual = y - design @ solution
    expected = np.sum(residual**2) / np.sum((y - y.mean(0)) ** 2)
    assert unexplained == pytest.approx(expected, rel=1e-4)


def test_ridge_minimises_its_objective():
    """Gradient of `|xA + b - y|^2 + ridge s |A - I|^2` is zero at the solution."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 3)) * [1, 5, 0.1], rng.normal(size=(50, 3))
    moments = batch_moments(x, y)
    ridge = 0.3
    (kernel, bias), _ = solve_ridge(moments, ridge)
    scale = np.trace(moments.xx) / 3
    error = x @ np.float64(kernel) + np.float64(bias) - y
    slope = x.T @ error + ridge * scale * (np.float64(kernel) - np.eye(3))
    np.testing.assert_allclose(slope, 0, atol=1e-3)
    np.testing.assert_allclose(error.mean(0), 0, atol=1e-5)


def test_dead_channels_pass_as_they_are():
    x = np.zeros((20, 3))
    x[:, 0] = np.linspace(-1, 1, 20)
    (kernel, _), unexplained = solve_ridge(batch_moments(x, 2 * x), 0.0)
    np.testing.assert_allclose(kernel, np.diag([2, 1, 1]), atol=1e-6)
    assert unexplained == pytest.approx(0, abs=1e-9)


def test_constant_features_give_the_identity():
    x = np.full((20, 3), 4.0)
    (kernel, bias), unexplained = solve_ridge(batch_moments(x, x + 1))
    np.testing.assert_array_equal(kernel, np.eye(3))
    np.testing.assert_allclose(bias, 1)
    assert unexplained == 0


def test_what_is_not_finite_is_refused():
    x = np.full((4, 2), np.nan)
    with pytest.raises(ValueError, match="not finite"):
        solve_ridge(batch_moments(x, x))
    with pytest.raises(ValueError, match="ridge=-1"):
        solve_ridge(batch_moments(np.eye(2), np.eye(2)), -1)
