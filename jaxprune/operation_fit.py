"""One linear operation fitted anew, by ridge regression, also where a ReLU follows.

Where a ReLU follows, negative targets are all alike, and only what is positive there is
an error. That is still convex: the regression is repeated with the targets that count
as met replaced by what is predicted (majorisation), over-relaxed.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import least_squares
from jaxprune.least_squares import LinearMap, Moments
from jaxprune.prunable import LinearOperation, Observed, Spread, Variables

Array = jax.Array


class Options(NamedTuple):
    """Numbers of a fit: see `refit.refit`."""

    ridge: float
    positions: int
    iterations: int


@functools.partial(jax.jit, static_argnums=(0, 3))
def observe(
    operation: LinearOperation, variables: Any, carry: Any, positions: int
) -> tuple[Observed, Array]:
    """Returns what is observed, counted by a mask in any case, and the shortcut."""
    seen = operation.observe(variables, carry, positions)
    if seen.counted is None:
        seen = seen._replace(counted=jnp.ones(len(seen.features), bool))
    linear = least_squares.apply(operation.read(variables), seen.features)
    return seen, seen.total - linear


def fit(
    operation: LinearOperation,
    variables: Variables,
    carries: Sequence[Any],
    totals: Sequence[np.ndarray],
    options: Options,
) -> tuple[Variables, float]:
    """Fits an operation such that its sums come closest to `totals`."""
    start = operation.read(variables)
    moments: Moments | None = None
    kept = []
    for carry, total in zip(carries, totals, strict=True):
        seen, shortcut = observe(operation, variables, carry, options.positions)
        rows = (seen.features, total - shortcut, seen.counted)
        if not operation.has_bias:
            rows = _mirrored(*rows)
        added = least_squares.batch_moments(*rows)
        moments = least_squares.merge_moments(moments, added)
        if operation.rectified:
            kept.append(jax.device_get((seen.features, shortcut, total, seen.counted)))
    assert moments is not None
    correction = least_squares.ridge_correction(moments.xx, options.ridge)
    linear_map, left = least_squares.solve(moments, correction, start)
    repeats = options.iterations - 1 if operation.rectified else 0
    for repeat in range(repeats):
        moments = _majorised(moments, kept, linear_map)
        before = linear_map
        linear_map, left = least_squares.solve(moments, correction, start)
        if repeat < repeats - 1:
            linear_map = jax.tree.map(_beyond, before, linear_map)
    kernel = np.asarray(linear_map.kernel, np.float64)
    variance = np.sum(kernel * (moments.xx @ kernel), axis=0) / moments.num_samples
    spread = Spread(
        jnp.float32(moments.mean_x @ kernel), jnp.float32(np.maximum(variance, 0.0))
    )
    return operation.write(variables, linear_map, spread), left


def _mirrored(x: Array, y: Array, counted: Array) -> tuple[Array, Array, Array]:
    """Returns samples and their negatives, whose means, and so the bias, are zero."""
    return (
        jnp.concatenate([x, -x]),
        jnp.concatenate([y, -y]),
        jnp.concatenate([counted, counted]),
    )


def _beyond(before: Array, after: Array) -> Array:
    """Over-relaxation: about half of the targets are met, which halves each step."""
    return before + 1.7 * (after - before)


def _majorised(
    moments: Moments, batches: Sequence[Any], linear_map: LinearMap
) -> Moments:
    """Returns the moments with targets that are met replaced by what is predicted."""
    mean_x, mean_y = np.float32(moments.mean_x), np.float32(moments.mean_y)
    sums = [
        jax.device_get(_majorised_sums(*batch, linear_map, mean_x, mean_y))
        for batch in batches
    ]
    y, xy, yy = (np.sum([s[i] for s in sums], axis=0, dtype=float) for i in range(3))
    shift = y / moments.num_samples
    return moments._replace(
        mean_y=mean_y + shift,
        xy=xy,
        yy=float(yy - moments.num_samples * shift @ shift),
    )


@jax.jit
def _majorised_sums(
    features: Array,
    shortcut: Array,
    total: Array,
    counted: Array,
    linear_map: LinearMap,
    mean_x: Array,
    mean_y: Array,
) -> tuple[Array, Array, Array]:
    predicted = least_squares.apply(linear_map, features)
    met = jnp.minimum(predicted, -shortcut)
    y = jnp.where(total < 0, met, total - shortcut) - mean_y[None, :]
    x = features - mean_x[None, :]
    x, y = (jnp.where(counted[:, None], part, 0.0) for part in (x, y))
    xy = jnp.matmul(x.T, y, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(y, axis=0), xy, jnp.sum(y * y)
