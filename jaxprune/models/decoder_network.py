"""Decoder-only transformers of the present kind: Llama, Mistral, Qwen 2 and 3, Gemma.

RMSNorm before attention and MLP, rotary positions, grouped queries, a gated MLP: the
families differ in the switches of `DecoderConfig`. A block adds to its input, so one
whose results are zero can be removed without changing a bit. There is no dropout, in
training either. `jaxprune.models.generation` continues a text.

References:
    Touvron et al., 2023, https://arxiv.org/abs/2302.13971 (Llama)
    Gemma Team, 2024, https://arxiv.org/abs/2403.08295
    Qwen Team, 2025, https://arxiv.org/abs/2505.09388 (Qwen 3)
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune.models import blocks, cache, encoder, rotary
from jaxprune.models.text import Text, token_mask

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Depth and width of a network, and what tells the families apart.

    Attributes:
        vocab_size: number of tokens.
        hidden_size: width of what passes from block to block.
        num_layers: number of blocks.
        num_heads: heads of queries.
        num_kv_heads: heads of keys and values, each shared by as many heads of queries.
        head_dim: width of a head.
        intermediate_size: width inside the MLP of a block.
        max_positions: longest text, with what is generated.
        norm_epsilon: added to the mean square in RMSNorm.
        activation: a key of `encoder.ACTIVATIONS`, of the gate.
        rope: rotary positions.
        tie_embeddings: whether the head is the transposed embedding.
        qkv_bias: whether queries, keys and values have a bias (Qwen 2).
        output_bias: whether the result of attention has one.
        mlp_bias: whether the layers of the MLP have one.
        qk_norm: whether queries and keys are normalised, each head (Qwen 3).
        norm_offset: whether norms multiply by one plus their parameter (Gemma).
        scale_embeddings: multiply embeddings by the square root of their width (Gemma).
        adapters: blocks that end in a linear map.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    norm_epsilon: float = 1e-6
    activation: str = "silu"
    rope: rotary.Rotary = dataclasses.field(default_factory=rotary.Rotary)
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norm_offset: bool = False
    scale_embeddings: bool = False
    adapters: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the sizes agree."""
        if self.num_layers < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_layers={self.num_layers} must be positive and num_heads="
                f"{self.num_heads} a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even, to turn pairs")


def tiny_config(**changes: Any) -> DecoderConfig:
    """Returns a network for demonstrations and tests: 6 blocks of width 32."""
    sizes: dict[str, Any] = {
        "vocab_size": 1000,
        "hidden_size": 32,
        "num_layers": 6,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "max_positions": 64,
    }
    return DecoderConfig(**sizes | changes)


class OffsetRMSNorm(nn.Module):
    """RMSNorm whose parameter is what is added to a scale of one."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., D]` to the same."""
        offset = self.param("offset", nn.initializers.zeros, x.shape[-1:])
        normal = nn.RMSNorm(epsilon=self.epsilon, use_scale=False)(x)
        return normal * (1 + offset).reshape((1,) * (x.ndim - 1) + (-1,))


def _norm(config: DecoderConfig, name: str) -> nn.Module:
    if config.norm_offset:
        return OffsetRMSNorm(config.norm_epsilon, name=name)
    return nn.RMSNorm(epsilon=config.norm_epsilon, name=name)


