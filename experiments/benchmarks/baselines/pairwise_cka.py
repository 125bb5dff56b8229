"""CKA of all pairs of layers the way common PyTorch tools compute it.

For every pair of layers both Gram matrices are formed anew, centered with an explicit
`[n, n]` matrix and multiplied, and the trace is taken: `O(L^2 (n^2 d + n^3))` where
one stacked product needs `O(L n^2 d + L^2 n^2)`. Written independently of `jaxprune`,
in the debiased form, one compiled call for a pair; it is also a test oracle.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def _hsic(k: Array, g: Array) -> Array:
    """The estimator of Song et al., 2012, eq. 5, by matrix products and a trace."""
    n = len(k)
    k, g = (jnp.where(jnp.eye(n, dtype=bool), 0.0, m) for m in (k, g))
    ones = jnp.ones((n, 1), k.dtype)
    both = (ones.T @ k @ ones) * (ones.T @ g @ ones) / ((n - 1) * (n - 2))
    cross = ones.T @ k @ g @ ones * 2 / (n - 2)
    return (jnp.trace(k @ g) + (both - cross)[0, 0]) / (n * (n - 3))


@jax.jit
def _pair(x: Array, y: Array) -> Array:
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    x, y = x - x.mean(axis=0, keepdims=True), y - y.mean(axis=0, keepdims=True)
    k, g = x @ x.T, y @ y.T
    return _hsic(k, g) / jnp.sqrt(_hsic(k, k) * _hsic(g, g))


def cka_matrix(layers: Sequence[Array]) -> np.ndarray:
    """Returns debiased linear CKA `[L, L]` of L activations `[n, ...]`."""
    matrix = np.eye(len(layers))
    for i, j in itertools.combinations(range(len(layers)), 2):
        matrix[i, j] = matrix[j, i] = float(_pair(layers[i], layers[j]))
    return matrix
