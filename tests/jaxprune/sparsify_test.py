"""Masks against naive loops; pruned weights stay pruned in training."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import sparsify


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        x = nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x)
        x = x.reshape(x.shape[0], -1, 4)
        x = nn.DenseGeneral((2, 3), name="heads")(x)
        x = nn.DenseGeneral(5, axis=(-2, -1), name="merge")(x)
        shared = nn.Dense(5, name="shared")
        return shared(nn.relu(shared(x)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(4, name="dense")(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            Block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=3,
        )
        return scan(name="blocks")(x, None)[0]


@pytest.fixture(scope="module")
def model():
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 2))
    variables = Model().init(jax.random.key(1), x)
    return Model(), variables, x


def naive_wanda(kernel, norms, sparsity):
    """`kernel` as `[inputs, outputs]`."""
    mask = np.ones(kernel.shape, bool)
    for output in range(kernel.shape[1]):
        scores = np.abs(kernel[:, output]) * norms
        removed = np.argsort(scores)[: int(sparsity * len(scores))]
        mask[removed, output] = False
    return mask


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_magnitude_removes_the_smallest(model, sparsity):
    _, variables, _ = model
    params = variables["params"]
    masks = sparsify.magnitude_masks(params, sparsity)
    assert set(masks) == {
        f"{name}/kernel" for name in ("conv", "grouped", "heads", "merge", "shared")
    }
    for path, mask in masks.items():
        kernel = np.abs(params[path.split("/")[0]]["kernel"])
        assert (~mask).sum() == int(sparsity * kernel.size)
        if sparsity:
            assert kernel[~mask].max() <= kernel[mask].min()


def test_equal_weights_are_removed_in_the_exact_number():
    masks = sparsify.magnitude_masks({"kernel": jnp.ones((5, 5))}, 0.4)
    assert int((~masks["kernel"]).sum()) == 10


def test_kernel_inputs_are_the_norms_of_what_layers_see(model):
    module, variables, x = model
    inputs = sparsify.linen_kernel_inputs(module, variables, [x[:4], x[4:]])
    params = variables["params"]
    assert "grouped/kernel" not in inputs
    expected = np.sqrt((np.asarray(x) ** 2).sum((0, 1, 2)))
    np.testing.assert_allclose(
        inputs["conv/kernel"].norms, expected.reshape(1, 1, 2, 1), rtol=1e-5
    )
    _, state = module.apply(variables, x, capture_intermediates=True)
    seen = state["intermediates"]
    heads = np.asarray(seen["heads"]["__call__"][0])
    np.testing.assert_allclose(
        inputs["merge/kernel"].norms[..., 0],
        np.sqrt((heads**2).sum((0, 1))),
        rtol=1e-5,
    )
    merged = np.asarray(seen["merge"]["__call__"][0])
    once = np.maximum(np.asarray(seen["shared"]["__call__"][0]), 0)
    total = (merged**2).sum((0, 1)) + (once**2).sum((0, 1))
    np.testing.assert_allclose(
        inputs["shared/kernel"].norms[:, 0], np.sqrt(total), rtol=1e-5
    )
    for path, entry in inputs.items():
        kernel = params[path.split("/")[0]]["kernel"]
        assert entry.num_axes == kernel.ndim
        np.broadcast_shapes(entry.norms.shape, kernel.shape)


@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_wanda_compares_within_each_output(model, sparsity):
    module, variables, x = model
    params = variables["params"]
    inputs = sparsify.linen_kernel_inputs(module, variables, [x])
    masks = sparsify.wanda_masks(params, inputs, sparsity)
    for path, entry in inputs.items():
        kernel = np.asarray(params[path.split("/")[0]]["kernel"])
        num_outputs = np.prod(kernel.shape[kernel.ndim - entry.num_output_axes :])
        norms = np.broadcast_to(entry.norms, kernel.shape).reshape(-1, num_outputs)
        expected = naive_wanda(kernel.reshape(-1, num_outputs), norms[:, 0], sparsity)
        np.testing.assert_array_equal(
            np.asarray(masks[path]).reshape(-1, num_outputs), expected
        )


def test_wanda_of_scanned_layers():
    x = jax.random.normal(jax.random.key(0), (6, 4))
    variables = Scanned().init(jax.random.key(1), x)
    inputs = sparsify.linen_kernel_inputs(Scanned(), variables, [x])
    (path,) = inputs
    masks = sparsify.wanda_masks(variables["params"], inputs, 0.5)
    kernels = np.asarray(variables["params"]["blocks"]["dense"]["kernel"])
    biases = np.asarray(variables["params"]["blocks"]["dense"]["bias"])
    hidden = np.asarray(x)
    for i in range(3):
        expected = naive_wanda(kernels[i], np.linalg.norm(hidden, axis=0), 0.5)
        np.testing.assert_array_equal(masks[path][i], expected)
        hidden = np.maximum(hidden @ kernels[i] + biases[i], 0)


def test_a_named_tuple_is_one_argument():
    class Pair(NamedTuple):
        left: jax.Array
        right: jax.Array

    class Model(nn.Module):
        @nn.compact
        def __call__(self, pair):
            return nn.Dense(2)(pair.left + pair.right)

    pair = Pair(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]]))
    variables = Model().init(jax.random.key(0), pair)
    inputs = sparsify.linen_kernel_inputs(Model(), variables, [pair])
    assert inputs["Dense_0/kernel"].norms.tolist() == [[3.0], [4.0]]


def test_masked_tokens_do_not_count():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 5, 3)).astype(np.float32)
    mask = rng.random((4, 5)) < 0.6
    variables = nn.Dense(2).init(jax.random.key(0), x)
    dirty = np.where(mask[..., None], x, 1e6).astype(np.float32)
    inputs = sparsify.linen_kernel_inputs(
        nn.Dense(2), variables, [dirty], mask_fn=lambda _: mask
    )
    np.testing.assert_allclose(
        inputs["kernel"].norms[:, 0], np.linalg.norm(x[mask], axis=0), rtol=1e-5
    )


def test_masked_weights_stay_zero_in_training():
    params = {"kernel": jnp.array([[1.0, -3.0], [-2.0, 0.5]]), "bias": jnp.ones(2)}
    masks = sparsify.magnitude_masks(params, 0.5)
    params = sparsify.apply_masks(params, masks)
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), sparsify.mask_updates(masks))
    state = optimizer.init(params)
    start = params
    for _ in range(3):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["kernel"][~masks["kernel"]], [0.0, 0.0])
    assert (params["kernel"] != start["kernel"])[masks["kernel"]].all()
    assert (params["bias"] != start["bias"]).all()
    assert sparsify.sparsity(params, masks) == pytest.approx(2 / 6)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 50, float("nan")])
def test_bad_sparsity(sparsity):
    with pytest.raises(ValueError, match=r"sparsity=.* is not in \[0, 1\)"):
        sparsify.magnitude_masks({"kernel": jnp.ones((2, 2))}, sparsity)
    with pytest.raises(ValueError, match=r"sparsity="):
        sparsify.wanda_masks({"kernel": jnp.ones((2, 2))}, {}, sparsity)


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="no parameter is selected"):
        sparsify.magnitude_masks({"bias": jnp.ones(2)}, 0.5)
    with pytest.raises(ValueError, match="inputs is empty"):
        sparsify.wanda_masks({"kernel": jnp.ones((2, 2))}, {}, 0.5)
    entry = sparsify.KernelInputs(jnp.ones((2, 1)), 1, 2)
    with pytest.raises(ValueError, match=r"\['other'\] are not among"):
        sparsify.wanda_masks({"kernel": jnp.ones((2, 2))}, {"other": entry}, 0.5)
    with pytest.raises(ValueError, match="no batches"):
        sparsify.linen_kernel_inputs(nn.Dense(2), {}, [])
