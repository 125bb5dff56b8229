"""A run of equal blocks: under names `block_0, block_1, ...`, or scanned.

Listed blocks are compiled one by one, and each may end in a linear map. Scanned blocks
are one program that runs over parameters stacked on a leading axis: the compiler sees a
single block however deep the network is. `stack` and `unstack` carry parameters from
one form to the other, and pruning commutes with them.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

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


def full_structure(depth: int) -> prunable.Structure:
    """Returns the structure of the unpruned model."""
    return prunable.Structure({STACK: tuple(range(depth))})


def prunable_blocks(
    module: nn.Module,
    structure: prunable.Structure,
    build: Callable[[prunable.Structure], prunable.Prunable],
    example: Any,
    *,
    scan: bool,
    refit: prunable.Refit,
) -> prunable.Prunable:
    """Returns a module with one run of blocks as the pruner sees it.

    Args:
        module: of the depth that `structure` tells; it has only parameters.
        structure: which blocks of the base model are left.
        build: from a structure, the model that has it.
        example: a batch, for shapes.
        scan: whether the blocks are scanned. They cannot hold linear maps then.
        refit: how blocks are fitted anew.
    """
    depth = len(structure.kept[STACK])
    if scan:
        activations_fn = activations.linen_scan_activations(module, "blocks")
    else:
        names = [f"block_{index}" for index in range(depth)]
        activations_fn = activations.linen_activations(module, names)
    return prunable.Prunable(
        structure=structure,
        stacks=(plan_lib.Stack(STACK, depth, {"params": SCANNED if scan else LISTED}),),
        build=build,
        init=functools.partial(_init, module, example),
        apply=module.apply,
        activations={STACK: activations_fn},
        attach=None if scan else attach,
        refit={STACK: refit},
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
