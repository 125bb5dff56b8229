"""What the encoders for text and for images have in common: attention and MLP."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

Array = jax.Array

# Collection of what `transformer_refit` reads from a pass through the network.
REFIT = "refit"

# Named as in published configurations.
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def sow(module: nn.Module, name: str, value: Any) -> None:
    """Keeps a value in the collection `REFIT`, for those who make it mutable."""
    if not module.is_initializing():
        module.sow(REFIT, name, value)


def check_sizes(
    num_layers: int, hidden_size: int, num_heads: int, activation: str
) -> None:
    """Refuses sizes that do not agree, and functions that are not there.

    Raises:
        ValueError: naming them.
    """
    if min(num_layers, hidden_size, num_heads) < 1 or hidden_size % num_heads:
        raise ValueError(
            f"num_layers={num_layers} must be positive and hidden_size={hidden_size} "
            f"a positive multiple of num_heads={num_heads}"
        )
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation={activation!r} is none of {known}")


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """Returns a LayerNorm whose variance is that of the centred values."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


class SelfAttention(nn.Module):
    """Every position attends to all positions that count."""

    num_heads: int
    use_bias: bool = True  # of queries, keys and values

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Maps `[B, S, D]` to the same.

        Args:
            x: `[B, S, D]`.
            mask: `[B, S]` boolean, False for positions that nobody attends to.
        """
        batch, length, width = x.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (
            nn.Dense(width, use_bias=self.use_bias, name=name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        if mask is not None:
            mask = mask[:, None, None, :]
        y = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return nn.Dense(width, name="output")(y.reshape(x.shape))


class Mlp(nn.Module):
    """Two linear layers with a nonlinearity between, at each position."""

    intermediate_size: int
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, S, D]` to the same."""
        y = nn.Dense(self.intermediate_size, name="hidden")(x)
        y = ACTIVATIONS[self.activation](y)
        sow(self, "features", y)
        return nn.Dense(x.shape[-1], name="output")(y)
