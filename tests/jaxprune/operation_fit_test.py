import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxprune import least_squares, operation_fit
from jaxprune.prunable import LinearMap, LinearOperation, Observed


def linear_operation(rectified):
    """An operation on carries `(features, shortcut)` and variables that are a map."""

    def observe(variables, carry, positions):
        features, shortcut, counted = carry
        total = least_squares.apply(variables, features) + shortcut
        return Observed(features, total, counted)

    return LinearOperation(
        observe, lambda variables: variables, lambda _, fitted, __: fitted, rectified
    )


def problem(rows=200):
    rng = np.random.default_rng(1)
    features = rng.normal(1, 1, size=(rows, 3)).astype(np.float32)
    shortcut = rng.normal(size=(rows, 2)).astype(np.float32)
    target = (features @ rng.normal(size=(3, 2)) + rng.normal(size=(rows, 2))) * 2 - 1
    return features, shortcut, target.astype(np.float32)


@pytest.mark.parametrize("rectified", [False, True])
def test_one_regression_is_least_squares_of_what_the_shortcut_lacks(rectified):
    features, shortcut, target = problem()
    halves = [(part, np.ones(100, bool)) for part in (slice(0, 100), slice(100, 200))]
    carries = [(features[part], shortcut[part], counted) for part, counted in halves]
    start = LinearMap(jnp.eye(3, 2), jnp.zeros(2))
    found, left = operation_fit.fit(
        linear_operation(rectified),
        start,
        carries,
        [target[:100], target[100:]],
        operation_fit.Options(ridge=0.0, positions=1, iterations=1),
    )
    design = np.column_stack([features, np.ones(200)])
    lacking = target - shortcut
    best, *_ = np.linalg.lstsq(design, lacking, rcond=None)
    np.testing.assert_allclose(found.kernel, best[:3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bias, best[3], rtol=1e-3, atol=1e-4)
    error = np.sum((lacking - design @ best) ** 2)
    total = np.sum((lacking - lacking.mean(0)) ** 2)
    assert left == pytest.approx(error / total, rel=1e-3)


def test_rectified_regression_finds_the_minimum_of_the_convex_objective():
    features, shortcut, target = problem()
    carry = (features, shortcut, np.ones(len(features), bool))
    start = LinearMap(jnp.eye(3, 2), jnp.zeros(2))
    options = operation_fit.Options(ridge=0.0, positions=1, iterations=60)
    found, _ = operation_fit.fit(
        linear_operation(True), start, [carry], [target], options
    )

    def loss(flat):
        total = features @ flat[:6].reshape(3, 2) + flat[6:] + shortcut
        error = np.where(target < 0, np.maximum(total, 0), total - target)
        return np.sum(error**2)

    best = optimize.minimize(loss, np.zeros(8), method="BFGS", tol=1e-9)
    ours = np.concatenate([np.ravel(found.kernel), found.bias])
    assert loss(ours) < best.fun * (1 + 1e-3)
    # A few repetitions already get most of what there is to get.
    options = options._replace(iterations=1)
    plain, _ = operation_fit.fit(
        linear_operation(True), start, [carry], [target], options
    )
    options = options._replace(iterations=5)
    few, _ = operation_fit.fit(
        linear_operation(True), start, [carry], [target], options
    )
    loss_of = lambda m: loss(np.concatenate([np.ravel(m.kernel), m.bias]))  # noqa: E731
    assert loss_of(few) - best.fun < 0.4 * (loss_of(plain) - best.fun)


@pytest.mark.parametrize("rectified", [False, True])
def test_padding_does_not_count(rectified):
    features, shortcut, target = problem()
    start = LinearMap(jnp.eye(3, 2), jnp.zeros(2))
    options = operation_fit.Options(ridge=1e-3, positions=1, iterations=3)
    everything = np.ones(len(features), bool)
    wanted, _ = operation_fit.fit(
        linear_operation(rectified),
        start,
        [(features, shortcut, everything)],
        [target],
        options,
    )
    rubbish = np.full((50, 3), np.nan, np.float32)
    carry = (
        np.concatenate([features, rubbish]),
        np.concatenate([shortcut, rubbish[:, :2]]),
        np.concatenate([everything, np.zeros(50, bool)]),
    )
    target = np.concatenate([target, rubbish[:, :2]])
    found, _ = operation_fit.fit(
        linear_operation(rectified), start, [carry], [target], options
    )
    np.testing.assert_allclose(found.kernel, wanted.kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bias, wanted.bias, rtol=1e-4, atol=1e-5)
