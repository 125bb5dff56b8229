"""Training only a part of a pruned network: the blocks beside its cuts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import plan as plan_lib
from jaxprune.layouts import Layout


def blocks_next_to_cuts(plan: plan_lib.Plan) -> tuple[int, ...]:
    """Returns the blocks on both sides of each cut, in the pruned numbering.

    >>> blocks_next_to_cuts(plan_lib.Plan("blocks", (0, 1, 2, 5), (3, 4)))
    (2, 3)
    """
    beside = {b for first, last in plan.spans() for b in (first - 1, last + 1)}
    return tuple(new for new, old in enumerate(plan.kept) if old in beside)


def trainable_mask(params: Any, layout: Layout, trainable: tuple[int, ...]) -> Any:
    """Returns which parameters are trained when most blocks are frozen.

    With `blocks_next_to_cuts` this is what MPruner calls "Part".

    Args:
        params: of the pruned model.
        layout: where its blocks are.
        trainable: blocks that are trained; all that is in no block is trained, too.

    Returns:
        Booleans of the structure of `params`; arrays in the blocks, scalars elsewhere.
    """
    mask = jax.tree.map(lambda leaf: np.True_, params)
    blocks = [
        jax.tree.map(lambda leaf, i=i: np.full(np.shape(leaf), i in trainable), block)
        for i, block in enumerate(layout.blocks(params))
    ]
    return layout.put(mask, blocks)


def freeze(mask: Any) -> optax.GradientTransformation:
    """Returns a transformation that leaves parameters where `mask` is false as is.

    Chain it last, so that weight decay does not move them either.
    """

    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda u, m: jnp.where(m, u, 0), updates, mask)

    return optax.stateless(update)
