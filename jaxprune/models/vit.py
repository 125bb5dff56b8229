"""Vision transformer: an image as a sequence of patches, classified by one more token.

Dosovitskiy et al., 2020, https://arxiv.org/abs/2010.11929. A block normalises what goes
into attention and MLP and adds their results to its input, so a block whose results are
zero can be removed without changing a bit. Images are NHWC, one batch. There is no
dropout, in training either.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune import prunable
from jaxprune.models import blocks, encoder, huggingface, transformer_refit, weights
from jaxprune.models.blocks import pruned_config as pruned_config

Array = jax.Array
STACK = blocks.STACK


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Depth and width of a network; those of ViT-B/16 by default.

    Attributes:
        image_shape: height, width and channels of an input.
        patch_size: pixels on the side of a patch.
        hidden_size: width of what passes from block to block.
        num_layers: number of blocks.
        num_heads: attention heads of a block.
        intermediate_size: width inside the MLP of a block.
        norm_epsilon: added to the variance in LayerNorm.
        activation: a key of `encoder.ACTIVATIONS`.
        qkv_bias: whether queries, keys and values have a bias.
        num_classes: outputs of the head.
        adapters: blocks that end in a linear map.
    """

    image_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    qkv_bias: bool = True
    num_classes: int = 1000
    adapters: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the sizes agree."""
        encoder.check_sizes(
            self.num_layers, self.hidden_size, self.num_heads, self.activation
        )
        height, width, _ = self.image_shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} must divide height and width of "
                f"image_shape={self.image_shape}"
            )


def base_config(**changes: Any) -> ViTConfig:
    """Returns ViT-B/16: 12 blocks of width 768."""
    return ViTConfig(**changes)


def tiny_config(**changes: Any) -> ViTConfig:
    """Returns a network for 8x8 grey images: 6 blocks of width 32."""
    sizes: dict[str, Any] = {
        "image_shape": (8, 8, 1),
        "patch_size": 2,
        "hidden_size": 32,
        "num_layers": 6,
        "num_heads": 4,
        "intermediate_size": 64,
        "num_classes": 10,
    }
    return ViTConfig(**sizes | changes)


class Block(nn.Module):
    """Attention and MLP of the normalised input, each added to it."""

    config: ViTConfig
    adapter: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, S, D]` to the same."""
        config = self.config
        y = encoder.layer_norm(config.norm_epsilon, "attention_norm")(x)
        attention = encoder.SelfAttention(
            config.num_heads, use_bias=config.qkv_bias, name="attention"
        )
        x = x + attention(y)
        y = encoder.layer_norm(config.norm_epsilon, "mlp_norm")(x)
        x = x + encoder.Mlp(config.intermediate_size, config.activation, name="mlp")(y)
        encoder.sow(self, "total", x)
        return nn.Dense(config.hidden_size, name="adapter")(x) if self.adapter else x


class ViT(nn.Module):
    """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""

    config: ViTConfig
    scan: bool = False

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Returns logits.

        Raises:
            ValueError: when traced, if the images are not of `image_shape`.
        """
        config = self.config
        if images.shape[1:] != config.image_shape:
            raise ValueError(
                f"images are {images.shape[1:]}, not image_shape={config.image_shape}"
            )
        width, patch = config.hidden_size, (config.patch_size,) * 2
        x = nn.Conv(width, patch, strides=patch, padding="VALID", name="patches")(
            images
        )
        x = x.reshape(len(x), -1, width)
        # The class token stands first.
        token = self.param("class_token", nn.initializers.zeros, (1, 1, width))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, width)), x], axis=1)
        shape = (1, x.shape[1], width)
        x = x + self.param("position_embeddings", nn.initializers.normal(0.02), shape)
        encoder.sow(self, "entered", (x,))
        x = blocks.run(
            lambda **options: Block(config, **options),
            config.num_layers,
            x,
            scan=self.scan,
            adapters=config.adapters,
        )
        x = encoder.layer_norm(config.norm_epsilon, "norm")(x[:, 0])
        return nn.Dense(config.num_classes, name="classifier")(x)


def prunable_vit(
    config: ViTConfig,
    structure: prunable.Structure | None = None,
    *,
    scan: bool = False,
) -> prunable.Prunable:
    """Returns the network as the pruner sees it.

    Args:
        config: of the base model.
        structure: which blocks are left of it; all by default.
        scan: keep the parameters of all blocks stacked; see `jaxprune.models.blocks`.
    """
    image = jnp.zeros((1, *config.image_shape))
    return blocks.prunable_blocks(
        ViT, config, structure, image, scan=scan, refit=_refit
    )


