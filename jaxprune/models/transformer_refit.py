"""How the blocks of a transformer are fitted anew: see `jaxprune.refit`.

The last matrix of a block's MLP is a linear map of what its nonlinearity gives, and its
result is added to what entered the MLP. The modules sow `features` (what goes into
that matrix), `total` (the sum) and `entered` (all that goes into the first block).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune import least_squares
from jaxprune.least_squares import LinearMap
from jaxprune.models.encoder import REFIT
from jaxprune.prunable import LinearOperation, Observed, Refit, RefitBlock, Spread
from jaxprune.samples import at_positions

Array = jax.Array
Path = tuple[str, ...]

# What enters a block, as a tuple -> `[B, S]` boolean, which tokens count; or None.
CountedFn = Callable[[Any], Array | None]


def refit(
    module: nn.Module,
    blocks: tuple[nn.Module, ...],
    last: Path,
    counted: CountedFn,
    *,
    has_bias: bool = True,
    norm: str | None = None,
    classify: Callable[[Any, Array], Array] | None = None,
    within: Path = (),
) -> Refit:
    """Returns how a transformer is fitted anew.

    Args:
        module: the network.
        blocks: its blocks, without names, so that those that are alike are equal.
        last: where a block has the last matrix of its MLP.
        counted: which tokens count.
        has_bias: whether that matrix comes with a bias.
        norm: a block's norm behind the sum. A block that stands for removed ones takes
            over that of the last of them.
        classify: `(params, x) -> features` of a head called `classifier`; None to leave
            the head as it is.
        within: which part of the network the blocks are in.
    """

    def enter(variables: Any, inputs: Any) -> Any:
        _, seen = module.apply(variables, inputs, mutable=[REFIT])
        return _at(seen[REFIT], within)["entered"][0]

    head = None
    if classify is not None:

        def observe(variables: Any, carry: Any, positions: int) -> Observed:
            del positions
            features = classify(variables["params"], carry[0])
            total = least_squares.apply(_read(("classifier",), variables), features)
            return Observed(features, total)

        head = _operation(("classifier",), observe)
    fitted = (_block(block, last, counted, has_bias, norm) for block in blocks)
    return Refit(enter, tuple(fitted), head)


@functools.cache
def _block(
    block: nn.Module, last: Path, counted: CountedFn, has_bias: bool, norm: str | None
) -> RefitBlock:
    def observe(variables: Any, carry: Any, positions: int) -> Observed:
        _, seen = block.apply(variables, *carry, mutable=[REFIT])
        sown = seen[REFIT]
        features = _at(sown, last[:-1])["features"][0]
        tokens = counted(carry)
        return Observed(
            at_positions(features, positions),
            at_positions(sown["total"][0], positions),
            None
            if tokens is None
            else at_positions(tokens[..., None], positions)[:, 0],
        )

    def forward(variables: Any, carry: Any) -> Any:
        return (block.apply(variables, *carry), *carry[1:])

    def inherit(variables: Any, removed: Any) -> Any:
        params = {**variables["params"], norm: removed["params"][norm]}
        return {**variables, "params": params}

    return RefitBlock(
        _operation(last, observe, has_bias),
        forward=forward,
        output=_output,
        inherit=None if norm is None else inherit,
    )


def _output(carry: Any) -> Array:
    return carry[0]


def _operation(path: Path, observe: Any, has_bias: bool = True) -> LinearOperation:
    read, write = functools.partial(_read, path), functools.partial(_write, path)
    return LinearOperation(observe, read, write, has_bias=has_bias)


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _read(path: Path, variables: Any) -> LinearMap:
    linear = _at(variables["params"], path)
    width = linear["kernel"].shape[1]
    return LinearMap(linear["kernel"], linear.get("bias", jnp.zeros(width)))


def _write(path: Path, variables: Any, linear_map: LinearMap, spread: Spread) -> Any:
    del spread

    def replaced(tree: Any, path: Path) -> Any:
        if path:
            return {**tree, path[0]: replaced(tree[path[0]], path[1:])}
        return {name: getattr(linear_map, name) for name in tree}

    return {**variables, "params": replaced(variables["params"], path)}
