"""Decoder-only transformers as the pruner sees them, and their checkpoints.

The network is in `decoder_network`.
"""

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
from jaxprune.models.blocks import pruned_config as pruned_config
from jaxprune.models.decoder_network import Block, Decoder, DecoderConfig
from jaxprune.models.decoder_network import tiny_config as tiny_config
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
    token = jnp.ones((1, 1), jnp.int32)
    return blocks.prunable_blocks(
        Decoder, config, structure, Text(token, token), scan=scan, refit=_refit
    )


def _refit(module: nn.Module, config: DecoderConfig) -> prunable.Refit:
    return transformer_refit.refit(
        module,
        blocks.separate(Block, config),
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
    family = huggingface.value(config, "model_type")
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
    num_heads = huggingface.size(config, "num_attention_heads")
    hidden_size = huggingface.size(config, "hidden_size")
    longest = huggingface.size(config, "max_position_embeddings")
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", family == "mistral"):
        longest = min(longest, huggingface.size(config, "sliding_window"))
    bias = bool(config.get("attention_bias"))
    implied = {"qkv_bias": bias, "output_bias": bias, **FAMILIES[family]}
    return DecoderConfig(
        vocab_size=huggingface.size(config, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=huggingface.size(config, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=huggingface.size(config, "num_key_value_heads", num_heads),
        head_dim=huggingface.size(config, "head_dim", hidden_size // num_heads),
        intermediate_size=huggingface.size(config, "intermediate_size"),
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