def _refit(module: nn.Module, config: ViTConfig) -> prunable.Refit:
    def classify(params: Any, x: Array) -> Array:
        norm = encoder.layer_norm(config.norm_epsilon)
        return jnp.asarray(norm.apply({"params": params["norm"]}, x[:, 0]))

    return transformer_refit.refit(
        module,
        blocks.separate(Block, config),
        ("mlp", "output"),
        _counted,
        classify=classify,
    )


def _counted(entered: tuple[Array]) -> None:
    del entered  # there is no padding among patches


def head_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of variables that a file without classes lacks.

    With it, `weights.read(table, tensors, like, new=head_variables(model.init(key)))`
    begins with a fresh classifier where the file has none.
    """
    return {"params": {"classifier": variables["params"]["classifier"]}}


def config_from_hf(
    config: huggingface.JsonObject, *, num_classes: int | None = None
) -> ViTConfig:
    """Returns the configuration of a model of Hugging Face.

    Args:
        config: its `config.json`.
        num_classes: of the head; by default as many as there are labels.

    Raises:
        ValueError: if it asks for something that is not done here.
    """
    huggingface.require(
        config,
        {
            "model_type": ("vit",),
            "hidden_act": tuple(encoder.ACTIVATIONS),
        },
    )
    sides = config.get("image_size")
    if not isinstance(sides, list | tuple):
        sides = [huggingface.size(config, "image_size", 224)] * 2
    height, width = sides
    return ViTConfig(
        image_shape=(height, width, huggingface.size(config, "num_channels", 3)),
        patch_size=huggingface.size(config, "patch_size", 16),
        hidden_size=huggingface.size(config, "hidden_size"),
        num_layers=huggingface.size(config, "num_hidden_layers"),
        num_heads=huggingface.size(config, "num_attention_heads"),
        intermediate_size=huggingface.size(config, "intermediate_size"),
        norm_epsilon=huggingface.number(config, "layer_norm_eps", 1e-12),
        activation=huggingface.value(config, "hidden_act", "gelu"),
        qkv_bias=huggingface.value(config, "qkv_bias", True),
        num_classes=num_classes or huggingface.num_labels(config),
    )


def config_to_hf(config: ViTConfig, base: huggingface.JsonObject) -> dict[str, Any]:
    """Returns the `config.json` of a pruned model, from that of the base model.

    Raises:
        ValueError: if blocks end in linear maps, which transformers has no place for.
    """
    huggingface.refuse_adapters(config.adapters)
    changes = huggingface.labels(base, config.num_classes)
    changes["architectures"] = ["ViTForImageClassification"]
    return huggingface.pruned(base, config.num_layers, **changes)


def weight_table(config: ViTConfig) -> weights.Table:
    """Returns how transformers names and stores the tensors.

    Linear maps that pruning put in (`encoder.layer.3.adapter`) are an addition.
    """
    patches = "embeddings.patch_embeddings.projection"
    table = [
        _whole("embeddings.cls_token", "class_token"),
        _whole("embeddings.position_embeddings", "position_embeddings"),
        *weights.convolution(patches, "patches"),
        *weights.layer_norm("layernorm", "norm"),
    ]
    for index in range(config.num_layers):
        theirs, ours = f"encoder.layer.{index}", f"block_{index}"
        attention = f"{theirs}.attention"
        for name in ("query", "key", "value"):
            entries = weights.dense(
                f"{attention}.attention.{name}", ours, "attention", name
            )
            table += entries if config.qkv_bias else entries[:1]
        table += [
            *weights.layer_norm(f"{theirs}.layernorm_before", ours, "attention_norm"),
            *weights.dense(f"{attention}.output.dense", ours, "attention", "output"),
            *weights.layer_norm(f"{theirs}.layernorm_after", ours, "mlp_norm"),
            *weights.dense(f"{theirs}.intermediate.dense", ours, "mlp", "hidden"),
            *weights.dense(f"{theirs}.output.dense", ours, "mlp", "output"),
        ]
        if index in config.adapters:
            table += weights.dense(f"{theirs}.adapter", ours, "adapter")
    return [
        *weights.prefixed("vit.", table),
        *weights.dense("classifier", "classifier"),
        *weights.unused("vit.pooler.*", "pooler.*"),
    ]


def _whole(theirs: str, ours: str) -> weights.Entry:
    return weights.Entry(theirs, ("params", ours), (0, 1, 2))
