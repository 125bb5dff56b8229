"""Residual networks as the pruner sees them, and their published weights.

The network is in `resnet_network`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import activations, layouts, plan, prunable
from jaxprune.models import blocks, initialize, resnet_refit, weights
from jaxprune.models.resnet_network import MOMENTUM, ResNet, ResNetConfig, make_block
from jaxprune.models.resnet_network import cifar_config as cifar_config
from jaxprune.models.resnet_network import imagenet_config as imagenet_config
from jaxprune.models.resnet_network import small_config as small_config

STACK = blocks.STACK


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
        attach=blocks.attach,
        refit={
            STACK: resnet_refit.refit(
                module, [make_block(smaller, index) for index in range(depth)]
            )
        },
    )


def _init(module: ResNet, key: jax.Array) -> dict[str, Any]:
    """Returns variables drawn as `module.init` would, but with a single draw."""

    def rule(path: tuple[str, ...], shape: tuple[int, ...]) -> initialize.Normal:
        if path[-1] == "kernel":
            return initialize.Normal(0.0, math.sqrt(2 / math.prod(shape[:-1])))
        return initialize.Normal(float(path[-1] in ("scale", "var")))

    images = jnp.zeros((1, *module.config.image_shape))
    return initialize.draw(jax.eval_shape(module.init, key, images), key, rule)


def weight_table(config: ResNetConfig) -> weights.Table:
    """Returns how published weights name and store the tensors.

    The names of nets with the ImageNet stem are torchvision's, with those of
    transformers as aliases; the others are those of the PyTorch models that the CIFAR
    weights come from. Linear maps that pruning put in (`layer1.3.adapter`) are an
    addition to them.
    """
    head, shortcut = "linear", "shortcut"
    if config.imagenet_stem:
        head, shortcut = "fc", "downsample"
    stem = ("stem",), ("stem_bn",)
    table = [
        *_convolution_entries("conv1", "bn1", "resnet.embedder.embedder", *stem),
        *_renamed(weights.dense(head, "head"), head, "classifier.1"),
    ]
    for index, stage in enumerate(config.stages):
        place = index - config.stages.index(stage)
        theirs, ours = f"layer{stage + 1}.{place}", f"block_{index}"
        alias = f"resnet.encoder.stages.{stage}.layers.{place}"
        for number in range(1, 4 if config.bottleneck else 3):
            table += _convolution_entries(
                f"{theirs}.conv{number}",
                f"{theirs}.bn{number}",
                f"{alias}.layer.{number - 1}",
                (ours, f"conv{number}"),
                (ours, f"bn{number}"),
            )
        if config.projection and index in config.protected:
            table += _convolution_entries(
                f"{theirs}.{shortcut}.0",
                f"{theirs}.{shortcut}.1",
                f"{alias}.shortcut",
                (ours, "shortcut"),
                (ours, "shortcut_bn"),
            )
        if index in config.adapters:
            table += weights.dense(f"{theirs}.adapter", ours, "adapter")
    if config.imagenet_stem:
        return table
    return [entry._replace(aliases=()) for entry in table]


def _convolution_entries(
    convolution: str, norm: str, alias: str, path: weights.Path, norm_path: weights.Path
) -> list[weights.Entry]:
    """Returns the entries of a convolution without bias and its BatchNorm."""
    kernel = ("params", *path, "kernel")
    entry = weights.Entry(f"{convolution}.weight", kernel, weights.CONVOLUTION)
    norms = weights.batch_norm(norm, *norm_path)
    return [
        *_renamed([entry], convolution, f"{alias}.convolution"),
        *_renamed(norms, norm, f"{alias}.normalization"),
    ]


def _renamed(table: weights.Table, name: str, alias: str) -> list[weights.Entry]:
    """Returns entries that may be called `alias` in a file instead of `name`."""
    return [
        entry._replace(aliases=(alias + entry.name.removeprefix(name),))
        for entry in table
    ]
