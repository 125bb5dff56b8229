"""A run of equal blocks: under names `block_0, block_1, ...`, or scanned.

Listed blocks are compiled one by one, and each may end in a linear map. Scanned blocks
are one program that runs over parameters stacked on a leading axis: the compiler sees a
single block however deep the network is. `stack` and `unstack` carry parameters from
one form to the other, and pruning commutes with them.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune import activations, layouts, prunable
from jaxprune import plan as plan_lib
from jaxprune.models import initialize

Array = jax.Array
Variables = Mapping[str, Any]

STACK = "blocks"
LISTED = layouts.Named("block_{}")
SCANNED = layouts.Stacked(("blocks",))


def run(
    make_block: Callable[..., nn.Module],
    depth: int,
    x: Array,
    *args: Any,
    scan: bool = False,
    adapters: Collection[int] = (),
) -> Array:
    """Applies `depth` blocks, inside a compact module.

    Args:
        make_block: makes a block from its `name`, and `adapter=True` where it ends in
            a linear map; its call takes `x` and `args` and returns the new `x`.
        depth: number of blocks.
        x: what goes into the first one.
        *args: the same for all of them.
        scan: run one block over stacked parameters.
        adapters: blocks that end in a linear map.

    Raises:
        ValueError: if scanned blocks are to have linear maps: they all are alike.
    """
    if not scan:
        for index in range(depth):
            options = {"adapter": True} if index in adapters else {}
            x = make_block(name=f"block_{index}", **options)(x, *args)
        return x
    if adapters:
        raise ValueError(
            f"scanned blocks cannot hold linear maps at {sorted(adapters)}"
        )

    def step(block: Any, x: Array, _: None) -> tuple[Array, None]:
        return block(x, *args), None

    scanned = nn.scan(
        step,
        variable_axes={"params": 0, "intermediates": 0, "cache": 0},
        split_rngs={"params": True},
        length=depth,
    )
    return scanned(make_block(name="blocks"), x, None)[0]


def stack(variables: Variables) -> dict[str, Any]:
    """Returns variables for scanned blocks from those of listed ones.

    >>> block = {"bias": jnp.zeros(3)}
    >>> listed = {"params": {"block_0": block, "block_1": block}}
    >>> stack(listed)["params"]["blocks"]["bias"].shape
    (2, 3)

    Raises:
        ValueError: if some blocks end in a linear map.
    """
    params = variables["params"]
    blocks = LISTED.blocks(params)
    if adapted := [i for i, block in enumerate(blocks) if "adapter" in block]:
        raise ValueError(f"scanned blocks cannot hold the linear maps at {adapted}")
    others = LISTED.put(params, [])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    return {**variables, "params": {**others, "blocks": stacked}}


def unstack(variables: Variables) -> dict[str, Any]:
    """Returns variables for listed blocks from those of scanned ones."""
    params = dict(variables["params"])
    blocks = SCANNED.blocks(params)
    del params["blocks"]
    return {**variables, "params": LISTED.put(params, blocks)}


def attach(
    variables: Variables, stack: str, maps: Mapping[int, prunable.LinearMap]
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


class Config(Protocol):
    """What the frozen dataclass that describes a network says about its blocks."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_layers(self) -> int:
        """Number of blocks."""

    @property
    def adapters(self) -> tuple[int, ...]:
        """Blocks that end in a linear map."""


ConfigT = TypeVar("ConfigT", bound=Config)


def pruned_config(config: ConfigT, structure: prunable.Structure) -> ConfigT:
    """Returns the configuration of what `structure` leaves of a base model."""
    return dataclasses.replace(
        config,
        num_layers=len(structure.kept[STACK]),
        adapters=structure.adapter_positions(STACK),
    )


def separate(
    make_block: Callable[[ConfigT, bool], nn.Module], config: ConfigT
) -> tuple[nn.Module, ...]:
    """Returns the blocks of a network without names, equal where they are alike.

    Args:
        make_block: from a configuration, and whether it ends in a linear map, a block.
        config: of the network.
    """
    alike = dataclasses.replace(config, num_layers=1, adapters=())
    return tuple(
        make_block(alike, index in config.adapters)
        for index in range(config.num_layers)
    )


def prunable_blocks(
    make_network: Callable[[ConfigT, bool], nn.Module],
    config: ConfigT,
    structure: prunable.Structure | None,
    example: Any,
    *,
    scan: bool,
    refit: Callable[[nn.Module, ConfigT], prunable.Refit],
) -> prunable.Prunable:
    """Returns a network with one run of blocks as the pruner sees it.

    Args:
        make_network: from a configuration, and whether its blocks are scanned, the
            network; it has only parameters.
        config: of the base model.
        structure: which blocks are left of it; None for all.
        example: a batch, for shapes.
        scan: whether the blocks are scanned. They cannot hold linear maps then.
        refit: from the network and its configuration, how blocks are fitted anew.
    """
    if structure is None:
        structure = prunable.Structure({STACK: tuple(range(config.num_layers))})
    smaller = pruned_config(config, structure)
    module, depth = make_network(smaller, scan), smaller.num_layers
    if scan:
        activations_fn = activations.linen_scan_activations(module, "blocks")
    else:
        names = [f"block_{index}" for index in range(depth)]
        activations_fn = activations.linen_activations(module, names)
    return prunable.Prunable(
        structure=structure,
        stacks=(plan_lib.Stack(STACK, depth, {"params": SCANNED if scan else LISTED}),),
        build=lambda new: prunable_blocks(
            make_network, config, new, example, scan=scan, refit=refit
        ),
        init=functools.partial(_init, module, example),
        apply=module.apply,
        activations={STACK: activations_fn},
        attach=None if scan else attach,
        refit={STACK: refit(module, smaller)},
    )


def _init(module: nn.Module, example: Any, key: Array) -> dict[str, Any]:
    """Returns variables drawn as transformers are; norms and biases change nothing."""
    constants = {"scale": 1.0, "bias": 0.0, "offset": 0.0}

    def rule(path: tuple[str, ...], shape: tuple[int, ...]) -> initialize.Normal:
        del shape
        if path[-1] in constants:
            return initialize.Normal(constants[path[-1]])
        return initialize.Normal(0.0, 0.02)

    return initialize.draw(jax.eval_shape(module.init, key, example), key, rule)
