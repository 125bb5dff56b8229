"""How the blocks of a residual network are fitted anew: see `jaxprune.refit`.

The last convolution of a block, with the BatchNorm behind it, is an affine map of the
patches that it sees. The modules sow `features` (what goes into that convolution),
`total` (its sum with the shortcut) and `entered` (what goes into the first block).
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune import least_squares
from jaxprune.least_squares import LinearMap
from jaxprune.models.resnet_network import EPSILON, MOMENTUM
from jaxprune.prunable import LinearOperation, Observed, Refit, RefitBlock, Spread
from jaxprune.samples import at_positions, spread_positions

Array = jax.Array


def refit(module: nn.Module, blocks: Sequence[nn.Module]) -> Refit:
    """Returns how a residual network is fitted anew.

    Args:
        module: the network; called with images and `train`.
        blocks: its blocks, without names, so that those that are alike are equal.
    """

    def enter(variables: Any, images: Array) -> Array:
        _, seen = module.apply(variables, images, mutable=["intermediates"])
        return seen["intermediates"]["entered"][0]

    head = LinearOperation(_observe_head, _read_head, _write_head)
    return Refit(enter, tuple(_block(block) for block in blocks), head)


@functools.cache
def _block(block: nn.Module) -> RefitBlock:
    last = 3 if block.bottleneck else 2
    convolution, norm = f"conv{last}", f"bn{last}"

    def observe(variables: Any, x: Array, positions: int) -> Observed:
        _, seen = block.apply(variables, x, False, mutable=["intermediates"])
        features = seen["intermediates"]["features"][0]
        size = variables["params"][convolution]["kernel"].shape[0]
        patches = _patches(features, size, positions)
        return Observed(
            patches, at_positions(seen["intermediates"]["total"][0], positions)
        )

    def read(variables: Any) -> LinearMap:
        params, stats = variables["params"], variables["batch_stats"][norm]
        kernel = params[convolution]["kernel"]
        scale = params[norm]["scale"] / jnp.sqrt(stats["var"] + EPSILON)
        bias = params[norm]["bias"] - stats["mean"] * scale
        return LinearMap(kernel.reshape(-1, kernel.shape[-1]) * scale[None, :], bias)

    def write(variables: Any, linear_map: LinearMap, spread: Spread) -> Any:
        params, stats = variables["params"], variables["batch_stats"]
        shape = params[convolution]["kernel"].shape
        affine = {
            "scale": jnp.sqrt(spread.variance + EPSILON),
            "bias": linear_map.bias + spread.mean,
        }
        return {
            **variables,
            "params": {
                **params,
                convolution: {"kernel": linear_map.kernel.reshape(shape)},
                norm: affine,
            },
            "batch_stats": {
                **stats,
                norm: {"mean": spread.mean, "var": spread.variance},
            },
        }

    def statistics(variables: Any, x: Array) -> Any:
        # As in `prunable_resnet`: what one batch leaves of zeros.
        zero = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        _, new = block.apply(
            {**variables, "batch_stats": zero}, x, True, mutable=["batch_stats"]
        )
        return jax.tree.map(lambda x: x / (1 - MOMENTUM), new["batch_stats"])

    return RefitBlock(
        LinearOperation(observe, read, write, rectified=True),
        forward=lambda variables, x: block.apply(variables, x, False),
        output=_output,
        statistics=statistics,
    )


def _output(x: Array) -> Array:
    return x


def _patches(x: Array, size: int, positions: int) -> Array:
    """Returns `[n * positions, size * size * C]` around sampled pixels."""
    _, height, width, channels = x.shape
    margin = size // 2
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    pixels = spread_positions(height * width, positions)
    rows, columns = pixels // width, pixels % width
    shifted = [
        x[:, rows + down, columns + right]
        for down in range(size)
        for right in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1).reshape(-1, size * size * channels)


def _observe_head(variables: Any, x: Array, positions: int) -> Observed:
    del positions
    features = x.mean(axis=(1, 2))
    return Observed(features, least_squares.apply(_read_head(variables), features))


def _read_head(variables: Any) -> LinearMap:
    head = variables["params"]["head"]
    return LinearMap(head["kernel"], head["bias"])


def _write_head(variables: Any, linear_map: LinearMap, spread: Spread) -> Any:
    del spread
    params = {**variables["params"], "head": linear_map._asdict()}
    return {**variables, "params": params}
