"""Residual networks for small images, as He et al. trained them on CIFAR-10.

A stem convolution, stages of basic blocks, global average pooling and a linear head
(https://arxiv.org/abs/1512.03385, section 4.2). Shortcuts are parameter-free where a
stage begins (option A: subsample, pad channels with zeros). Images are NHWC, one batch.

Blocks are numbered through all stages, `block_0, block_1, ...`, so that removing some
renumbers the rest; the configuration says how many each stage has. A block may end in a
linear map of its channels (`adapter`), which takes the place of removed followers.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune import activations, layouts, plan, prunable
from jaxprune.models import weights

STACK = "blocks"
MOMENTUM = 0.9  # of the running averages of BatchNorm


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Depth and width of a network.

    Attributes:
        stage_sizes: blocks of each stage; the first block of every stage but the first
            halves the resolution.
        widths: channels of each stage.
        num_classes: outputs of the head.
        image_shape: height, width and channels of an input.
        adapters: blocks that end in a linear map of their channels.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (16, 32, 64)
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)
    adapters: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks that every stage has blocks and a width."""
        if len(self.stage_sizes) != len(self.widths) or min(self.stage_sizes) < 1:
            raise ValueError(
                f"each of the stages {self.widths} needs at least one block: "
                f"stage_sizes={self.stage_sizes}"
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """Stage of each block."""
        return tuple(s for s, n in enumerate(self.stage_sizes) for _ in range(n))

    @property
    def protected(self) -> dict[int, str]:
        """Blocks that change the shape of their input, and how."""
        firsts = [i for i, s in enumerate(self.stages) if s and s != self.stages[i - 1]]
        return {
            block: f"halves the resolution and widens {self.widths[stage - 1]} "
            f"channels to {self.widths[stage]}"
            for stage, block in enumerate(firsts, start=1)
        }


def cifar_config(depth: int) -> ResNetConfig:
    """Returns the configuration of CIFAR ResNet-`depth`, depth = 6n + 2.

    >>> cifar_config(56).stage_sizes
    (9, 9, 9)
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth={depth} must be 6n + 2: 20, 32, 44, 56, 110, ...")
    return ResNetConfig((depth // 6,) * 3)


def small_config() -> ResNetConfig:
    """Returns a small network for 8x8 grey images, deeper than they need."""
    return ResNetConfig((7, 5), (16, 32), image_shape=(8, 8, 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; optionally a linear map at the end."""

    features: int
    stride: int = 1
    adapter: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H/stride, W/stride, features]`."""
        y = _convolution(self.features, "conv1", self.stride)(x)
        y = nn.relu(_normalize("bn1", train)(y))
        y = _convolution(self.features, "conv2")(y)
        y = _normalize("bn2", train)(y)
        widened = self.features - x.shape[-1]
        if self.stride > 1 or widened:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0),) * 3 + ((widened // 2, widened - widened // 2),))
        y = nn.relu(x + y)
        return nn.Dense(self.features, name="adapter")(y) if self.adapter else y


class ResNet(nn.Module):
    """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns logits; with `train`, BatchNorm uses the batch's statistics."""
        config = self.config
        x = _convolution(config.widths[0], "stem")(images)
        x = nn.relu(_normalize("stem_bn", train)(x))
        for index, stage in enumerate(config.stages):
            x = BasicBlock(
                config.widths[stage],
                stride=2 if index in config.protected else 1,
                adapter=index in config.adapters,
                name=f"block_{index}",
            )(x, train)
        return nn.Dense(config.num_classes, name="head")(x.mean(axis=(1, 2)))


def _convolution(features: int, name: str, stride: int = 1) -> nn.Conv:
    # Explicit padding: "SAME" pads a strided convolution on one side only.
    return nn.Conv(
        features,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        name=name,
    )


def _normalize(name: str, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=MOMENTUM,
        epsilon=1e-5,
        use_fast_variance=False,
        name=name,
    )


def pruned_config(config: ResNetConfig, structure: prunable.Structure) -> ResNetConfig:
    """Returns the configuration of what `structure` leaves of a base model."""
    sizes = [0] * len(config.widths)
    for block in structure.kept[STACK]:
        sizes[config.stages[block]] += 1
    return dataclasses.replace(
        config,
        stage_sizes=tuple(sizes),
        adapters=structure.adapter_positions(STACK),
    )


def prunable_resnet(
    config: ResNetConfig, structure: prunable.Structure | None = None
) -> prunable.Prunable:
    """Returns the network as the pruner sees it.

    Args:
        config: of the base model.
        structure: which blocks are left of it; all by default.
    """
    if structure is None:
        structure = prunable.Structure({STACK: tuple(range(len(config.stages)))})
    smaller = pruned_config(config, structure)
    module = ResNet(smaller)
    depth = len(smaller.stages)
    names = tuple(f"block_{index}" for index in range(depth))
    layout = layouts.Named("block_{}")

    def train_apply(variables: Any, images: Any) -> prunable.TrainingPass:
        logits, new = module.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda child, _: child.name in names,
        )
        seen = new["intermediates"]
        outputs = [seen[name]["__call__"][0] for name in names]
        variables = {**variables, "batch_stats": new["batch_stats"]}
        return prunable.TrainingPass(logits, {STACK: outputs}, variables)

    def batch_statistics(variables: Any, images: Any) -> Any:
        # The running average after one batch is `m old + (1 - m) new`; from an old one
        # of zero the batch's own statistics are read off without a second model.
        zero = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        after = train_apply({**variables, "batch_stats": zero}, images).variables
        return jax.tree.map(lambda x: x / (1 - MOMENTUM), after["batch_stats"])

    return prunable.Prunable(
        structure=structure,
        stacks=(
            plan.Stack(
                STACK,
                depth,
                {"params": layout, "batch_stats": layout},
                stages=smaller.stages,
                protected=smaller.protected,
            ),
        ),
        build=lambda new: prunable_resnet(config, new),
        init=functools.partial(_init, module),
        apply=module.apply,
        activations={STACK: activations.linen_activations(module, names)},
        train_apply=train_apply,
        batch_statistics=batch_statistics,
        attach=_attach,
    )


def _init(module: ResNet, key: jax.Array) -> dict[str, Any]:
    """Returns variables drawn as `module.init` would, but with a single draw.

    XLA takes about a second to compile each draw, and a network has one per layer.
    """
    images = jnp.zeros((1, *module.config.image_shape))
    shapes = jax.eval_shape(module.init, key, images)
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    names = [path[-1].key for path, _ in leaves]
    sizes = [math.prod(leaf.shape) for _, leaf in leaves]
    draws = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),))
    values, start = [], 0
    for name, size, (_, leaf) in zip(names, sizes, leaves, strict=True):
        if name == "kernel":
            # He et al., 2015; truncation at two lowers the deviation to 0.87963.
            deviation = math.sqrt(2 * leaf.shape[-1] / size) / 0.87962566
            value = deviation * draws[start : start + size].reshape(leaf.shape)
        else:
            one = name in ("scale", "var")
            value = jnp.full(leaf.shape, float(one), leaf.dtype)
        start += size
        values.append(value)
    return jax.tree.unflatten(structure, values)


def _attach(
    variables: Any, stack: str, maps: Mapping[int, prunable.LinearMap]
) -> dict[str, Any]:
    """Adds linear maps at the end of blocks; onto one that is there, by composition."""
    del stack
    params = dict(variables["params"])
    for block, (kernel, bias) in maps.items():
        name = f"block_{block}"
        if old := params[name].get("adapter"):
            highest = jax.lax.Precision.HIGHEST
            bias = bias + jnp.dot(old["bias"], kernel, precision=highest)
            kernel = jnp.dot(old["kernel"], kernel, precision=highest)
        params[name] = {**params[name], "adapter": {"kernel": kernel, "bias": bias}}
    return {**variables, "params": params}


def weight_table(config: ResNetConfig) -> weights.Table:
    """Returns how the published CIFAR weights name and store the tensors.

    The names are those of the PyTorch models the published weights come from; linear
    maps that pruning put in (`layer1.3.adapter`) are an addition to them.
    """
    table = [
        weights.Entry(
            "conv1.weight", ("params", "stem", "kernel"), weights.CONVOLUTION
        ),
        *weights.batch_norm("bn1", "stem_bn"),
        *weights.dense("linear", "head"),
    ]
    for index, stage in enumerate(config.stages):
        theirs = f"layer{stage + 1}.{index - config.stages.index(stage)}"
        ours = f"block_{index}"
        for number in (1, 2):
            path = ("params", ours, f"conv{number}", "kernel")
            table += [
                weights.Entry(
                    f"{theirs}.conv{number}.weight", path, weights.CONVOLUTION
                ),
                *weights.batch_norm(f"{theirs}.bn{number}", ours, f"bn{number}"),
            ]
        if index in config.adapters:
            table += weights.dense(f"{theirs}.adapter", ours, "adapter")
    return table
