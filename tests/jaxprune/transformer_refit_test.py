"""What transformers tell to be fitted anew, and that it makes up for removed blocks."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import heal, least_squares, plan, prunable, refit
from jaxprune.models import bert, blocks, decoder, text, vit
from jaxprune.prunable import Spread
from tests.jaxprune import naive

STACK = blocks.STACK
SIZES = {
    "hidden_size": 8,
    "num_layers": 3,
    "num_heads": 2,
    "intermediate_size": 12,
}
BERT = bert.tiny_config(**SIZES, vocab_size=20, max_positions=6, num_labels=3)
VIT = vit.tiny_config(**SIZES, image_shape=(6, 6, 1), num_classes=3)
DECODER = decoder.tiny_config(**SIZES, vocab_size=20, num_kv_heads=1, head_dim=4)


def texts(seed=0, pad_id=0, left=False, count=64):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, 20, rng.integers(2, 7)).tolist() for _ in range(count)]
    return text.pad(sequences, 6, pad_id=pad_id, left=left)


def images(seed=0):
    return np.random.default_rng(seed).normal(size=(64, 6, 6, 1)).astype(np.float32)


MODELS = {
    "bert": (bert.prunable_bert(BERT), texts()),
    "vit": (vit.prunable_vit(VIT), images()),
    "decoder": (decoder.prunable_decoder(DECODER), texts()),
    "decoder with biases": (
        decoder.prunable_decoder(dataclasses.replace(DECODER, mlp_bias=True)),
        texts(left=True),
    ),
}


def drawn(model):
    return naive.randomized(jax.eval_shape(model.init, jax.random.key(0)))


@pytest.mark.parametrize("name", MODELS)
def test_operations_are_what_the_blocks_compute(name):
    model, inputs = MODELS[name]
    variables = drawn(model)
    hook = model.refit[STACK]
    output, expected = jax.jit(model.activations[STACK])(variables, inputs)
    carry = jax.jit(hook.enter)(variables, inputs)
    observe = jax.jit(hook.blocks[0].operation.observe, static_argnums=2)
    forward = jax.jit(hook.blocks[0].forward)
    # All blocks are alike, so that they share their compiled program.
    assert len({block.forward for block in hook.blocks}) == 1
    for index, block in enumerate(hook.blocks):
        own = {"params": variables["params"][f"block_{index}"]}
        seen = observe(own, carry, 100)
        read = block.operation.read(own)
        # The shortcut is what a matrix of zero leaves.
        zero = jax.tree.map(jnp.zeros_like, read)
        spread = Spread(zero.bias, zero.bias)
        without = observe(block.operation.write(own, zero, spread), carry, 100)
        linear = least_squares.apply(read, seen.features)
        np.testing.assert_allclose(
            seen.total, without.total + linear, rtol=1e-3, atol=1e-3
        )
        carry = forward(own, carry)
        np.testing.assert_allclose(
            block.output(carry), expected[index], rtol=1e-4, atol=1e-4
        )
        again = block.operation.write(own, read, spread)
        chex.assert_trees_all_equal(again, own)
    if hasattr(inputs, "mask"):
        np.testing.assert_array_equal(seen.counted, inputs.mask.reshape(-1) > 0)
    else:
        assert seen.counted is None
    if hook.head is not None:
        head = hook.head.observe(variables, carry, 1)
        np.testing.assert_allclose(head.total, output, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            head.total,
            least_squares.apply(hook.head.read(variables), head.features),
            rtol=1e-4,
        )
    assert (hook.head is None) is name.startswith("decoder")


def error(model, variables, target, inputs):
    """Mean squared distance of the last block's output, over tokens that count."""
    output = jax.jit(model.activations[STACK])(variables, inputs)[1][-1]
    real = inputs.mask > 0 if hasattr(inputs, "mask") else ...
    return float(np.mean((np.asarray(output) - target)[real] ** 2))


SCANNED = {
    "bert": bert.prunable_bert(BERT, scan=True),
    "vit": vit.prunable_vit(VIT, scan=True),
    "decoder": decoder.prunable_decoder(DECODER, scan=True),
}


@pytest.mark.parametrize("name", SCANNED)
def test_what_is_left_makes_up_for_what_was_removed(name):
    """Scanned here, where blocks are compiled once; listed in the other tests."""
    model, inputs = SCANNED[name], MODELS[name][1]
    variables = drawn(model)
    target = np.asarray(jax.jit(model.activations[STACK])(variables, inputs)[1][-1])
    made = plan.make_plan(model.stack(STACK), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    same, fitted, told = refit.refit(model, variables, smaller, pruned, made, [inputs])
    assert same is smaller
    assert [f.block for f in told][:2] == [0, 1]
    assert jax.tree.structure(fitted) == jax.tree.structure(pruned)
    run = jax.jit(smaller.activations[STACK])
    real = inputs.mask > 0 if hasattr(inputs, "mask") else ...
    before, after = (
        np.mean((np.asarray(run(v, inputs)[1][-1]) - target)[real] ** 2)
        for v in (pruned, fitted)
    )
    assert after < 0.7 * before
    if name == "bert":  # in place of block 1, block 0 is normalised as it was
        old, new = (v["params"]["blocks"]["mlp_norm"] for v in (variables, fitted))
        np.testing.assert_array_equal(new["scale"][0], old["scale"][1])


@pytest.mark.parametrize("name", ["bert", "decoder"])
def test_the_first_fit_is_least_squares_over_tokens_that_count(name):
    """With a constant column where the matrix has a bias, without one elsewhere."""
    model, inputs = MODELS[name]
    variables = drawn(model)
    made = plan.make_plan(model.stack(STACK), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    _, fitted, _ = refit.refit(
        model, variables, smaller, pruned, made, [inputs], ridge=0.0
    )
    hook = model.refit[STACK]
    operation = hook.blocks[0].operation
    own = [{"params": variables["params"][f"block_{i}"]} for i in range(3)]
    entered = hook.enter(variables, inputs)
    first = operation.observe(own[0], entered, 100)
    second = operation.observe(own[1], hook.blocks[0].forward(own[0], entered), 100)
    rows = np.asarray(inputs.mask.reshape(-1) > 0)
    x = np.asarray(first.features, np.float64)[rows]
    shortcut = first.total - least_squares.apply(operation.read(own[0]), first.features)
    y = np.asarray(second.total - shortcut, np.float64)[rows]
    if operation.has_bias:
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    found = operation.read({"params": fitted["params"]["block_0"]})
    np.testing.assert_allclose(found.kernel, expected[:12], rtol=1e-2, atol=1e-2)
    bias = expected[12] if operation.has_bias else np.zeros(8)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["bert", "decoder"])
def test_padding_is_not_fitted(name):
    model, inputs = MODELS[name]
    variables = drawn(model)
    made = plan.make_plan(model.stack(STACK), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    one, other = (
        refit.refit(model, variables, smaller, pruned, made, [x])[1]
        for x in (inputs, texts(pad_id=17))
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_linear_maps_are_not_fitted_to_padding():
    model = bert.prunable_bert(dataclasses.replace(BERT, num_layers=2))
    inputs = MODELS["bert"][1]
    variables = drawn(model)
    made = plan.make_plan(model.stack(STACK), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    one, other = (
        heal.fit_linear_maps(
            model, variables, smaller, pruned, made, [x], mask_fn=text.token_mask
        )[1]["params"]["block_0"]["adapter"]
        for x in (inputs, texts(pad_id=17))
    )
    np.testing.assert_allclose(one["kernel"], other["kernel"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(one["bias"], other["bias"], rtol=1e-3, atol=1e-3)
