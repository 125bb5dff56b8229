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

    merged = heal._merge_statistics(
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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_ridge_without_shrinkage_is_least_squares(seed, split):
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 3, size=(60, 4))
    y = rng.normal(size=(60, 3)) + x[:, :3]
    moments = heal.merge_moments(
        heal.batch_moments(x[:split], y[:split]),
        heal.batch_moments(x[split:], y[split:]),
    )
    linear_map, unexplained = heal.solve_ridge(moments, ridge=0.0)
    design = np.column_stack([x, np.ones(60)])
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    np.testing.assert_allclose(linear_map.kernel, solution[:4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(linear_map.bias, solution[4], rtol=1e-4, atol=1e-4)
    residual = y - design @ solution
    expected = np.sum(residual**2) / np.sum((y - y.mean(0)) ** 2)
    assert unexplained == pytest.approx(expected, rel=1e-6)


def test_ridge_minimises_its_objective():
    """Gradient of `|xA + b - y|^2 + ridge s |A - I|^2` is zero at the solution."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 3)) * [1, 5, 0.1], rng.normal(size=(50, 3))
    moments = heal.batch_moments(x, y)
    ridge = 0.3
    (kernel, bias), _ = heal.solve_ridge(moments, ridge)
    scale = np.trace(moments.xx) / 3
    error = x @ np.float64(kernel) + np.float64(bias) - y
    slope = x.T @ error + ridge * scale * (np.float64(kernel) - np.eye(3))
    np.testing.assert_allclose(slope, 0, atol=1e-3)
    np.testing.assert_allclose(error.mean(0), 0, atol=1e-5)


def test_dead_channels_pass_as_they_are():
    x = np.zeros((20, 3))
    x[:, 0] = np.linspace(-1, 1, 20)
    (kernel, _), unexplained = heal.solve_ridge(heal.batch_moments(x, 2 * x), 0.0)
    np.testing.assert_allclose(kernel, np.diag([2, 1, 1]), atol=1e-6)
    assert unexplained == pytest.approx(0, abs=1e-9)


def test_constant_features_give_the_identity():
    x = np.full((20, 3), 4.0)
    (kernel, bias), unexplained = heal.solve_ridge(heal.batch_moments(x, x + 1))
    np.testing.assert_array_equal(kernel, np.eye(3))
    np.testing.assert_allclose(bias, 1)
    assert unexplained == 0


def test_what_is_not_finite_is_refused():
    x = np.full((4, 2), np.nan)
    with pytest.raises(ValueError, match="not finite"):
        heal.solve_ridge(heal.batch_moments(x, x))
    with pytest.raises(ValueError, match="ridge=-1"):
        heal.solve_ridge(heal.batch_moments(np.eye(2), np.eye(2)), -1)


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


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 5, 5, 4), (3, 1, 1, 4)])
def test_samples_are_positions_of_the_input(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    sampled = np.asarray(heal._sample(jnp.asarray(x), positions=4))
    assert len(sampled) == 3 * min(4, int(np.prod(shape[1:-1])))
    rows = {tuple(row) for row in x.reshape(-1, 4).tolist()}
    assert {tuple(row) for row in sampled.tolist()} <= rows
    assert len({tuple(row) for row in sampled.tolist()}) == len(sampled)
