import dataclasses
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import plan, prunable
from jaxprune.models import resnet, weights

CONFIG = resnet.ResNetConfig((3, 2), (4, 8), num_classes=3, image_shape=(8, 8, 2))
STACK = resnet.STACK


@pytest.fixture(scope="module")
def model():
    return resnet.prunable_resnet(CONFIG)


@pytest.fixture(scope="module")
def variables(model):
    return randomized(jax.jit(model.init)(jax.random.key(0)))


def randomized(variables):
    """Statistics that are not the identity, so that forgetting them would show."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32) * (x + 0.1),
        variables,
    )


def images(count=5):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(count, *CONFIG.image_shape)), jnp.float32)


def naive_windows(x, size, stride, fill):
    """The windows of `[H, W, C]`, `fill` around the picture: `[h, w, size, size, C]`"""
    edge = size // 2
    padded = np.pad(x, ((edge, edge), (edge, edge), (0, 0)), constant_values=fill)
    return np.array(
        [
            [padded[i : i + size, j : j + size] for j in range(0, x.shape[1], stride)]
            for i in range(0, x.shape[0], stride)
        ]
    )


def naive_convolution(x, kernel, stride):
    windows = naive_windows(x, len(kernel), stride, 0)
    return np.einsum("ijabc,abcd->ijd", windows, kernel)


def naive_resnet(variables, image, config):
    """The network of one image, from the paper's description, in NumPy float64."""
    params, stats = jax.tree.map(
        lambda x: np.asarray(x, np.float64),
        (variables["params"], variables["batch_stats"]),
    )

    def norm(x, scale, stat):
        normal = (x - stat["mean"]) / np.sqrt(stat["var"] + 1e-5)
        return normal * scale["scale"] + scale["bias"]

    x = np.asarray(image, np.float64)
    x = naive_convolution(x, params["stem"]["kernel"], 2 if config.imagenet_stem else 1)
    x = np.maximum(norm(x, params["stem_bn"], stats["stem_bn"]), 0)
    if config.imagenet_stem:
        x = naive_windows(x, 3, 2, -np.inf).max((2, 3))
    strided = 2 if config.bottleneck else 1
    last = 3 if config.bottleneck else 2
    for index, stage in enumerate(config.stages):
        halves = stage > 0 and config.stages[index - 1] != stage
        p, s = params[f"block_{index}"], stats[f"block_{index}"]
        y = x
        for n in range(1, last + 1):
            stride = 2 if halves and n == strided else 1
            y = naive_convolution(y, p[f"conv{n}"]["kernel"], stride)
            y = norm(y, p[f"bn{n}"], s[f"bn{n}"])
            y = np.maximum(y, 0) if n < last else y
        if config.projection and x.shape != y.shape:
            x = naive_convolution(x, p["shortcut"]["kernel"], 2 if halves else 1)
            x = norm(x, p["shortcut_bn"], s["shortcut_bn"])
        elif halves:
            pad = (config.widths[stage] - x.shape[-1]) // 2
            x = np.pad(x[::2, ::2], ((0, 0), (0, 0), (pad, pad)))
        x = np.maximum(x + y, 0)
        if "adapter" in p:
            x = x @ p["adapter"]["kernel"] + p["adapter"]["bias"]
    return x.mean((0, 1)) @ params["head"]["kernel"] + params["head"]["bias"]


def test_forward_pass_matches_a_naive_one(model, variables):
    logits = jax.jit(model.apply)(variables, images())
    expected = [naive_resnet(variables, image, CONFIG) for image in images()]
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)


def test_published_sizes():
    for depth, parameters in [(20, 269_722), (56, 853_018)]:
        shapes = jax.eval_shape(
            resnet.prunable_resnet(resnet.cifar_config(depth)).init, jax.random.key(0)
        )
        assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == parameters


@pytest.mark.parametrize("depth", [2, 21, 0])
def test_depths_that_do_not_exist_are_refused(depth):
    with pytest.raises(ValueError, match=f"depth={depth}"):
        resnet.cifar_config(depth)


def test_every_stage_keeps_a_block():
    with pytest.raises(ValueError, match="at least one block"):
        dataclasses.replace(CONFIG, stage_sizes=(0, 2))


def test_a_zero_residual_branch_can_go_without_changing_a_bit(model, variables):
    block = dict(variables["params"]["block_1"])
    block["bn2"] = jax.tree.map(jnp.zeros_like, block["bn2"])
    zeroed = {**variables, "params": {**variables["params"], "block_1": block}}
    made = plan.make_plan(model.stack(STACK), [1])
    smaller, pruned = prunable.prune(model, zeroed, made)
    assert smaller.stack(STACK).num_blocks == 4
    np.testing.assert_array_equal(
        jax.jit(model.apply)(zeroed, images()),
        jax.jit(smaller.apply)(pruned, images()),
    )


