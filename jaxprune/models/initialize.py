"""Random parameters of a whole network from a single draw.

XLA takes about a second to compile each draw, and a network has one per layer.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Shape = tuple[int, ...]

# Standard deviation of a standard normal variable that is truncated at two.
_TRUNCATED = 0.87962566


class Normal(NamedTuple):
    """A normal distribution, truncated at two standard deviations."""

    mean: float
    deviation: float = 0.0


# (keys on the way to an array, its shape) -> how it is drawn.
RuleFn = Callable[[tuple[str, ...], Shape], Normal]


def draw(shapes: Any, key: Array, rule: RuleFn) -> Any:
    """Returns arrays drawn by a rule.

    Args:
        shapes: tree of dictionaries, as `jax.eval_shape(module.init, ...)` gives it.
        key: of the draw.
        rule: how each array is drawn.

    >>> shapes = {"scale": jax.ShapeDtypeStruct((2,), jax.numpy.float32)}
    >>> draw(shapes, jax.random.key(0), lambda path, shape: Normal(1.0))
    {'scale': Array([1., 1.], dtype=float32)}
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    sizes = [math.prod(leaf.shape) for _, leaf in leaves]
    draws = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),))
    values, start = [], 0
    for size, (path, leaf) in zip(sizes, leaves, strict=True):
        normal = rule(tuple(part.key for part in path), leaf.shape)
        value = jnp.full(leaf.shape, normal.mean)
        if normal.deviation:
            drawn = draws[start : start + size].reshape(leaf.shape)
            value += normal.deviation / _TRUNCATED * drawn
        values.append(value.astype(leaf.dtype))
        start += size
    return jax.tree.unflatten(structure, values)
