"""Centered kernel alignment (CKA) of the activations of two layers.

A layer is seen through its Gram matrix: how alike each pair of examples is in the
eyes of that layer. The Hilbert-Schmidt independence criterion (HSIC) is the inner
product of two centered Gram matrices and CKA is its cosine.

Two estimators of HSIC are offered. The *biased* one is an inner product of doubly
centered matrices; it overestimates the similarity of wide layers on few examples so
strongly that unrelated layers look alike. The *debiased* one is the U-statistic: its
expectation does not depend on the number of examples, so minibatches can be averaged.

References:
    Kornblith et al., 2019, https://arxiv.org/abs/1905.00414
    Song et al., 2012, Feature selection via dependence maximization, eq. 5.
    Székely and Rizzo, 2014, https://arxiv.org/abs/1310.2926 (U-centering, def. 2)
"""

import chex
import jax
import jax.numpy as jnp
from jax import Array

_HIGHEST = jax.lax.Precision.HIGHEST

# The U-statistic divides by n (n - 3).
MIN_EXAMPLES = 4

# Relative size up to which a difference may be due to rounding alone.
_ROUNDING = 8 * float(jnp.finfo(jnp.float32).eps)


def _count(mask: Array | None, num_examples: int) -> Array:
    if mask is None:
        return jnp.float32(num_examples)
    chex.assert_shape(mask, (num_examples,))
    return jnp.sum(mask, dtype=jnp.float32)


def _pairs(mask: Array | None, num_examples: int) -> Array:
    if mask is None:
        return jnp.ones((num_examples, num_examples), bool)
    return mask[:, None] & mask[None, :]


def _check_debiased(num_examples: int) -> None:
    if num_examples < MIN_EXAMPLES:
        raise ValueError(
            f"debiased HSIC needs at least {MIN_EXAMPLES} examples, got "
            f"{num_examples}: use larger batches, or debiased=False"
        )


def _flatten(x: Array) -> Array:
    """Returns `[n, d]` float32 features of `[n, ...]` activations of any type."""
    return x.reshape(x.shape[0], -1).astype(jnp.float32)


def _center_features(x: Array, mask: Array | None) -> Array:
    """Returns the `[n, d]` features less their mean."""
    if mask is not None:
        x = jnp.where(mask[:, None], x, 0.0)
    mean = jnp.sum(x, axis=0) / jnp.maximum(_count(mask, x.shape[0]), 1.0)
    centered = x - mean[None, :]
    return centered if mask is None else jnp.where(mask[:, None], centered, 0.0)


def _is_constant(x: Array, mask: Array | None, energy: Array) -> Array:
    """Whether `energy`, of the centered features, is but the rounding of their mean.

    If so, any row is the mean. (To square the mean itself would cost a pass over x.)
    """
    row = x[0] if mask is None else x[jnp.argmax(mask)]
    return energy <= _ROUNDING**2 * _count(mask, x.shape[0]) * jnp.sum(row**2)


