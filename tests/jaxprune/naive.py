"""Parts of transformers in NumPy float64, one position and one head at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf


def randomized(variables, seed=0):
    """Variables of which none leaves things as they are."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5 + 0.1, jnp.float32),
        variables,
    )


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def norm(p, x):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return normal * p["scale"] + p["bias"]


def attention(p, x, mask, num_heads):
    """One query, one head, one key at a time. `x` is [S, D], `mask` [S]."""
    query, key, value = (dense(p[n], x) for n in ("query", "key", "value"))
    size = x.shape[1] // num_heads
    result = np.zeros_like(x)
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            scores = [
                np.exp(query[i, part] @ key[j, part] / np.sqrt(size)) * mask[j]
                for j in range(len(x))
            ]
            shares = np.array(scores) / np.sum(scores)
            result[i, part] = shares @ value[:, part]
    return dense(p["output"], result)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2
