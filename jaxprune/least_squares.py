"""Affine maps by ridge regression, from moments that are summed over batches.

The products of a batch are formed where its arrays are, centred and in float32; batches
are merged on the host in float64. Memory does not grow with the number of examples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

Array = jax.Array
Float64 = npt.NDArray[np.float64]

_HIGHEST = jax.lax.Precision.HIGHEST


class LinearMap(NamedTuple):
    """An affine map of the last axis, `x @ kernel + bias`."""

    kernel: Array  # [inputs, outputs]
    bias: Array  # [outputs]


class Moments(NamedTuple):
    """Centred second moments of inputs and targets, on the host in float64."""

    num_samples: float
    mean_x: Float64  # [P]
    mean_y: Float64  # [Q]
    xx: Float64  # [P, P], sum of (x - mean_x)(x - mean_x)'
    xy: Float64  # [P, Q], sum of (x - mean_x)(y - mean_y)'
    yy: float  # sum of |y - mean_y|^2


def apply(linear_map: LinearMap, x: Array) -> Array:
    """Returns `x @ kernel + bias` of `[m, P]` inputs, at the highest precision."""
    product = jnp.matmul(x, linear_map.kernel, precision=_HIGHEST)
    return product + linear_map.bias[None, :]


def batch_moments(
    x: npt.ArrayLike, y: npt.ArrayLike, counted: npt.ArrayLike | None = None
) -> Moments:
    """Returns the moments of one batch.

    Args:
        x: `[n, P]` inputs.
        y: `[n, Q]` targets of the same samples.
        counted: `[n]` boolean, False for samples that do not count; all do if None.
    """
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    if counted is None:
        counted = np.ones(len(x), bool)
    parts = jax.device_get(_batch_moments(x, y, jnp.asarray(counted)))
    count, mean_x, mean_y, xx, xy, yy = (np.asarray(part, float) for part in parts)
    return Moments(float(count), mean_x, mean_y, xx, xy, float(yy))


@jax.jit
def _batch_moments(x: Array, y: Array, counted: Array) -> tuple[Array, ...]:
    # Rows that do not count may hold anything, so they are replaced, not weighted.
    count = jnp.sum(counted, dtype=jnp.float32)
    divisor = jnp.maximum(count, 1.0)

    def centered(rows: Array) -> tuple[Array, Array]:
        rows = jnp.where(counted[:, None], rows, 0.0)
        mean = jnp.sum(rows, axis=0) / divisor
        return mean, jnp.where(counted[:, None], rows - mean[None, :], 0.0)

    (mean_x, x), (mean_y, y) = centered(x), centered(y)
    xx = jnp.matmul(x.T, x, precision=_HIGHEST)
    xy = jnp.matmul(x.T, y, precision=_HIGHEST)
    return count, mean_x, mean_y, xx, xy, jnp.sum(y * y)


def merge_moments(a: Moments | None, b: Moments) -> Moments:
    """Returns the moments of two sets of examples together (Chan et al., 1983)."""
    if a is None:
        return b
    count = a.num_samples + b.num_samples
    share = b.num_samples / count if count else 0.0
    shift_x, shift_y = b.mean_x - a.mean_x, b.mean_y - a.mean_y
    weight = a.num_samples * share
    return Moments(
        count,
        a.mean_x + shift_x * share,
        a.mean_y + shift_y * share,
        a.xx + b.xx + weight * np.outer(shift_x, shift_x),
        a.xy + b.xy + weight * np.outer(shift_x, shift_y),
        a.yy + b.yy + weight * float(shift_y @ shift_y),
    )


# Cross moments `[P, Q]` of the inputs with what is left of the targets -> the change of
# the kernel that explains it.
Correction = Callable[[Float64], Float64]


def ridge_correction(xx: Float64, ridge: float) -> Correction:
    """Returns the solution of the ridge regression as a function of its right side.

    `xx` is decomposed once, into eigenvectors, which are orthogonal whatever its
    condition: each direction of the inputs explains its own share of what is left.

    Args:
        xx: `[P, P]` centred second moments of the inputs.
        ridge: shrinkage, as a fraction of the mean squared deviation of an input; 0 is
            plain least squares.

    Raises:
        ValueError: if `ridge` is negative or `xx` not finite.
    """
    if not ridge >= 0:
        raise ValueError(f"ridge={ridge} must not be negative")
    if not np.isfinite(xx).all():
        raise ValueError("activations are not finite, so no linear map can be fitted")
    values, vectors = np.linalg.eigh(xx)
    values = np.maximum(values, 0.0)
    scale = float(values.mean())
    floor = scale * len(xx) * np.finfo(np.float32).eps
    damped = np.maximum(values + ridge * scale, floor)

    def correction(residual: Float64) -> Float64:
        if not scale > 0:
            return np.zeros_like(residual)
        return vectors @ (vectors.T @ residual / damped[:, None])

    return correction


def solve(
    moments: Moments, correction: Correction, start: LinearMap | None = None
) -> tuple[LinearMap, float]:
    """Returns what `solve_ridge` does, with the decomposition at hand."""
    if not all(np.isfinite(part).all() for part in moments):
        raise ValueError("activations are not finite, so no linear map can be fitted")
    initial = np.eye(*moments.xy.shape)
    if start is not None:
        initial = np.asarray(start.kernel, np.float64)
    kernel = initial + correction(moments.xy - moments.xx @ initial)
    bias = moments.mean_y - moments.mean_x @ kernel
    fitted = np.sum(kernel * (moments.xx @ kernel))
    left = moments.yy - 2 * np.sum(kernel * moments.xy) + fitted
    unexplained = max(float(left), 0.0) / moments.yy if moments.yy > 0 else 0.0
    return LinearMap(jnp.float32(kernel), jnp.float32(bias)), unexplained


def solve_ridge(
    moments: Moments, ridge: float = 1e-4, start: LinearMap | None = None
) -> tuple[LinearMap, float]:
    """Returns the affine map closest to the targets, shrunk towards another.

    Minimises `sum |x A + b - y|^2 + ridge * s * |A - A0|^2` with `s` the mean squared
    deviation of an input channel, summed over examples: a channel that never varies
    passes as it did, and `ridge` does not depend on scale or number of examples.

    Args:
        moments: of inputs and targets.
        ridge: strength of the shrinkage, 0 for plain least squares.
        start: the map whose kernel to shrink towards, the identity by default.

    Returns:
        The map, and the share of the targets' variance that it leaves unexplained.

    Raises:
        ValueError: if the moments are not finite or `ridge` is negative.
    """
    return solve(moments, ridge_correction(moments.xx, ridge), start)