class Attention(nn.Module):
    """Every token attends to itself and to tokens before it."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: Array, positions: Array, mask: Array, write_at: Array | None
    ) -> Array:
        """Maps `[B, S, D]` to the same; arguments as of `Block`."""
        config = self.config

        def heads(name: str, number: int) -> Array:
            width = number * config.head_dim
            y = nn.Dense(width, use_bias=config.qkv_bias, name=name)(x)
            return y.reshape(*y.shape[:2], number, config.head_dim)

        query = heads("query", config.num_heads)
        key = heads("key", config.num_kv_heads)
        value = heads("value", config.num_kv_heads)
        if config.qk_norm:
            query = _norm(config, "query_norm")(query)
            key = _norm(config, "key_norm")(key)
        query = config.rope.rotate(query, positions)
        key = config.rope.rotate(key, positions)
        if write_at is not None:
            key = cache.write(self, "keys", key, mask.shape[-1], write_at)
            value = cache.write(self, "values", value, mask.shape[-1], write_at)
        y = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
        y = y.reshape(*x.shape[:2], -1)
        return nn.Dense(x.shape[-1], use_bias=config.output_bias, name="output")(y)


class Block(nn.Module):
    """Attention and gated MLP of the normalised input, each added to it."""

    config: DecoderConfig
    adapter: bool = False

    @nn.compact
    def __call__(
        self, x: Array, positions: Array, mask: Array, write_at: Array | None
    ) -> Array:
        """Maps `[B, S, D]` to the same.

        Args:
            x: `[B, S, D]`.
            positions: `[B, S]`, of each token in its text.
            mask: `[B, S, T]` boolean, which of T slots each token attends to.
            write_at: slot of the first token; None without a cache, where the slots
                are the tokens themselves.
        """
        config = self.config
        attention = Attention(config, name="attention")
        y = _norm(config, "attention_norm")(x)
        x = x + attention(y, positions, mask, write_at)
        y = _norm(config, "mlp_norm")(x)

        def linear(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, use_bias=config.mlp_bias, name=name)

        gate = linear(config.intermediate_size, "gate")(y)
        y = encoder.ACTIVATIONS[config.activation](gate) * linear(
            config.intermediate_size, "up"
        )(y)
        encoder.sow(self, "features", y)
        x = x + linear(config.hidden_size, "down")(y)
        encoder.sow(self, "total", x)
        return nn.Dense(config.hidden_size, name="adapter")(x) if self.adapter else x


class Decoder(nn.Module):
    """Maps `Text` to logits of the next token, `[B, S, vocab_size]`."""

    config: DecoderConfig
    scan: bool = False

    @nn.compact
    def __call__(
        self, text: Text, write_at: Array | None = None, at: Array | None = None
    ) -> Array:
        """Returns logits; `token_type_ids` are not looked at.

        Args:
            text: padded on either side. With a cache, its mask is `[B, T]` of all T
                slots, and tells where a token stands after this call.
            write_at: slot of the first of these tokens; None without a cache.
            at: `[B]`, return logits after this token of each text only, `[B, 1, V]`.

        Raises:
            ValueError: when traced, if there are more slots than `max_positions`.
        """
        config = self.config
        real = token_mask(text)
        slots, length = real.shape[1], text.token_ids.shape[1]
        if slots > config.max_positions:
            raise ValueError(f"{slots} tokens are more than {config.max_positions=}")
        start = 0 if write_at is None else write_at
        # Padding does not count: the first token of each example has position zero.
        order = jnp.maximum(jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, 0)
        positions = jax.lax.dynamic_slice_in_dim(order, start, length, axis=1)
        now = start + jnp.arange(length)
        mask = real[:, None, :] & (jnp.arange(slots)[None, :] <= now[:, None])[None]

        embed = nn.Embed(config.vocab_size, config.hidden_size, name="embeddings")
        x = embed(text.token_ids)
        if config.scale_embeddings:
            x = x * jnp.sqrt(jnp.asarray(config.hidden_size, x.dtype))
        encoder.sow(self, "entered", (x, positions, mask, write_at))
        x = blocks.run(
            lambda **options: Block(config, **options),
            config.num_layers,
            x,
            positions,
            mask,
            write_at,
            scan=self.scan,
            adapters=config.adapters,
        )
        if at is not None:
            x = jnp.take_along_axis(x, at[:, None, None], axis=1)
        x = _norm(config, "norm")(x)
        if config.tie_embeddings:
            return embed.attend(x)
        return nn.Dense(config.vocab_size, use_bias=False, name="head")(x)
