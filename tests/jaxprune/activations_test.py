"""Captured block outputs equal those of the blocks run one by one."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprune import activations

WIDTH = 4


class Block(nn.Module):
    """A residual block; returns a pair if asked to."""

    pair: bool = False

    @nn.compact
    def __call__(self, x, scale=None):
        x = x + nn.Dense(WIDTH)(x)
        return (x, None) if self.pair else x


class Stage(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Block(name="block_0")(x)


class Model(nn.Module):
    pair: bool = False

    @nn.compact
    def __call__(self, x, *, shift=None):
        x = Stage(name="stage")(x)
        if shift is not None:
            x = x + shift
        x = Block(name="last", pair=self.pair)(x)
        return nn.Dense(2, name="head")(x[0] if self.pair else x)


class Scanned(nn.Module):
    axes: tuple[str, ...] = ("params", "intermediates")
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            Block,
            variable_axes={"params": 0}
            | ({"intermediates": self.axis} if "intermediates" in self.axes else {}),
            split_rngs={"params": True},
            length=3,
        )
        return scan(name="blocks", pair=True)(x, None)[0]


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = Block(name="shared")
        return block(block(x))


class Dictionary(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {"hidden": nn.Dense(WIDTH)(x)}


class DictionaryModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Dictionary(name="block")(x)["hidden"]


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (5, WIDTH))


def residual(params, x):
    return x + x @ params["kernel"] + params["bias"][None]


@pytest.mark.parametrize("pair", [False, True])
def test_linen_named_blocks(x, pair):
    model = Model(pair=pair)
    variables = model.init(jax.random.key(1), x)
    names = ["stage/block_0", "last"]
    fn = jax.jit(activations.linen_activations(model, names))
    output, (first, last) = fn(variables, x)
    params = variables["params"]
    expected = residual(params["stage"]["block_0"]["Dense_0"], x)
    np.testing.assert_allclose(first, expected, rtol=1e-6)
    expected = residual(params["last"]["Dense_0"], expected)
    np.testing.assert_allclose(last, expected, rtol=1e-6)
    np.testing.assert_allclose(output, model.apply(variables, x), rtol=1e-6)


def test_linen_inputs_and_keywords(x):
    model = Model()
    variables = model.init(jax.random.key(1), x)
    shift = jnp.ones_like(x)
    expected = model.apply(variables, x, shift=shift)
    by_keyword = activations.linen_activations(model, ["last"])
    always = activations.linen_activations(model, ["last"], shift=shift)
    for fn, inputs in [
        (by_keyword, {"x": x, "shift": shift}),
        (always, (x,)),
        (always, x),
    ]:
        np.testing.assert_allclose(fn(variables, inputs)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_linen_scanned_blocks(x, axis):
    model = Scanned(axis=axis)
    variables = model.init(jax.random.key(1), x)
    fn = activations.linen_scan_activations(model, "blocks", axis=axis)
    output, blocks = jax.jit(fn)(variables, x)
    assert len(blocks) == 3
    for i, block in enumerate(blocks):
        layer = jax.tree.map(lambda a, i=i: a[i], variables["params"]["blocks"])
        x = residual(layer["Dense_0"], x)
        np.testing.assert_allclose(block, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output, x, rtol=1e-5, atol=1e-6)


def test_linen_scan_that_drops_intermediates_is_refused(x):
    model = Scanned(axes=("params",))
    variables = model.init(jax.random.key(1), x)
    fn = activations.linen_scan_activations(model, "blocks")
    with pytest.raises(ValueError, match="add 'intermediates': 0 to the variable_axes"):
        fn(variables, x)


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (Model(), "block_9", r"'block_9'.*stage/block_0, stage"),
        (Model(), "stage/block_0/deeper", "'stage/block_0/deeper'"),
        (Twice(), "shared", "'shared' runs 2 times"),
        (DictionaryModel(), "block", "returns dict, not an array: pass select="),
    ],
)
def test_linen_refusals(x, model, name, message):
    variables = model.init(jax.random.key(1), x)
    with pytest.raises(ValueError, match=message):
        activations.linen_activations(model, [name])(variables, x)


def test_select(x):
    model = DictionaryModel()
    variables = model.init(jax.random.key(1), x)
    fn = activations.linen_activations(model, ["block"], select=lambda r: r["hidden"])
    output, (block,) = fn(variables, x)
    np.testing.assert_array_equal(output, block)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.dense(x)
        self.sow(nnx.Intermediate, "own", x)
        return x


class NnxInherited(NnxBlock):
    pass


class NnxModel(nnx.Module):
    def __init__(self, rngs, block=NnxBlock, depth=3):
        self.blocks = nnx.List([block(rngs) for _ in range(depth)])

    def __call__(self, x, *, scale=None):
        for block in self.blocks:
            x = block(x)
        return x if scale is None else scale * x


class NnxScanned(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs):
            return NnxBlock(rngs)

        self.blocks = create(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, block):
            return block(x)

        return forward(x, self.blocks)


def test_nnx_blocks(x):
    model = NnxModel(nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    names = [f"blocks/{i}" for i in range(3)]
    fn = jax.jit(activations.nnx_activations(graphdef, names, scale=2.0))
    output, blocks = fn(state, x)
    hidden = x
    for module, block in zip(model.blocks, blocks, strict=True):
        hidden = residual(
            {"kernel": module.dense.kernel[...], "bias": module.dense.bias[...]}, hidden
        )
        np.testing.assert_allclose(block, hidden, rtol=1e-5)
    np.testing.assert_allclose(output, 2 * hidden, rtol=1e-5)


def test_nnx_scanned_blocks(x):
    model = NnxScanned(nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    output, blocks = jax.jit(activations.nnx_scan_activations(graphdef, "blocks"))(
        state, x
    )
    kernel, bias = model.blocks.dense.kernel[...], model.blocks.dense.bias[...]
    hidden = x
    for i, block in enumerate(blocks):
        hidden = residual({"kernel": kernel[i], "bias": bias[i]}, hidden)
        np.testing.assert_allclose(block, hidden, rtol=1e-5)
    assert len(blocks) == 3
    np.testing.assert_allclose(output, hidden, rtol=1e-5)


def test_nnx_refusals(x):
    graphdef, state = nnx.split(NnxModel(nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"'blocks/7'.*blocks/0"):
        activations.nnx_activations(graphdef, ["blocks/7"])(state, x)

    graphdef, state = nnx.split(NnxModel(nnx.Rngs(0), NnxInherited))
    with pytest.raises(ValueError, match="inherits its __call__ must define its own"):
        activations.nnx_activations(graphdef, ["blocks/0"])(state, x)


def test_a_named_tuple_is_one_argument():
    class Pair(NamedTuple):
        x: np.ndarray
        y: np.ndarray

    class Sum(nn.Module):
        @nn.compact
        def __call__(self, pair):
            return Block(name="block_0")(pair.x + pair.y)

    pair = Pair(np.ones((5, WIDTH), np.float32), np.ones((5, WIDTH), np.float32))
    variables = Sum().init(jax.random.key(0), pair)
    output, blocks = activations.linen_activations(Sum(), ["block_0"])(variables, pair)
    np.testing.assert_array_equal(output, blocks[0])
