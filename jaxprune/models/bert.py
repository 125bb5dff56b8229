"""BERT: a transformer encoder of text, with a head for its task.

Devlin et al., 2018, https://arxiv.org/abs/1810.04805. A block normalises after each
residual sum, so that no block is the identity for any parameters: removing one always
changes what follows, unlike in networks that normalise first. There is no dropout, in
training either.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune import least_squares, prunable
from jaxprune.least_squares import LinearMap
from jaxprune.models import blocks, encoder, huggingface, transformer_refit, weights
from jaxprune.models.blocks import pruned_config as pruned_config
from jaxprune.models.text import Text, token_mask

Array = jax.Array
STACK = blocks.STACK


class Head(enum.Enum):
    """What the network returns.

    Attributes:
        CLASSIFICATION: logits `[B, num_labels]`, from the first token.
        EMBEDDING: `[B, hidden_size]`, the mean over the tokens.
        MASKED_LM: logits `[B, S, vocab_size]`, of the word at each position.
    """

    CLASSIFICATION = "BertForSequenceClassification"
    EMBEDDING = "BertModel"
    MASKED_LM = "BertForMaskedLM"


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Depth and width of a network; those of BERT-base by default.

    Attributes:
        vocab_size: number of words.
        hidden_size: width of what passes from block to block.
        num_layers: number of blocks.
        num_heads: attention heads of a block.
        intermediate_size: width inside the MLP of a block.
        max_positions: longest sequence.
        num_token_types: kinds of segments.
        norm_epsilon: added to the variance in LayerNorm.
        activation: a key of `encoder.ACTIVATIONS`.
        head: what the network returns.
        num_labels: classes of the classification head.
        adapters: blocks that end in a linear map.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_token_types: int = 2
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    head: Head = Head.CLASSIFICATION
    num_labels: int = 2
    adapters: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the sizes agree."""
        encoder.check_sizes(
            self.num_layers, self.hidden_size, self.num_heads, self.activation
        )


def base_config(**changes: Any) -> BertConfig:
    """Returns BERT-base: 12 blocks of width 768."""
    return BertConfig(**changes)


def minilm_config(**changes: Any) -> BertConfig:
    """Returns MiniLM-L6: 6 blocks of width 384."""
    sizes: dict[str, Any] = {
        "hidden_size": 384,
        "num_layers": 6,
        "intermediate_size": 1536,
        "head": Head.EMBEDDING,
    }
    return BertConfig(**sizes | changes)


def tiny_config(**changes: Any) -> BertConfig:
    """Returns a network for demonstrations and tests: 6 blocks of width 32."""
    sizes: dict[str, Any] = {
        "vocab_size": 1000,
        "hidden_size": 32,
        "num_layers": 6,
        "num_heads": 4,
        "intermediate_size": 64,
        "max_positions": 64,
    }
    return BertConfig(**sizes | changes)


class Block(nn.Module):
    """Attention and MLP, each added to its input and then normalised."""

    config: BertConfig
    adapter: bool = False

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """Maps `[B, S, D]` to the same; `mask` is `[B, S]` boolean."""
        config = self.config
        y = encoder.SelfAttention(config.num_heads, name="attention")(x, mask)
        x = encoder.layer_norm(config.norm_epsilon, "attention_norm")(x + y)
        x = x + encoder.Mlp(config.intermediate_size, config.activation, name="mlp")(x)
        encoder.sow(self, "total", x)
        x = encoder.layer_norm(config.norm_epsilon, "mlp_norm")(x)
        return nn.Dense(config.hidden_size, name="adapter")(x) if self.adapter else x


