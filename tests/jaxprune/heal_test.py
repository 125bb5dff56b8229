import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import heal, plan, prunable
from jaxprune.models import resnet

CONFIG = resnet.ResNetConfig((4,), (4,), num_classes=3, image_shape=(6, 6, 2))
STACK = resnet.STACK


@functools.cache
def model_and_variables():
    model = resnet.prunable_resnet(CONFIG)
    return model, jax.jit(model.init)(jax.random.key(0))


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *CONFIG.image_shape)).astype(np.float32)


def all_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_statistics_are_pooled_exactly():
    """The stem sees its input whatever the batch, so batches pool to the whole."""
    model, variables = model_and_variables()
    x = images(24)
    whole = heal.reestimate_batch_norm(model, variables, [x])["batch_stats"]
    parts = heal.reestimate_batch_norm(model, variables, [x[:16], x[16:]])
    all_close(whole["stem_bn"], parts["batch_stats"]["stem_bn"], rtol=1e-4, atol=1e-5)


def test_nothing_of_the_old_statistics_is_left():
    model, variables = model_and_variables()
    stale = {
        **variables,
        "batch_stats": jax.tree.map(lambda x: x + 7, variables["batch_stats"]),
    }
    fresh = heal.reestimate_batch_norm(model, stale, [images(16)])
    same = heal.reestimate_batch_norm(model, variables, [images(16)])
    all_close(fresh, same, rtol=1e-5, atol=1e-6)


def test_reestimated_network_normalises_the_calibration_batch():
    """In inference it then does what it does in training on that batch."""
    model, variables = model_and_variables()
    x = images(16)
    fresh = heal.reestimate_batch_norm(model, variables, [x])
    trained = jax.jit(model.train)(variables, x).outputs
    np.testing.assert_allclose(
        jax.jit(model.apply)(fresh, x), trained, rtol=1e-3, atol=1e-3
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_merging_statistics_is_the_law_of_total_variance(first, second, seed):
    x = np.random.default_rng(seed).normal(3, 2, size=(first + second, 2))

    def of(part):
        return {"bn": {"mean": part.mean(0), "var": part.var(0)}}

    merged = heal.merge_statistics(
        of(x[:first]), of(x[first:]), second / (first + second)
    )
    all_close(merged, of(x), rtol=1e-9, atol=1e-12)


def test_reestimation_needs_a_batch():
    model, variables = model_and_variables()
    with pytest.raises(ValueError, match="without any batch"):
        heal.reestimate_batch_norm(model, variables, [])


def test_a_model_without_batch_norm_stays_as_it_is():
    model, variables = model_and_variables()
    params = {"params": variables["params"]}
    assert heal.reestimate_batch_norm(model, params, []) == params


def test_a_linear_block_is_replaced_exactly():
    """Where the removed span is an affine map, nothing of its effect is lost."""
    model, variables = model_and_variables()
    rng = np.random.default_rng(5)
    linear_map = prunable.LinearMap(
        np.float32(np.eye(4) + 0.3 * rng.normal(size=(4, 4))),
        np.float32(rng.normal(size=4)),
    )
    # Block 1 does nothing of its own but to end in a linear map.
    params = dict(variables["params"])
    silent = jax.tree.map(jnp.zeros_like, params["block_1"]["bn2"])
    params["block_1"] = {**params["block_1"], "bn2": silent}
    base = model.build(model.structure.with_adapters(STACK, [1]))
    variables = model.attach({**variables, "params": params}, STACK, {1: linear_map})
    made = plan.make_plan(base.stack(STACK), [1])
    pruned, smaller = prunable.prune(base, variables, made)
    assert pruned.structure.adapters == {}
    x = images(64)
    healed, healed_variables, fitted = heal.fit_linear_maps(
        base, variables, pruned, smaller, made, [x], ridge=0.0, reestimate=False
    )
    assert [f.after_block for f in fitted] == [0]
    assert fitted[0].unexplained < 1e-6
    assert healed.structure.adapter_positions(STACK) == (0,)
    np.testing.assert_allclose(
        jax.jit(healed.apply)(healed_variables, x),
        jax.jit(base.apply)(variables, x),
        rtol=1e-2,
        atol=1e-3,
    )


def test_maps_bring_the_network_closer():
    model, variables = model_and_variables()
    x, unseen = images(128), images(64, seed=9)
    variables = heal.reestimate_batch_norm(model, variables, [x])
    made = plan.make_plan(model.stack(STACK), [1, 3])
    pruned, smaller = prunable.prune(model, variables, made)
    batches = [x[:64], x[64:]]
    plain = heal.reestimate_batch_norm(pruned, smaller, batches)
    healed, healed_variables, fitted = heal.fit_linear_maps(
        model, variables, pruned, smaller, made, batches
    )
    assert [f.after_block for f in fitted] == [0, 1]
    target = jax.jit(model.activations[STACK])(variables, unseen)[1][-1]

    def error(model, variables):
        output = jax.jit(model.activations[STACK])(variables, unseen)[1][-1]
        return float(jnp.mean((output - target) ** 2))

    assert error(healed, healed_variables) < 0.9 * error(pruned, plain)


def test_a_span_at_the_start_is_left_alone():
    model, variables = model_and_variables()
    made = plan.make_plan(model.stack(STACK), [0])
    pruned, smaller = prunable.prune(model, variables, made)
    healed, _, fitted = heal.fit_linear_maps(
        model, variables, pruned, smaller, made, [images(16)]
    )
    assert fitted == ()
    assert healed.structure == pruned.structure.with_adapters(STACK, [])


def test_maps_need_batches_and_a_model_that_holds_them():
    model, variables = model_and_variables()
    made = plan.make_plan(model.stack(STACK), [1])
    pruned, smaller = prunable.prune(model, variables, made)
    with pytest.raises(ValueError, match="without any batch"):
        heal.fit_linear_maps(model, variables, pruned, smaller, made, [])
    bare = dataclasses.replace(pruned, attach=None)
    with pytest.raises(ValueError, match="no attach function"):
        heal.fit_linear_maps(model, variables, bare, smaller, made, [images(4)])
