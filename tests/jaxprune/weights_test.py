"""Files that say the same in other words are read; all others are refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import checkpoints
from jaxprune.models import weights

PATH = ("params", "head", "kernel")
NORM = [
    weights.Entry("layer.0.weight", ("params", "block_0", "scale"), weights.VECTOR),
    weights.Entry("layer.1.weight", ("params", "block_1", "scale"), weights.VECTOR),
]
TABLE = [
    *weights.prefixed("bert.", NORM),
    weights.Entry("head.weight", PATH, weights.DENSE, aliases=("tied.weight",)),
    *weights.unused("cls.*"),
]
LIKE = {
    "params": {
        "block_0": {"scale": jnp.zeros(2)},
        "block_1": {"scale": jnp.zeros(2)},
        "head": {"kernel": jnp.zeros((2, 3))},
    }
}
KERNEL = np.arange(6, dtype=np.float32).reshape(3, 2)  # as a file has it: [out, in]


def tensors(prefix="bert.", head="head.weight"):
    return {
        f"{prefix}layer.0.weight": np.ones(2, np.float32),
        f"{prefix}layer.1.weight": np.full(2, 2, np.float32),
        head: KERNEL,
    }


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("head", ["head.weight", "tied.weight"])
def test_prefixes_and_further_names(prefix, head):
    variables = weights.read(TABLE, tensors(prefix, head), LIKE)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], KERNEL.T)
    np.testing.assert_array_equal(variables["params"]["block_1"]["scale"], [2, 2])
    written = weights.write(TABLE, variables)
    assert set(written) == set(tensors())
    np.testing.assert_array_equal(written["head.weight"], KERNEL)


def test_tensors_of_other_heads_are_passed_over():
    extra = {"cls.predictions.bias": np.full(3, np.nan)}
    weights.read(TABLE, tensors() | extra, LIKE)
    with pytest.raises(ValueError, match=r"1 unexpected: clss.bias"):
        weights.read(TABLE, tensors() | {"clss.bias": np.zeros(3)}, LIKE)


def test_copies_of_a_tied_tensor_must_be_equal():
    weights.read(TABLE, tensors() | {"tied.weight": KERNEL}, LIKE)
    message = "1 that should be equal and are not: head.weight and tied.weight"
    with pytest.raises(ValueError, match=message):
        weights.read(TABLE, tensors() | {"tied.weight": KERNEL + 1}, LIKE)


def test_another_depth_is_named():
    deeper = tensors() | {"bert.layer.2.weight": np.ones(2, np.float32)}
    message = "bert.layer.N has depth 3 in the file and 2 in the model"
    with pytest.raises(ValueError, match=message):
        weights.read(TABLE, deeper, LIKE)
    shallower = tensors(prefix="")
    del shallower["layer.1.weight"]
    with pytest.raises(ValueError, match=r"^[^;]*: layer.N has depth 1 in the file"):
        weights.read(TABLE, shallower, LIKE)


def test_a_new_part_stands_in_only_where_the_file_has_none():
    new = {"params": {"head": {"kernel": jnp.full((2, 3), 7.0)}}}
    variables = weights.read(TABLE, tensors(), LIKE, new=new)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], KERNEL.T)
    headless = tensors()
    del headless["head.weight"]
    with pytest.raises(ValueError, match=r"1 missing: head.weight"):
        weights.read(TABLE, headless, LIKE)
    variables = weights.read(TABLE, headless, LIKE, new=new)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], 7)


def test_half_a_layer_is_not_made_up():
    table = weights.dense("head", "head")
    like = {"params": {"head": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
    with pytest.raises(ValueError, match=r"1 missing: head\.bias"):
        weights.read(table, {"head.weight": KERNEL}, like, new=like)
    assert weights.read(table, {}, like, new=like)["params"]["head"]["bias"].sum() == 0


def test_a_table_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"does not describe .*params/head/kernel"):
        weights.write(TABLE[:2], LIKE)


@pytest.mark.peer
def test_half_precision_as_torch_writes_it(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    half = {
        name: torch.from_numpy(array).to(torch.bfloat16 if "0" in name else torch.half)
        for name, array in tensors().items()
    }
    safetensors.save_file(half, tmp_path / "model.safetensors")
    read = checkpoints.load_safetensors(tmp_path)
    variables = weights.read(TABLE, read, LIKE)
    assert variables["params"]["block_0"]["scale"].dtype == jnp.float32
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], KERNEL.T)
    np.testing.assert_array_equal(variables["params"]["block_0"]["scale"], 1)
