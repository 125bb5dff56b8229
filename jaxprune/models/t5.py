"""T5 as the pruner sees it, and its checkpoints; the network is in `t5_network`.

Both stacks can be pruned, `encoder` and `decoder`. The bias of positions belongs to the
stack; published files keep it in the first block, which therefore stays.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import activations, layouts, prunable
from jaxprune import plan as plan_lib
from jaxprune.models import (
    blocks,
    huggingface,
    initialize,
    transformer_refit,
    weights,
)
from jaxprune.models.t5_network import T5, Block, T5Config
from jaxprune.models.t5_network import base_config as base_config
from jaxprune.models.t5_network import small_config as small_config
from jaxprune.models.t5_network import tiny_config as tiny_config
from jaxprune.models.text import Seq2Seq

Array = jax.Array
ENCODER = "encoder"
DECODER = "decoder"
STACKS = (ENCODER, DECODER)


def reads(path: str) -> str:
    """Returns the stack whose tokens a layer reads, given the path of its kernel.

    Keys and values of cross-attention are made of what the encoder has read.

    >>> reads("decoder/block_0/cross_attention/key/kernel")
    'encoder'
    """
    first, *rest = path.split("/")
    is_source = "cross_attention" in rest and bool({"key", "value"} & {*rest})
    return ENCODER if first == ENCODER or is_source else DECODER


def pruned_config(config: T5Config, structure: prunable.Structure) -> T5Config:
    """Returns the configuration of what `structure` leaves of a base model."""
    return dataclasses.replace(
        config,
        num_encoder_layers=len(structure.kept[ENCODER]),
        num_decoder_layers=len(structure.kept[DECODER]),
        encoder_adapters=structure.adapter_positions(ENCODER),
        decoder_adapters=structure.adapter_positions(DECODER),
    )


def prunable_t5(
    config: T5Config,
    structure: prunable.Structure | None = None,
    *,
    scan: bool = False,
) -> prunable.Prunable:
    """Returns the network as the pruner sees it; its inputs are `Seq2Seq`.

    Args:
        config: of the base model.
        structure: which blocks are left of it; all by default.
        scan: keep the parameters of all blocks of a stack stacked; see
            `jaxprune.models.blocks`. They cannot hold linear maps then.
    """
    if structure is None:
        depths = (config.num_encoder_layers, config.num_decoder_layers)
        kept = {n: tuple(range(d)) for n, d in zip(STACKS, depths, strict=True)}
        structure = prunable.Structure(kept)
    module = T5(pruned_config(config, structure), scan)
    stacks, activation_fns = [], {}
    for name in STACKS:
        depth = len(structure.kept[name])
        layout: layouts.Layout = layouts.Named("block_{}", (name,))
        if scan:
            layout = layouts.Stacked((name, "blocks"))
        reason = f"owns the relative positions of the {name} in published files"
        stacks.append(
            plan_lib.Stack(name, depth, {"params": layout}, protected={0: reason})
        )
        activation_fns[name] = (
            activations.linen_scan_activations(module, f"{name}/blocks")
            if scan
            else activations.linen_activations(
                module, [f"{name}/block_{index}" for index in range(depth)]
            )
        )
    return prunable.Prunable(
        structure=structure,
        stacks=tuple(stacks),
        build=lambda new: prunable_t5(config, new, scan=scan),
        init=lambda key: _init(module, key),
        apply=module.apply,
        activations=activation_fns,
        attach=None if scan else _attach,
        refit={name: _refit(module, name) for name in STACKS},
    )


def _refit(module: T5, stack: str) -> prunable.Refit:
    config = module.config
    depth, adapters = config.num_encoder_layers, config.encoder_adapters
    if stack == DECODER:
        depth, adapters = config.num_decoder_layers, config.decoder_adapters
    alike = dataclasses.replace(
        config,
        num_encoder_layers=1,
        num_decoder_layers=1,
        encoder_adapters=(),
        decoder_adapters=(),
    )
    return transformer_refit.refit(
        module,
        tuple(Block(alike, index in adapters) for index in range(depth)),
        ("mlp", "output"),
        _counted,
        has_bias=False,
        within=(stack,),
    )


def _counted(entered: tuple[Any, ...]) -> Array:
    mask = entered[1][:, 0]
    if mask.shape[1] == 1:
        return mask[:, 0]
    # In a decoder, a token that counts attends to itself.
    return jnp.diagonal(mask, axis1=1, axis2=2)


def _init(module: T5, key: Array) -> dict[str, Any]:
    """Returns variables drawn by the widths of what each array multiplies."""
    config = module.config

    def rule(path: tuple[str, ...], shape: tuple[int, ...]) -> initialize.Normal:
        if path[-1] in ("scale", "bias"):
            return initialize.Normal(float(path[-1] == "scale"))
        if path[-2] == "embedding":
            return initialize.Normal(0.0, 1.0)
        if path[-2] == "relative_bias":
            return initialize.Normal(0.0, config.hidden_size**-0.5)
        deviation = shape[-2] ** -0.5
        if path[-2] == "query":  # makes up for scores that are not divided
            deviation *= config.head_size**-0.5
        return initialize.Normal(0.0, deviation)

    token = np.ones((1, 1), np.int32)
    example = Seq2Seq(token, token, token, token)
    return initialize.draw(jax.eval_shape(module.init, key, example), key, rule)


def _attach(
    variables: Any, stack: str, maps: Mapping[int, prunable.LinearMap]
) -> dict[str, Any]:
    """Adds linear maps at the end of blocks; onto one that is there, by composition."""
    params = variables["params"]
    changed = blocks.attach({"params": params[stack]}, stack, maps)["params"]
    return {**variables, "params": {**params, stack: changed}}


def stack(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables for scanned blocks from those of listed ones.

    Raises:
        ValueError: if some blocks end in a linear map.
    """
    return _in_stacks(blocks.stack, variables)