class Bert(nn.Module):
    """Maps `Text` to what its head returns."""

    config: BertConfig
    scan: bool = False

    @nn.compact
    def __call__(self, text: Text) -> Array:
        """Returns logits or embeddings, see `Head`.

        Raises:
            ValueError: when traced, if the text is longer than `max_positions`.
        """
        config = self.config
        width, mask = config.hidden_size, token_mask(text)
        length = text.token_ids.shape[1]
        if length > config.max_positions:
            raise ValueError(f"{length} tokens are more than {config.max_positions=}")
        types = text.token_type_ids
        if types is None:
            types = jnp.zeros_like(text.token_ids)
        words = nn.Embed(config.vocab_size, width, name="word_embeddings")
        positions = nn.Embed(config.max_positions, width, name="position_embeddings")
        segments = nn.Embed(config.num_token_types, width, name="type_embeddings")
        x = (
            words(text.token_ids)
            + segments(types)
            + positions(jnp.arange(length))[None]
        )
        x = encoder.layer_norm(config.norm_epsilon, "embeddings_norm")(x)
        encoder.sow(self, "entered", (x, mask))
        x = blocks.run(
            lambda **options: Block(config, **options),
            config.num_layers,
            x,
            mask,
            scan=self.scan,
            adapters=config.adapters,
        )
        if config.head is Head.CLASSIFICATION:
            pooled = jnp.tanh(nn.Dense(width, name="pooler")(x[:, 0]))
            return nn.Dense(config.num_labels, name="classifier")(pooled)
        if config.head is Head.EMBEDDING:
            count = jnp.sum(mask, axis=1, keepdims=True, dtype=x.dtype)
            total = jnp.sum(jnp.where(mask[..., None], x, 0), axis=1)
            return total / jnp.maximum(count, 1)
        x = encoder.ACTIVATIONS[config.activation](nn.Dense(width, name="transform")(x))
        x = encoder.layer_norm(config.norm_epsilon, "transform_norm")(x)
        bias = self.param("vocab_bias", nn.initializers.zeros, (config.vocab_size,))
        return words.attend(x) + bias[None, None]


def prunable_bert(
    config: BertConfig,
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
        Bert, config, structure, Text(token, token), scan=scan, refit=_refit
    )


def _refit(module: nn.Module, config: BertConfig) -> prunable.Refit:
    return transformer_refit.refit(
        module,
        blocks.separate(Block, config),
        ("mlp", "output"),
        _counted,
        norm="mlp_norm",
        classify=_pooled if config.head is Head.CLASSIFICATION else None,
    )


def _counted(entered: tuple[Array, Array]) -> Array:
    return entered[1]


def _pooled(params: Any, x: Array) -> Array:
    return jnp.tanh(least_squares.apply(LinearMap(**params["pooler"]), x[:, 0]))


