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
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune import prunable
from jaxprune.models import (
    blocks,
    encoder,
    huggingface,
    rotary,
    transformer_refit,
    weights,
)
from jaxprune.models.text import Text

Array = jax.Array
STACK = blocks.STACK


# What a `model_type` implies, and what stands for keys that its `config.json` lacks.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "gemma": {"norm_offset": True, "scale_embeddings": True},
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {"head_dim": 128},
    "gemma": {
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
}


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


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last axis, and scales."""

    epsilon: float
    offset: bool = False  # the parameter is what is added to a scale of one

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., D]` to the same."""
        if self.offset:
            scale = 1 + self.param("offset", nn.initializers.zeros, x.shape[-1:])
        else:
            scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        normal = x.astype(jnp.float32) * jax.lax.rsqrt(square + self.epsilon)
        return (normal * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


def _norm(config: DecoderConfig, name: str) -> RMSNorm:
    return RMSNorm(config.norm_epsilon, config.norm_offset, name=name)


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
            key = self._cached("keys", key, mask.shape[-1], write_at)
            value = self._cached("values", value, mask.shape[-1], write_at)
        y = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
        y = y.reshape(*x.shape[:2], -1)
        return nn.Dense(x.shape[-1], use_bias=config.output_bias, name="output")(y)

    def _cached(self, name: str, new: Array, slots: int, write_at: Array) -> Array:
        """Writes what is new into its slots, and returns what stands in all of them."""
        shape = (new.shape[0], slots, *new.shape[2:])
        cache = self.variable("cache", name, jnp.zeros, shape, new.dtype)
        cache.value = jax.lax.dynamic_update_slice_in_dim(
            cache.value, new, write_at, axis=1
        )
        return cache.value


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
        encoder.tell(self, "features", y)
        x = x + linear(config.hidden_size, "down")(y)
        encoder.tell(self, "total", x)
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
        slots, length = text.mask.shape[1], text.token_ids.shape[1]
        if slots > config.max_positions:
            raise ValueError(f"{slots} tokens are more than {config.max_positions=}")
        start = 0 if write_at is None else write_at
        real = text.mask > 0
        # Padding does not count: the first token of each example has position zero.
        order = jnp.maximum(jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, 0)
        positions = jax.lax.dynamic_slice_in_dim(order, start, length, axis=1)
        now = start + jnp.arange(length)
        mask = real[:, None, :] & (jnp.arange(slots)[None, :] <= now[:, None])[None]

        embed = nn.Embed(config.vocab_size, config.hidden_size, name="embeddings")
        x = embed(text.token_ids)
        if config.scale_embeddings:
            x = x * jnp.sqrt(jnp.asarray(config.hidden_size, x.dtype))
        encoder.tell(self, "entered", (x, positions, mask, write_at))
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


def pruned_config(
    config: DecoderConfig, structure: prunable.Structure
) -> DecoderConfig:
    """Returns the configuration of what `structure` leaves of a base model."""
    return dataclasses.replace(
        config,
        num_layers=len(structure.kept[STACK]),
        adapters=structure.adapter_positions(STACK),
    )


def prunable_decoder(
    config: DecoderConfig,
    structure: prunable.Structure | None = None,
    *,
    scan: bool = False,
) -> prunable.Prunable:
    """Returns the network as the pruner sees it; its inputs are `Text`.

    Args:
        config: of the base model.
        structure: which blocks are left of it; all by default.
        scan: keep the parameters of all blocks stacked; see `jaxprune.models.blocks`.
    """
    structure = structure or blocks.full_structure(config.num_layers)
    module = Decoder(pruned_config(config, structure), scan)
    token = jnp.ones((1, 1), jnp.int32)
    return blocks.prunable_blocks(
        module,
        structure,
        lambda new: prunable_decoder(config, new, scan=scan),
        Text(token, token),
        scan=scan,
        refit=_refit(module),
    )


def _refit(module: Decoder) -> prunable.Refit:
    config = module.config
    alike = dataclasses.replace(config, num_layers=1, adapters=())
    return transformer_refit.refit(
        module,
        tuple(Block(alike, i in config.adapters) for i in range(config.num_layers)),
        ("down",),
        _counted,
        has_bias=config.mlp_bias,
    )


def _counted(entered: tuple[Array, Array, Array, None]) -> Array:
    # A token that counts attends to itself.
    return jnp.diagonal(entered[2], axis1=1, axis2=2)


def config_from_hf(config: huggingface.JsonObject) -> DecoderConfig:
    """Returns the configuration of a model of Hugging Face.

    Where attention is limited to a window of tokens, texts are limited to that window:
    up to it, both are the same.

    Args:
        config: its `config.json`.

    Raises:
        ValueError: if it asks for something that is not done here.
    """
    huggingface.require(config, {"model_type": tuple(FAMILIES)})
    family = huggingface.number(config, "model_type")
    config = {"hidden_act": "silu", **DEFAULTS.get(family, {}), **config}
    activation = config.get("hidden_activation") or config["hidden_act"]
    huggingface.require(
        {
            "hidden_act": activation,
            "layer_types": sorted(set(config.get("layer_types") or ())),
        },
        {
            "hidden_act": tuple(encoder.ACTIVATIONS),
            "layer_types": ([], ["full_attention"], ["sliding_attention"]),
        },
    )
    num_heads = huggingface.number(config, "num_attention_heads")
    hidden_size = huggingface.number(config, "hidden_size")
    longest = huggingface.number(config, "max_position_embeddings")
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", family == "mistral"):
        longest = min(longest, window)
    bias = bool(config.get("attention_bias"))
    implied = {"qkv_bias": bias, "output_bias": bias, **FAMILIES[family]}
    return DecoderConfig(
        vocab_size=huggingface.number(config, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=huggingface.number(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=huggingface.number(config, "num_key_value_heads", num_heads),
        head_dim=huggingface.number(config, "head_dim", hidden_size // num_heads),
        intermediate_size=huggingface.number(config, "intermediate_size"),
        max_positions=longest,
        norm_epsilon=huggingface.number(config, "rms_norm_eps", 1e-6),
        activation=activation,
        rope=rotary.from_hf(config),
        tie_embeddings=bool(config.get("tie_word_embeddings")),
        mlp_bias=bool(config.get("mlp_bias")),
        **implied,
    )


def config_to_hf(config: DecoderConfig, base: huggingface.JsonObject) -> dict[str, Any]:
    """Returns the `config.json` of a pruned model, from that of the base model.

    Raises:
        ValueError: if blocks end in linear maps, which transformers has no place for.
    """
    huggingface.refuse_adapters(config.adapters)
    changes: dict[str, Any] = {}
    if types := base.get("layer_types"):
        changes["layer_types"] = types[: config.num_layers]
    return huggingface.pruned(base, config.num_layers, **changes)


def weight_table(config: DecoderConfig) -> weights.Table:
    """Returns how transformers names and stores the tensors.

    Linear maps that pruning put in (`layers.3.adapter`) are an addition.
    """

    def linear(name: str, bias: bool, *path: str) -> list[weights.Entry]:
        return weights.dense(name, *path)[: 1 + bias]

    def norm(name: str, *path: str) -> weights.Entry:
        scale = "offset" if config.norm_offset else "scale"
        return weights.Entry(f"{name}.weight", ("params", *path, scale), weights.VECTOR)

    embedding = ("params", "embeddings", "embedding")
    table = [weights.Entry("embed_tokens.weight", embedding, (0, 1))]
    table.append(norm("norm", "norm"))
    for index in range(config.num_layers):
        theirs, ours = f"layers.{index}", f"block_{index}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
            table += linear(
                f"{attention}.{short}_proj", config.qkv_bias, ours, "attention", name
            )
            if config.qk_norm and short != "v":
                path = (ours, "attention", f"{name}_norm")
                table.append(norm(f"{attention}.{short}_norm", *path))
        output = f"{attention}.o_proj"
        table += [
            *linear(output, config.output_bias, ours, "attention", "output"),
            norm(f"{theirs}.input_layernorm", ours, "attention_norm"),
            norm(f"{theirs}.post_attention_layernorm", ours, "mlp_norm"),
        ]
        for name in ("gate", "up", "down"):
            table += linear(f"{mlp}.{name}_proj", config.mlp_bias, ours, name)
        if index in config.adapters:
            table += weights.dense(f"{theirs}.adapter", ours, "adapter")
    table = weights.prefixed("model.", table)
    if config.tie_embeddings:
        tied = (*table[0].aliases, "lm_head.weight")
        table[0] = table[0]._replace(aliases=tied)
    else:
        table += linear("lm_head", False, "head")
    return [*table, *weights.unused("*rotary_emb.inv_freq")]