def unstack(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns variables for listed blocks from those of scanned ones."""
    return _in_stacks(blocks.unstack, variables)


def _in_stacks(
    change: Callable[[Any], dict[str, Any]], variables: Mapping[str, Any]
) -> dict[str, Any]:
    params = variables["params"]
    changed = {n: change({"params": params[n]})["params"] for n in STACKS}
    return {**variables, "params": {**params, **changed}}


def config_from_hf(
    config: huggingface.JsonObject, tensors: weights.Tensors | None = None
) -> T5Config:
    """Returns the configuration of a model of Hugging Face.

    Args:
        config: its `config.json`.
        tensors: its tensors. They tell whether the head is the embedding: since
            version 5, transformers always writes that it is. Without them, it is
            unless the configuration denies it.

    Raises:
        ValueError: if it asks for something that is not done here.
    """
    huggingface.require(
        config,
        {
            "model_type": ("t5",),
            "is_encoder_decoder": (True,),
            # The second name is that of old files.
            "architectures": (
                None,
                ["T5ForConditionalGeneration"],
                ["T5WithLMHeadModel"],
            ),
        },
    )
    end_id = huggingface.value(config, "eos_token_id", 1)
    if not isinstance(end_id, int):
        raise ValueError(f"eos_token_id is {end_id}: only one token can end a sequence")
    projection = huggingface.value(config, "feed_forward_proj", "relu")
    # In T5, gelu is the approximate one.
    activation = "gelu_new" if projection == "gated-gelu" else projection.split("-")[-1]
    tied = config.get("tie_word_embeddings") is not False
    scaled = huggingface.value(config, "scale_decoder_outputs", tied)
    if tensors is not None:
        head = tensors.get("lm_head.weight")
        tied = head is None or np.array_equal(head, tensors.get("shared.weight", ()))
    num_layers = huggingface.size(config, "num_layers")
    return T5Config(
        vocab_size=huggingface.size(config, "vocab_size"),
        hidden_size=huggingface.size(config, "d_model"),
        head_size=huggingface.size(config, "d_kv"),
        intermediate_size=huggingface.size(config, "d_ff"),
        num_encoder_layers=num_layers,
        num_decoder_layers=huggingface.size(config, "num_decoder_layers", num_layers),
        num_heads=huggingface.size(config, "num_heads"),
        num_buckets=huggingface.size(config, "relative_attention_num_buckets", 32),
        max_distance=huggingface.size(config, "relative_attention_max_distance", 128),
        norm_epsilon=huggingface.number(config, "layer_norm_epsilon", 1e-6),
        activation=activation,
        gated=projection.startswith("gated-"),
        tied_head=tied,
        scaled_head=scaled,
        pad_id=huggingface.size(config, "pad_token_id", 0, least=0),
        end_id=end_id,
        start_id=huggingface.size(config, "decoder_start_token_id", 0, least=0),
    )


def config_to_hf(config: T5Config, base: huggingface.JsonObject) -> dict[str, Any]:
    """Returns the `config.json` of a pruned model, from that of the base model.

    Raises:
        ValueError: if blocks end in linear maps, which transformers has no place for.
    """
    huggingface.refuse_adapters((*config.encoder_adapters, *config.decoder_adapters))
    changes = {
        "architectures": ["T5ForConditionalGeneration"],
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "tie_word_embeddings": config.tied_head,
        "scale_decoder_outputs": config.scaled_head,
    }
    return huggingface.float32({**base, **changes})


def weight_table(config: T5Config) -> weights.Table:
    """Returns how transformers names and stores the tensors.

    Linear maps that pruning put in (`encoder.block.3.adapter`) are an addition.
    """
    copies = [f"{name}.embed_tokens.weight" for name in STACKS]
    copies += ["lm_head.weight"] if config.tied_head else []
    embedding = ("params", "embedding", "embedding")
    table = [weights.Entry("shared.weight", embedding, (0, 1), tuple(copies))]
    if not config.tied_head:
        table.append(_kernel("lm_head", "head"))
    table += _stack_table(ENCODER, config.num_encoder_layers, config)
    table += _stack_table(DECODER, config.num_decoder_layers, config)
    # Older files have it, and no version of transformers uses it.
    table += weights.unused("decoder.*.EncDecAttention.relative_attention_bias.weight")
    return table


def _stack_table(stack: str, depth: int, config: T5Config) -> list[weights.Entry]:
    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    table = [
        weights.Entry(bias, ("params", stack, "relative_bias", "embedding"), (0, 1)),
        _scale(f"{stack}.final_layer_norm", stack, "norm"),
    ]
    is_decoder = stack == DECODER
    attentions = {"self_attention": "layer.0.SelfAttention"}
    if is_decoder:
        attentions["cross_attention"] = "layer.1.EncDecAttention"
    mlp = {"hidden": "wi_0", "gate": "wi_1"} if config.gated else {"hidden": "wi"}
    adapters = config.decoder_adapters if is_decoder else config.encoder_adapters
    for index in range(depth):
        ours, theirs = (stack, f"block_{index}"), f"{stack}.block.{index}"
        for number, (name, path) in enumerate(attentions.items()):
            for part in ("query", "key", "value", "output"):
                table.append(_kernel(f"{theirs}.{path}.{part[0]}", *ours, name, part))
            norm = f"{theirs}.layer.{number}.layer_norm"
            table.append(_scale(norm, *ours, f"{name}_norm"))
        layer = f"{theirs}.layer.{len(attentions)}"
        for part, name in {**mlp, "output": "wo"}.items():
            table.append(_kernel(f"{layer}.DenseReluDense.{name}", *ours, "mlp", part))
        table.append(_scale(f"{layer}.layer_norm", *ours, "mlp_norm"))
        if index in adapters:
            table += weights.dense(f"{theirs}.adapter", *ours, "adapter")
    return table


def _kernel(name: str, *path: str) -> weights.Entry:
    """Returns the entry of a linear layer without bias."""
    return weights.Entry(f"{name}.weight", ("params", *path, "kernel"), weights.DENSE)


def _scale(name: str, *path: str) -> weights.Entry:
    """Returns the entry of a norm that only scales."""
    return weights.Entry(f"{name}.weight", ("params", *path, "scale"), weights.VECTOR)