def head_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of variables that a file of another task lacks.

    With it, `weights.read(table, tensors, like, new=head_variables(model.init(key)))`
    begins with a fresh classifier where the file has none.
    """
    names = ("pooler", "classifier", "transform", "transform_norm", "vocab_bias")
    params = variables["params"]
    return {"params": {name: params[name] for name in names if name in params}}


def config_from_hf(
    config: huggingface.JsonObject,
    *,
    head: Head | None = None,
    num_labels: int | None = None,
) -> BertConfig:
    """Returns the configuration of a model of Hugging Face.

    Args:
        config: its `config.json`.
        head: what to put onto the encoder; by default what `architectures` names.
        num_labels: classes of that head; by default as many as there are labels.

    Raises:
        ValueError: if it asks for something that is not done here.
    """
    huggingface.require(
        config,
        {
            "model_type": ("bert",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "position_embedding_type": ("absolute",),
            "hidden_act": tuple(encoder.ACTIVATIONS),
        },
    )
    if head is None:
        named = (config.get("architectures") or [Head.EMBEDDING.value])[0]
        try:
            head = Head("BertForMaskedLM" if named == "BertForPreTraining" else named)
        except ValueError:
            remedy = f"choose one of {', '.join(map(str, Head))}"
            raise ValueError(f"no head for architecture {named!r}: {remedy}") from None
    if head is Head.MASKED_LM:
        huggingface.require(config, {"tie_word_embeddings": (True,)})
    return BertConfig(
        vocab_size=huggingface.size(config, "vocab_size"),
        hidden_size=huggingface.size(config, "hidden_size"),
        num_layers=huggingface.size(config, "num_hidden_layers"),
        num_heads=huggingface.size(config, "num_attention_heads"),
        intermediate_size=huggingface.size(config, "intermediate_size"),
        max_positions=huggingface.size(config, "max_position_embeddings", 512),
        num_token_types=huggingface.size(config, "type_vocab_size", 2),
        norm_epsilon=huggingface.number(config, "layer_norm_eps", 1e-12),
        activation=huggingface.value(config, "hidden_act", "gelu"),
        head=head,
        num_labels=num_labels or huggingface.num_labels(config),
    )


def config_to_hf(config: BertConfig, base: huggingface.JsonObject) -> dict[str, Any]:
    """Returns the `config.json` of a pruned model, from that of the base model.

    Raises:
        ValueError: if blocks end in linear maps, which transformers has no place for.
    """
    huggingface.refuse_adapters(config.adapters)
    changes: dict[str, Any] = {"architectures": [config.head.value]}
    if config.head is Head.CLASSIFICATION:
        changes |= huggingface.labels(base, config.num_labels)
    return huggingface.pruned(base, config.num_layers, **changes)


def weight_table(config: BertConfig) -> weights.Table:
    """Returns how transformers names and stores the tensors.

    Linear maps that pruning put in (`encoder.layer.3.adapter`) are an addition.
    """
    table = [
        _embedding("word_embeddings"),
        _embedding("position_embeddings"),
        _embedding("token_type_embeddings", "type_embeddings"),
        *weights.layer_norm("embeddings.LayerNorm", "embeddings_norm"),
    ]
    for index in range(config.num_layers):
        theirs, ours = f"encoder.layer.{index}", f"block_{index}"
        for name in ("query", "key", "value"):
            table += weights.dense(
                f"{theirs}.attention.self.{name}", ours, "attention", name
            )
        output = f"{theirs}.attention.output"
        table += [
            *weights.dense(f"{output}.dense", ours, "attention", "output"),
            *weights.layer_norm(f"{output}.LayerNorm", ours, "attention_norm"),
            *weights.dense(f"{theirs}.intermediate.dense", ours, "mlp", "hidden"),
            *weights.dense(f"{theirs}.output.dense", ours, "mlp", "output"),
            *weights.layer_norm(f"{theirs}.output.LayerNorm", ours, "mlp_norm"),
        ]
        if index in config.adapters:
            table += weights.dense(f"{theirs}.adapter", ours, "adapter")
    has_pooler = config.head is Head.CLASSIFICATION
    table += weights.dense("pooler.dense", "pooler") if has_pooler else []
    table = weights.prefixed("bert.", table, write=config.head is not Head.EMBEDDING)
    table += weights.unused("*position_ids", *([] if has_pooler else ["*pooler.*"]))
    if config.head is Head.CLASSIFICATION:
        table += [*weights.dense("classifier", "classifier"), *weights.unused("cls.*")]
    if config.head is Head.EMBEDDING:
        table += weights.unused("cls.*", "classifier.*")
    if config.head is Head.MASKED_LM:
        tied, bias = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
        table[0] = table[0]._replace(aliases=(*table[0].aliases, tied))
        table += [
            weights.Entry(
                "cls.predictions.bias",
                ("params", "vocab_bias"),
                weights.VECTOR,
                (bias,),
            ),
            *weights.dense("cls.predictions.transform.dense", "transform"),
            *weights.layer_norm(
                "cls.predictions.transform.LayerNorm", "transform_norm"
            ),
            *weights.unused("cls.seq_relationship.*", "classifier.*"),
        ]
    return table


def _embedding(theirs: str, ours: str | None = None) -> weights.Entry:
    path = ("params", ours or theirs, "embedding")
    return weights.Entry(f"embeddings.{theirs}.weight", path, (0, 1))
