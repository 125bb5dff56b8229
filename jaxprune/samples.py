"""Which activations are one sample when layers are compared.

A `SamplesFn` turns a layer's activations into `[m, d]` samples and a mask of those that
count. The choice is part of the question: "are two layers alike over examples, over
tokens, or over examples summarized by their mean?" It must pick the same samples for
each layer.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# (activations `[n, ...]`, mask `[n]` or `[n, t]` or None)
# -> (samples `[m, ...]`, mask `[m]` or None).
SamplesFn = Callable[[Array, Array | None], tuple[Array, Array | None]]


def _token_mask(x: Array, mask: Array) -> Array:
    """Returns the mask `[n, t]` shaped to broadcast against `x`: `[n, t, 1, ...]`."""
    chex.assert_shape(mask, x.shape[:2])
    return mask.reshape(mask.shape + (1,) * (x.ndim - 2))


def examples_as_samples(x: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """Each example is a sample; all its positions and channels are features.

    Masked tokens are left out of the feature means and contribute nothing, so that
    padding does not make examples of like length look alike.

    >>> samples, mask = examples_as_samples(jnp.ones((2, 3, 4)), None)
    >>> samples.shape
    (2, 12)
    """
    if mask is None or mask.ndim == 1:
        return x.reshape(x.shape[0], -1), mask
    valid = _token_mask(x, mask)
    x = jnp.where(valid, x.astype(jnp.float32), 0.0)
    count = jnp.maximum(jnp.sum(valid, axis=0, dtype=jnp.float32), 1.0)
    mean = jnp.sum(x, axis=0) / jnp.broadcast_to(count, x.shape[1:])
    centered = jnp.where(valid, x - mean[None], 0.0)
    return centered.reshape(x.shape[0], -1), jnp.any(mask, axis=1)


def means_as_samples(x: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """Each example is a sample: the mean over its tokens or positions that count.

    Averages all axes between the first and the last: `[n, t, d]` or `[n, h, w, d]`.

    >>> samples, mask = means_as_samples(jnp.ones((2, 3, 4)), None)
    >>> samples.shape
    (2, 4)
    """
    x = x.astype(jnp.float32)
    middle = tuple(range(1, x.ndim - 1))
    if mask is None or mask.ndim == 1:
        return jnp.mean(x, axis=middle), mask
    valid = jnp.broadcast_to(_token_mask(x, mask), x.shape)
    count = jnp.maximum(jnp.sum(valid, axis=middle, dtype=jnp.float32), 1.0)
    return jnp.sum(jnp.where(valid, x, 0.0), axis=middle) / count, jnp.any(mask, axis=1)


def random_tokens(key: Array, num_samples: int) -> SamplesFn:
    """Each of a number of tokens of a batch, drawn without replacement, is a sample.

    Tokens that do not count are drawn only when all others have been, and are masked.

    Args:
        key: PRNG key; the same positions are drawn for each layer and batch.
        num_samples: tokens drawn from a batch.

    Returns:
        A function that raises ValueError if a batch has fewer tokens.

    >>> samples, mask = random_tokens(jax.random.key(0), 4)(jnp.ones((2, 3, 5)), None)
    >>> samples.shape, mask.shape
    ((4, 5), (4,))
    """

    def samples_fn(x: Array, mask: Array | None) -> tuple[Array, Array | None]:
        chex.assert_rank(x, 3)
        num_tokens = x.shape[0] * x.shape[1]
        if num_samples > num_tokens:
            raise ValueError(f"{num_samples=} is more than the {num_tokens} of a batch")
        valid = jnp.ones(x.shape[:2], bool)
        if mask is not None:
            valid &= mask[:, None] if mask.ndim == 1 else mask
        valid = valid.reshape(num_tokens)
        priority = jnp.where(valid, jax.random.uniform(key, (num_tokens,)), -1.0)
        _, drawn = jax.lax.top_k(priority, num_samples)
        return x.reshape(num_tokens, x.shape[2])[drawn], valid[drawn]

    return samples_fn


def spread_positions(length: int, count: int) -> np.ndarray:
    """Returns at most `count` of `length` positions, spread evenly and on no grid.

    Neighbouring pixels or tokens tell nearly the same, and those of a grid might share
    what a network does periodically: multiples of the golden ratio modulo one do not.

    >>> spread_positions(100, 4).tolist()
    [0, 23, 61, 85]
    """
    if length <= count:
        return np.arange(length)
    fractions = np.arange(count) * 0.6180339887498949 % 1
    return np.sort((fractions * length).astype(np.int32))


def at_positions(outputs: Array, count: int) -> Array:
    """Returns `[n * count, C]` of `[n, ..., C]`: at most `count` positions of each.

    >>> at_positions(jnp.zeros((2, 5, 5, 3)), 4).shape
    (8, 3)
    """
    flat = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    flat = flat[:, spread_positions(flat.shape[1], count)]
    return flat.reshape(-1, flat.shape[-1])
