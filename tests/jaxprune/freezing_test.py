import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import freezing, layouts, plan


def test_blocks_next_to_cuts_are_numbered_as_in_the_pruned_model():
    """Of eight blocks 0 and 4, 5 go: beside them are 1, 3 and 6, now 0, 2 and 3."""
    made = plan.Plan("blocks", (1, 2, 3, 6, 7), (0, 4, 5))
    assert freezing.blocks_next_to_cuts(made) == (0, 2, 3)


def test_stacked_blocks_are_frozen_slice_by_slice():
    params = {"layers": {"w": jnp.ones((3, 2))}, "head": jnp.ones(2)}
    mask = freezing.trainable_mask(params, layouts.Stacked(("layers",)), (2,))
    np.testing.assert_array_equal(
        mask["layers"]["w"], [[False] * 2, [False] * 2, [True] * 2]
    )
    updates, _ = freezing.freeze(mask).update(params, optax.EmptyState())
    np.testing.assert_array_equal(updates["layers"]["w"], [[0, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(updates["head"], [1, 1])
