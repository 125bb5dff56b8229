"""The same residual network in Linen, scanned Linen and NNX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprune import flax_models, layouts, plan, prunable
from jaxprune.activations import linen_scan_activations

WIDTH = 4


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.tanh(nn.Dense(WIDTH)(x)), None


class Listed(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        for index in range(self.depth):
            x, _ = Block(name=f"block_{index}")(x)
        return nn.Dense(2, name="head")(x)


class Scanned(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = blocks(name="blocks")(x, None)
        return nn.Dense(2, name="head")(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.dense(x))


class NnxNet(nnx.Module):
    def __init__(self, depth, rngs):
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(depth)])
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(5, WIDTH)), jnp.float32)


def models():
    return {
        "linen": flax_models.linen_prunable(Listed, 4, INPUTS),
        "scanned": flax_models.linen_prunable(
            Scanned,
            4,
            INPUTS,
            layout=layouts.Stacked(("blocks",)),
            make_activations=lambda m: linen_scan_activations(m, "blocks"),
        ),
        "nnx": flax_models.nnx_prunable(NnxNet, 4, INPUTS),
    }


@pytest.mark.parametrize("kind", ["linen", "scanned", "nnx"])
def test_pruning_leaves_out_the_blocks_and_nothing_else(kind):
    model = models()[kind]
    variables = jax.jit(model.init)(jax.random.key(0))
    blocks = model.stack("blocks").layouts["params"].blocks(variables["params"])
    made = plan.make_plan(model.stack("blocks"), [1, 2])
    smaller, pruned = prunable.prune(model, variables, made)

    x = np.asarray(INPUTS)
    for index in (0, 3):
        kernel, bias = (np.asarray(jax.tree.leaves(blocks[index])[i]) for i in (1, 0))
        x = x + np.tanh(x @ kernel + bias)
    head = variables["params"]["head"]
    expected = x @ np.asarray(head["kernel"]) + np.asarray(head["bias"])

    outputs, activations = jax.jit(smaller.activations["blocks"])(pruned, INPUTS)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        jax.jit(smaller.apply)(pruned, INPUTS), expected, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(activations[-1], x, rtol=1e-4, atol=1e-5)
    assert len(activations) == 2
    # Its shapes are those of a model that was never deeper.
    like = jax.eval_shape(smaller.init, jax.random.key(0))
    assert jax.tree.structure(like) == jax.tree.structure(pruned)


@pytest.mark.parametrize("kind", ["linen", "scanned", "nnx"])
def test_a_zero_block_goes_without_changing_a_bit(kind):
    model = models()[kind]
    variables = jax.jit(model.init)(jax.random.key(0))
    layout = model.stack("blocks").layouts["params"]
    blocks = layout.blocks(variables["params"])
    blocks[2] = jax.tree.map(jnp.zeros_like, blocks[2])
    zeroed = {"params": layout.put(variables["params"], blocks)}
    made = plan.make_plan(model.stack("blocks"), [2])
    smaller, pruned = prunable.prune(model, zeroed, made)
    np.testing.assert_array_equal(
        jax.jit(model.apply)(zeroed, INPUTS), jax.jit(smaller.apply)(pruned, INPUTS)
    )


def test_the_first_block_is_protected():
    with pytest.raises(ValueError, match="block 0: its input's shape is not known"):
        plan.make_plan(models()["linen"].stack("blocks"), [0])


def test_a_layout_that_finds_no_blocks_is_told():
    with pytest.raises(ValueError, match="where Named"):
        flax_models.linen_prunable(
            Listed,
            3,
            INPUTS,
            layout=layouts.Named("layer_{}"),
            make_activations=lambda m: lambda v, x: (x, []),
        )
    with pytest.raises(ValueError, match="make_activations is needed"):
        flax_models.linen_prunable(
            Scanned, 3, INPUTS, layout=layouts.Stacked(("blocks",))
        )
