import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import heal, least_squares, plan, prunable, refit
from jaxprune.models import resnet
from jaxprune.prunable import Spread

CONFIG = resnet.ResNetConfig((3, 2), (4, 8), num_classes=3, image_shape=(6, 6, 2))
STACK = resnet.STACK
EVERYWHERE = 36  # positions: all pixels


@functools.cache
def unpruned(bottleneck=False):
    """A network with statistics that are those of its data."""
    config = dataclasses.replace(CONFIG, bottleneck=bottleneck, projection=bottleneck)
    model = resnet.prunable_resnet(config)
    variables = jax.jit(model.init)(jax.random.key(0))
    return model, heal.reestimate_batch_norm(model, variables, [images(64, seed=7)])


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *CONFIG.image_shape)).astype(np.float32)


def without(model, variables, removed):
    made = plan.make_plan(model.stack(STACK), removed)
    return made, *prunable.prune(model, variables, made)


def outputs(model, variables, x):
    return [np.asarray(y) for y in jax.jit(model.activations[STACK])(variables, x)[1]]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_operations_are_what_the_blocks_compute(bottleneck):
    """Reading, writing and observing agree with the block itself, at all pixels."""
    model, variables = unpruned(bottleneck)
    hook = model.refit[STACK]
    carry = hook.enter(variables, images(3))
    for index, block in enumerate(hook.blocks):
        own = {name: tree[f"block_{index}"] for name, tree in variables.items()}
        own["batch_stats"] = jax.jit(block.statistics)(own, carry)
        seen = block.operation.observe(own, carry, EVERYWHERE)
        linear_map = block.operation.read(own)
        linear = least_squares.apply(linear_map, seen.features)
        after = block.forward(own, carry)
        flat = np.asarray(block.output(after)).reshape(seen.total.shape)
        np.testing.assert_allclose(np.maximum(seen.total, 0), flat, atol=1e-5)
        shortcut = np.asarray(seen.total - linear)
        if carry.shape == after.shape:
            expected = carry.reshape(shortcut.shape)
            np.testing.assert_allclose(shortcut, expected, rtol=1e-3, atol=1e-3)
        product = np.asarray(linear) - np.asarray(linear_map.bias)
        spread = Spread(product.mean(0), product.var(0))
        written = block.operation.write(own, linear_map, spread)
        np.testing.assert_allclose(block.forward(written, carry), after, atol=1e-4)
        # In training, too: the statistics written are those of this batch.
        last = "bn3" if bottleneck else "bn2"
        trained = jax.jit(block.statistics)(written, carry)[last]
        np.testing.assert_allclose(trained["mean"], spread.mean, atol=1e-3)
        np.testing.assert_allclose(trained["var"], spread.variance, rtol=1e-2)
        carry = after
    head = hook.head.observe(variables, carry, 1)
    linear = least_squares.apply(hook.head.read(variables), head.features)
    np.testing.assert_array_equal(head.total, linear)


def test_what_an_operation_can_do_is_found_again():
    """Spoilt last convolutions and head come back, though all are wrong at first."""
    model, variables = unpruned()
    x = images(64)
    spoilt = jax.tree.map(jnp.array, variables)
    for index in range(5):
        block = spoilt["params"][f"block_{index}"]
        block["conv2"]["kernel"] = block["conv2"]["kernel"][::-1] + 0.1
    spoilt["params"]["head"]["bias"] += 3
    made = plan.make_plan(model.stack(STACK), [])
    entered = {**spoilt, "params": {**spoilt["params"]}}
    entered["params"]["stem_bn"] = jax.tree.map(
        lambda a: a * 1.01, variables["params"]["stem_bn"]
    )
    healed, fresh, fitted = refit.refit(
        model,
        variables,
        model,
        entered,
        made,
        [x[:32], x[32:]],
        ridge=1e-6,
        positions=EVERYWHERE,
        iterations=8,
    )
    assert healed is model
    assert [f.block for f in fitted] == [0, 1, 2, 3, 4, refit.HEAD]
    wanted = jax.jit(model.apply)(variables, x)
    error = np.mean((jax.jit(model.apply)(fresh, x) - wanted) ** 2)
    assert error < 0.01 * np.mean((jax.jit(model.apply)(entered, x) - wanted) ** 2)
    assert error < 0.01 * np.var(wanted)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_refit_brings_unseen_images_closer_than_maps_and_statistics(bottleneck):
    model, variables = unpruned(bottleneck)
    x, unseen = images(256), images(64, seed=9)
    made, pruned, smaller = without(model, variables, [1, 2])
    batches = [x[:128], x[128:]]
    _, fresh, fitted = refit.refit(
        model, variables, pruned, smaller, made, batches, positions=EVERYWHERE
    )
    assert [f.block for f in fitted] == [0, 1, 2, refit.HEAD]
    plain = heal.reestimate_batch_norm(pruned, smaller, batches)
    target = outputs(model, variables, unseen)
    for place, block in enumerate([2, 3, 4]):
        wanted = target[block]
        after = np.mean((outputs(pruned, fresh, unseen)[place] - wanted) ** 2)
        before = np.mean((outputs(pruned, plain, unseen)[place] - wanted) ** 2)
        assert after < before
    logits = jax.jit(model.apply)(variables, unseen)
    error = lambda v: float(  # noqa: E731
        np.mean((jax.jit(pruned.apply)(v, unseen) - logits) ** 2)
    )
    assert error(fresh) < 0.95 * error(plain)