def linear_gram(x: Array, mask: Array | None = None) -> Array:
    """Returns the linear Gram matrix of centered activations.

    Features are centered in float32 before the product, which leaves CKA unchanged
    and keeps it accurate when the mean of the features is large against their spread.
    The product is divided by the number of features (CKA does not depend on the
    scale) so that sums of squares stay inside the range of float32.

    Args:
        x: `[n, ...]` activations of any floating type; trailing axes are features.
        mask: `[n]` boolean, False for examples that do not count (padding).

    Returns:
        `[n, n]` float32; rows and columns of masked examples are zero.

    >>> linear_gram(jnp.array([[1.0], [3.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    features = _flatten(x)
    centered = _center_features(features, mask)
    gram = jnp.matmul(centered, centered.T, precision=_HIGHEST)
    return gram / max(features.shape[1], 1)


def rbf_gram(x: Array, mask: Array | None = None, *, bandwidth: float = 1.0) -> Array:
    """Returns the Gaussian Gram matrix `exp(-|x_i - x_j|^2 / (2 sigma^2))`.

    `sigma` is `bandwidth` times the square root of the median squared distance
    between the given examples, so CKA does not depend on the scale of the layer.

    Args:
        x: `[n, ...]` activations of any floating type; trailing axes are features.
        mask: `[n]` boolean, False for examples that do not count.
        bandwidth: fraction of the median distance, above 0.

    Returns:
        `[n, n]` float32; rows and columns of masked examples are zero.

    Raises:
        ValueError: if `bandwidth` is not positive.

    References:
        Kornblith et al., 2019, section 3 and appendix.

    >>> rbf_gram(jnp.array([[0.0], [0.0], [1.0]]))[0, :2].tolist()
    [1.0, 1.0]
    """
    if not bandwidth > 0:
        raise ValueError(f"{bandwidth=} must be above 0, a fraction of the median")
    centered = _center_features(_flatten(x), mask)
    products = jnp.matmul(centered, centered.T, precision=_HIGHEST)
    norms = jnp.diagonal(products)
    distances = jnp.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)
    pairs = _pairs(mask, x.shape[0])
    median = jnp.nanmedian(jnp.where(pairs, distances, jnp.nan))
    # Where most distances are zero the limit is the kernel of equality.
    width = jnp.maximum(2 * bandwidth**2 * median, jnp.finfo(jnp.float32).tiny)
    gram = jnp.exp(-distances / width)
    return jnp.where(pairs, gram, 0.0)


def center(gram: Array, mask: Array | None = None) -> Array:
    """Returns the doubly centered Gram matrix: each row and column sums to zero.

    Args:
        gram: `[n, n]` symmetric float32.
        mask: `[n]` boolean, False for examples that do not count.

    Returns:
        `[n, n]` float32, zero where masked.

    >>> center(jnp.array([[2.0, 0.0], [0.0, 2.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    chex.assert_rank(gram, 2)
    pairs = _pairs(mask, gram.shape[0])
    count = jnp.maximum(_count(mask, gram.shape[0]), 1.0)
    valid = jnp.where(pairs, gram, 0.0)
    rows = jnp.sum(valid, axis=1) / count
    total = jnp.sum(rows) / count
    return jnp.where(pairs, valid - rows[:, None] - rows[None, :] + total, 0.0)


def u_center(gram: Array, mask: Array | None = None) -> Array:
    """Returns the U-centered Gram matrix: zero diagonal, rows that sum to zero.

    Args:
        gram: `[n, n]` symmetric float32; its diagonal is ignored.
        mask: `[n]` boolean, False for examples that do not count. With fewer than
            three examples left the result is meaningless, though finite.

    Returns:
        `[n, n]` float32, zero where masked.

    References:
        Székely and Rizzo, 2014, definition 2.

    >>> u_center(jnp.ones((4, 4))).tolist()[0]
    [0.0, 0.0, 0.0, 0.0]
    """
    chex.assert_rank(gram, 2)
    num_examples = gram.shape[0]
    pairs = _pairs(mask, num_examples) & ~jnp.eye(num_examples, dtype=bool)
    count = _count(mask, num_examples)
    valid = jnp.where(pairs, gram, 0.0)
    rows = jnp.sum(valid, axis=1) / jnp.maximum(count - 2, 1.0)
    total = jnp.sum(rows) / jnp.maximum(count - 1, 1.0)
    return jnp.where(pairs, valid - rows[:, None] - rows[None, :] + total, 0.0)


def hsic_matrix(
    grams: Array, mask: Array | None = None, *, debiased: bool = True
) -> Array:
    """Returns HSIC of all pairs of layers.

    Each Gram matrix is centered once and all inner products are one matrix product.

    Args:
        grams: `[L, n, n]` Gram matrices of L layers on the same n examples.
        mask: `[n]` boolean, False for examples that do not count. Fewer than four
            left (two if biased) give zeros: nothing can be said about them.
        debiased: the U-statistic, whose expectation does not depend on n, rather
            than the biased estimator.

    Returns:
        `[L, L]` float32, symmetric.

    Raises:
        ValueError: if `debiased` and n < 4.

    >>> grams = jnp.stack([jnp.eye(4), 2 * jnp.eye(4)])
    >>> print(3 * hsic_matrix(grams, debiased=False))
    [[1. 2.]
     [2. 4.]]
    """
    chex.assert_rank(grams, 3)
    num_layers, num_examples, _ = grams.shape
    chex.assert_shape(grams, (num_layers, num_examples, num_examples))
    count = _count(mask, num_examples)
    if debiased:
        _check_debiased(num_examples)
        enough, divisor = count >= MIN_EXAMPLES, count * (count - 3)
    else:
        enough, divisor = count >= 2, (count - 1) ** 2

    def centered_gram(gram: Array) -> Array:
        result = (u_center if debiased else center)(gram, mask)
        # All examples alike, or all equally far apart, leave rounding errors.
        negligible = jnp.sum(result**2) <= _ROUNDING**2 * jnp.sum(gram**2)
        return jnp.where(negligible, 0.0, result)

    centered = jax.vmap(centered_gram)(grams)
    vectors = centered.reshape(num_layers, -1)
    products = jnp.matmul(vectors, vectors.T, precision=_HIGHEST)
    return jnp.where(enough, products / jnp.where(enough, divisor, 1.0), 0.0)


def normalize(hsic: Array) -> Array:
    """Returns CKA from HSIC of all pairs: `h_ij / sqrt(h_ii h_jj)`.

    Args:
        hsic: `[..., L, L]`, or sums or averages of such matrices.

    Returns:
        `[..., L, L]` float32. NaN in the row and the column of a layer without
        similarity to itself: one that is constant, or that holds a NaN.

    >>> normalize(jnp.array([[4.0, 1.0], [1.0, 1.0]])).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    scale = jnp.sqrt(jnp.diagonal(hsic, axis1=-2, axis2=-1))
    scale = jnp.where(scale > 0, scale, jnp.nan)
    return hsic / scale[..., :, None] / scale[..., None, :]


def cka(
    gram_x: Array,
    gram_y: Array,
    mask: Array | None = None,
    *,
    debiased: bool = True,
) -> Array:
    """Returns CKA of two Gram matrices.

    Args:
        gram_x: `[n, n]` Gram matrix of one layer.
        gram_y: `[n, n]` Gram matrix of another layer on the same examples.
        mask: `[n]` boolean, False for examples that do not count.
        debiased: from debiased HSIC; the result may then be negative.

    Returns:
        Scalar float32, at most 1 up to rounding; in `[0, 1]` if not debiased and the
        Gram matrices are positive semidefinite. NaN if a layer is constant.

    Guarantees:
        Symmetric in its arguments; unchanged when a Gram matrix is scaled.

    Raises:
        ValueError: if `debiased` and n < 4.

    >>> x = jax.random.normal(jax.random.key(0), (8, 3))
    >>> bool(jnp.isclose(cka(linear_gram(x), linear_gram(2 * x)), 1.0))
    True
    """
    chex.assert_equal_shape([gram_x, gram_y])
    grams = jnp.stack([gram_x, gram_y])
    return normalize(hsic_matrix(grams, mask, debiased=debiased))[0, 1]


def linear_cka(
    x: Array, y: Array, mask: Array | None = None, *, debiased: bool = True
) -> Array:
    """Returns linear CKA of two activation matrices.

    Args:
        x: `[n, ...]` activations of one layer; trailing axes are features.
        y: `[n, ...]` activations of another layer on the same examples.
        mask: `[n]` boolean, False for examples that do not count.
        debiased: from debiased HSIC; the result may then be negative.

    Returns:
        Scalar float32; NaN if a layer is constant.

    Guarantees:
        Unchanged by rotation, isotropic scaling and translation of either layer.

    Raises:
        ValueError: if `debiased` and n < 4.

    >>> x = jnp.arange(5.0)[:, None]
    >>> bool(jnp.isclose(linear_cka(x, 3 - 2 * x), 1.0))
    True
    """
    gram_x, gram_y = linear_gram(x, mask), linear_gram(y, mask)
    return cka(gram_x, gram_y, mask, debiased=debiased)


def rbf_cka(
    x: Array,
    y: Array,
    mask: Array | None = None,
    *,
    bandwidth: float = 1.0,
    debiased: bool = True,
) -> Array:
    """Returns CKA under Gaussian kernels; arguments as of `rbf_gram` and `cka`.

    >>> x = jax.random.normal(jax.random.key(0), (8, 3))
    >>> bool(jnp.isclose(rbf_cka(x, x, bandwidth=0.5), 1.0))
    True
    """
    gram_x = rbf_gram(x, mask, bandwidth=bandwidth)
    gram_y = rbf_gram(y, mask, bandwidth=bandwidth)
    return cka(gram_x, gram_y, mask, debiased=debiased)


def feature_space_linear_cka(
    x: Array, y: Array, mask: Array | None = None, *, debiased: bool = True
) -> Array:
    """Returns what `linear_cka` does, from `[d, d]` rather than `[n, n]` products.

    Cheaper where there are many more examples than features.

    Args:
        x: `[n, ...]` activations of one layer; trailing axes are features.
        y: `[n, ...]` activations of another layer on the same examples.
        mask: `[n]` boolean, False for examples that do not count.
        debiased: from debiased HSIC; the result may then be negative.

    Returns:
        Scalar float32; NaN if a layer is constant.

    Raises:
        ValueError: if `debiased` and n < 4.

    References:
        Kornblith et al., 2019, eq. 3. For centered features the corrections of the
        U-statistic depend on the squared norms `k` and `l` of the examples alone:
        `|X^T Y|^2 - n/(n-2) k.l + sum(k) sum(l) / ((n-1)(n-2))`.

    >>> x = jax.random.normal(jax.random.key(0), (32, 3))
    >>> y = x + jax.random.normal(jax.random.key(1), (32, 3))
    >>> bool(jnp.isclose(feature_space_linear_cka(x, y), linear_cka(x, y), atol=1e-5))
    True
    """
    num_examples = x.shape[0]
    chex.assert_equal_shape_prefix([x, y], 1)
    if debiased:
        _check_debiased(num_examples)
    count = _count(mask, num_examples)

    def features(layer: Array) -> Array:
        flat = _flatten(layer)
        centered = _center_features(flat, mask)
        constant = _is_constant(flat, mask, jnp.sum(centered**2))
        return jnp.where(constant, 0.0, centered / max(flat.shape[1], 1) ** 0.5)

    def hsic(a: Array, b: Array) -> Array:
        product = jnp.sum(jnp.matmul(a.T, b, precision=_HIGHEST) ** 2)
        if not debiased:
            return product
        norms_a, norms_b = jnp.sum(a**2, axis=1), jnp.sum(b**2, axis=1)
        paired = count / (count - 2) * jnp.sum(norms_a * norms_b)
        both = jnp.sum(norms_a) * jnp.sum(norms_b) / ((count - 1) * (count - 2))
        return product - paired + both

    x, y = features(x), features(y)
    pairs = [[hsic(x, x), hsic(x, y)], [hsic(x, y), hsic(y, y)]]
    return normalize(jnp.array(pairs))[0, 1]