def test_pruned_network_is_the_naive_one_with_fewer_blocks(model, variables):
    made = plan.make_plan(model.stack(STACK), [0, 4])
    smaller, pruned = prunable.prune(model, variables, made)
    assert smaller.structure.kept == {STACK: (1, 2, 3)}
    config = dataclasses.replace(CONFIG, stage_sizes=(2, 1))
    expected = [naive_resnet(pruned, image, config) for image in images()]
    logits = jax.jit(smaller.apply)(pruned, images())
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)
    # Once more, in the numbering that is now valid.
    again = plan.make_plan(smaller.stack(STACK), [0])
    smallest, _ = prunable.prune(smaller, pruned, again)
    assert smallest.structure.kept == {STACK: (2, 3)}


def test_blocks_that_change_the_shape_are_refused(model):
    with pytest.raises(ValueError, match="block 3: halves the resolution and widens 4"):
        plan.make_plan(model.stack(STACK), [3])


def test_activations_are_those_of_the_forward_pass(model, variables):
    logits, outputs = jax.jit(model.activations[STACK])(variables, images())
    np.testing.assert_array_equal(logits, jax.jit(model.apply)(variables, images()))
    assert [x.shape for x in outputs] == [(5, 8, 8, 4)] * 3 + [(5, 4, 4, 8)] * 2
    head = variables["params"]["head"]
    np.testing.assert_allclose(
        np.asarray(outputs[-1]).mean((1, 2)) @ np.asarray(head["kernel"])
        + np.asarray(head["bias"]),
        logits,
        rtol=1e-4,
    )


def test_attached_maps_take_effect_and_compose(model, variables):
    structure = model.structure.with_adapters(STACK, [1])
    adapted = model.build(structure)
    rng = np.random.default_rng(2)

    def linear_map():
        kernel, bias = rng.normal(size=(4, 4)), rng.normal(size=4)
        return prunable.LinearMap(np.float32(kernel), np.float32(bias))

    first, second = linear_map(), linear_map()
    once = model.attach(variables, STACK, {1: first})
    adapted_outputs = jax.jit(adapted.activations[STACK])
    before = np.asarray(jax.jit(model.activations[STACK])(variables, images())[1][1])
    after = adapted_outputs(once, images())[1][1]
    np.testing.assert_allclose(after, before @ first.kernel + first.bias, rtol=1e-4)
    twice = adapted.attach(once, STACK, {1: second})
    after = adapted_outputs(twice, images())[1][1]
    expected = (before @ first.kernel + first.bias) @ second.kernel + second.bias
    np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-4)


def test_batch_statistics_are_those_of_the_batch(model, variables):
    stats = jax.jit(model.batch_statistics)(variables, images())
    stem = jax.lax.conv_general_dilated(
        images(),
        variables["params"]["stem"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(
        stats["stem_bn"]["mean"], stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        stats["stem_bn"]["var"], stem.var((0, 1, 2)), rtol=1e-4, atol=1e-5
    )


def test_weights_survive_the_round_trip(model, variables):
    table = resnet.weight_table(CONFIG)
    tensors = weights.write(table, variables)
    assert tensors["layer2.0.conv1.weight"].shape == (8, 4, 3, 3)
    assert len(tensors) == len(table) == len(jax.tree.leaves(variables))
    again = weights.read(table, tensors, variables)
    chex.assert_trees_all_equal(again, variables)


def test_weights_that_do_not_fit_are_listed(model, variables):
    table = resnet.weight_table(CONFIG)
    tensors = weights.write(table, variables)
    del tensors["linear.bias"]
    tensors["fc.bias"] = np.zeros(3)
    tensors["conv1.weight"] = np.zeros((4, 3, 3, 3))
    tensors["bn1.bias"] = np.full(4, np.nan)
    with pytest.raises(ValueError, match="do not fit") as error:
        weights.read(table, tensors, variables)
    assert "1 missing: linear.bias" in str(error.value)
    assert "1 unexpected: fc.bias" in str(error.value)
    assert "conv1.weight is (4, 3, 3, 3), not (4, 2, 3, 3)" in str(error.value)
    assert "not finite: bn1.bias" in str(error.value)


def test_weights_of_another_depth_are_refused(model, variables):
    deeper = dataclasses.replace(CONFIG, stage_sizes=(3, 3))
    tensors = weights.write(resnet.weight_table(CONFIG), variables)
    like = jax.eval_shape(resnet.prunable_resnet(deeper).init, jax.random.key(0))
    with pytest.raises(ValueError, match="10 missing"):
        weights.read(resnet.weight_table(deeper), tensors, like)


WEIGHTS = "../shared/data/resnet_cifar10/resnet20.safetensors"


@pytest.mark.skipif(not os.path.exists(WEIGHTS), reason="the weights are not at hand")
def test_published_weights_agree_with_the_naive_network():
    config = resnet.cifar_config(20)
    model = resnet.prunable_resnet(config)
    from safetensors.numpy import load_file

    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = weights.read(resnet.weight_table(config), load_file(WEIGHTS), like)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    expected = naive_resnet(variables, image[0], config)
    logits = jax.jit(model.apply)(variables, image)[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
