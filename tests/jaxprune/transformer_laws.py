"""What holds of every transformer here; the tests of each network call it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import plan, prunable
from jaxprune.models import blocks, weights
from tests.jaxprune import naive


def initial(model, seed=0):
    """Variables of a model, of which none leaves things as they are."""
    return naive.randomized(jax.eval_shape(model.init, jax.random.key(0)), seed)


def check_scanned_blocks(listed, scanned, variables, inputs, *, removed, rtol=1e-5):
    """Scanned blocks compute what listed ones do, and are pruned alike."""
    stacked = blocks.stack(variables)
    shapes = jax.eval_shape(scanned.init, jax.random.key(0))
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, shapes)
    chex.assert_trees_all_equal(blocks.unstack(stacked), variables)
    one = jax.jit(listed.activations[blocks.STACK])(variables, inputs)
    many = jax.jit(scanned.activations[blocks.STACK])(stacked, inputs)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 10)
    made = plan.make_plan(listed.stack(blocks.STACK), removed)
    _, pruned = prunable.prune(listed, variables, made)
    _, pruned_scan = prunable.prune(scanned, stacked, made)
    chex.assert_trees_all_equal(blocks.stack(pruned), pruned_scan)


def check_zero_block_can_go(model, variables, inputs, branches):
    """Where the last layers of its branches are zero, a block changes no bit.

    Args:
        model: with a block 1.
        variables: of it.
        inputs: a batch.
        branches: paths of these layers in a block.
    """

    def zeroed(tree, path):
        if not path:
            return jax.tree.map(jnp.zeros_like, tree)
        return {**tree, path[0]: zeroed(tree[path[0]], path[1:])}

    params = variables["params"]
    for path in branches:
        params = {**params, "block_1": zeroed(params["block_1"], path)}
    made = plan.make_plan(model.stack(blocks.STACK), [1])
    smaller, pruned = prunable.prune(model, {"params": params}, made)
    np.testing.assert_array_equal(
        jax.jit(model.apply)({"params": params}, inputs),
        jax.jit(smaller.apply)(pruned, inputs),
    )


def check_round_trip(table, variables):
    """Variables that were written are read again; returns the tensors of the file."""
    tensors = weights.write(table, variables)
    like = jax.eval_shape(lambda: variables)
    chex.assert_trees_all_equal(weights.read(table, tensors, like), variables)
    return tensors