def test_blocks_before_the_first_cut_stay_as_they_are():
    model, variables = unpruned()
    made, pruned, smaller = without(model, variables, [4])
    _, fresh, _ = refit.refit(model, variables, pruned, smaller, made, [images(32)])
    for name in ("block_0", "block_1", "block_2"):
        jax.tree.map(
            np.testing.assert_array_equal,
            fresh["params"][name],
            variables["params"][name],
        )
    assert not np.array_equal(
        fresh["params"]["block_3"]["conv2"]["kernel"],
        variables["params"]["block_3"]["conv2"]["kernel"],
    )


def test_a_span_at_the_start_is_made_up_for_by_the_block_after_it():
    model, variables = unpruned()
    made, pruned, smaller = without(model, variables, [0])
    arguments = (model, variables, pruned, smaller, made, [images(128)])
    _, _, fitted = refit.refit(*arguments)
    assert [f.block for f in fitted] == [0, 1, 2, 3, refit.HEAD]


def test_nothing_removed_changes_nothing():
    model, variables = unpruned()
    made = plan.make_plan(model.stack(STACK), [])
    _, fresh, fitted = refit.refit(
        model, variables, model, variables, made, [images(8)]
    )
    assert fitted == ()
    jax.tree.map(np.testing.assert_array_equal, fresh, variables)


def test_maps_are_fitted_in_the_same_pass_and_bring_the_cut_closer():
    model, variables = unpruned()
    x = images(256)
    made, pruned, smaller = without(model, variables, [1, 2, 4])
    batches = [x[:128], x[128:]]
    arguments = (model, variables, pruned, smaller, made, batches)
    _, without_maps, _ = refit.refit(*arguments, positions=EVERYWHERE)
    mapped, with_maps, fitted = refit.refit(
        *arguments, positions=EVERYWHERE, linear_maps=True
    )
    assert mapped.structure.adapter_positions(STACK) == (0, 1)
    assert [f.block for f in fitted] == [0, 0, 1, 1, refit.HEAD]
    wanted = outputs(model, variables, x)[2]
    after = np.mean((outputs(mapped, with_maps, x)[0] - wanted) ** 2)
    before = np.mean((outputs(pruned, without_maps, x)[0] - wanted) ** 2)
    assert after < before


def test_a_map_that_is_there_already_stays_part_of_the_network():
    """Its block does what it did, and a new map composes with it."""
    model, variables = unpruned()
    x = images(256)
    batches = [x[:128], x[128:]]
    made, pruned, smaller = without(model, variables, [1])
    mapped, with_map, _ = heal.fit_linear_maps(
        model, variables, pruned, smaller, made, batches
    )
    again, smaller_still, fewer = without(mapped, with_map, [1])
    arguments = (mapped, with_map, smaller_still, fewer, again, batches)
    healed, fresh, fitted = refit.refit(
        *arguments, positions=EVERYWHERE, linear_maps=True
    )
    assert healed.structure.adapter_positions(STACK) == (0,)
    assert [f.block for f in fitted] == [0, 0, 1, 2, refit.HEAD]
    wanted = outputs(mapped, with_map, x)[1]
    after = np.mean((outputs(healed, fresh, x)[0] - wanted) ** 2)
    before = np.mean((outputs(smaller_still, fewer, x)[0] - wanted) ** 2)
    assert after < 0.9 * before


def test_wrong_arguments_are_refused():
    model, variables = unpruned()
    made, pruned, smaller = without(model, variables, [1])
    with pytest.raises(ValueError, match="without any batch"):
        refit.refit(model, variables, pruned, smaller, made, [])
    with pytest.raises(ValueError, match="iterations=0"):
        refit.refit(model, variables, pruned, smaller, made, [images(4)], iterations=0)
    with pytest.raises(ValueError, match="positions=0"):
        refit.refit(model, variables, pruned, smaller, made, [images(4)], positions=0)
    with pytest.raises(ValueError, match="empty ones"):
        refit.refit(model, variables, pruned, smaller, made, [images(0)])
    bare = dataclasses.replace(pruned, refit={})
    with pytest.raises(ValueError, match="does not say how to refit the stack 'blo"):
        refit.refit(model, variables, bare, smaller, made, [images(4)])
    unmapped = dataclasses.replace(pruned, attach=None)
    with pytest.raises(ValueError, match="no attach function"):
        refit.refit(
            model, variables, unmapped, smaller, made, [images(4)], linear_maps=True
        )
    broken = images(8)
    broken[0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        refit.refit(model, variables, pruned, smaller, made, [broken])
