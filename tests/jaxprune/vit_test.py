import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxprune import cost, prunable
from jaxprune.models import vit, weights
from tests.jaxprune import naive, transformer_laws

CONFIG = vit.ViTConfig(
    image_shape=(4, 6, 2),
    patch_size=2,
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    intermediate_size=12,
    num_classes=3,
)
STACK = vit.STACK
IMAGES = np.random.default_rng(1).normal(size=(2, 4, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return vit.prunable_vit(CONFIG)


@pytest.fixture(scope="module")
def variables(model):
    return transformer_laws.initial(model)


@pytest.fixture(scope="module")
def run(model):
    """Output and block outputs, compiled once."""
    return jax.jit(model.activations[STACK])


def naive_vit(params, image, config):
    """Block outputs and logits of one image, from the paper, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    size = config.patch_size
    height, width, _ = image.shape
    tokens = [p["class_token"][0, 0]]
    for i in range(0, height, size):
        for j in range(0, width, size):
            patch = image[i : i + size, j : j + size].astype(np.float64)
            kernel = p["patches"]["kernel"]
            tokens.append(
                np.einsum("abc,abcd->d", patch, kernel) + p["patches"]["bias"]
            )
    x = np.array(tokens) + p["position_embeddings"][0]
    outputs = []
    for index in range(config.num_layers):
        q = p[f"block_{index}"]
        y = naive.norm(q["attention_norm"], x)
        x = x + naive.attention(q["attention"], y, np.ones(len(x)), config.num_heads)
        y = naive.norm(q["mlp_norm"], x)
        y = naive.gelu(naive.dense(q["mlp"]["hidden"], y))
        x = x + naive.dense(q["mlp"]["output"], y)
        outputs.append(x)
    return outputs, naive.dense(p["classifier"], naive.norm(p["norm"], x[0]))


def test_blocks_and_logits_match_a_naive_network(run, variables):
    logits, outputs = run(variables, IMAGES)
    for row, image in enumerate(IMAGES):
        expected, last = naive_vit(variables["params"], image, CONFIG)
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(ours[row], theirs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits[row], last, rtol=1e-4, atol=1e-4)


def test_published_parameter_count():
    model = vit.prunable_vit(vit.base_config())
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert cost.count_parameters(shapes) == 86_567_656


def test_a_zero_residual_branch_can_go_without_changing_a_bit(model, variables):
    branches = [(part, "output") for part in ("attention", "mlp")]
    transformer_laws.check_zero_block_can_go(model, variables, IMAGES, branches)


def test_scanned_blocks_are_the_listed_ones(model, variables):
    scanned = vit.prunable_vit(CONFIG, scan=True)
    transformer_laws.check_scanned_blocks(
        model, scanned, variables, IMAGES, removed=[1]
    )


def test_attached_maps_take_effect(model, run, variables):
    structure = model.structure.with_adapters(STACK, [1])
    adapted = model.build(structure)
    rng = np.random.default_rng(2)
    kernel, bias = np.float32(rng.normal(size=(8, 8))), np.float32(rng.normal(size=8))
    once = model.attach(variables, STACK, {1: prunable.LinearMap(kernel, bias)})
    before = np.asarray(run(variables, IMAGES)[1][1])
    after = jax.jit(adapted.activations[STACK])(once, IMAGES)[1][1]
    np.testing.assert_allclose(after, before @ kernel + bias, rtol=1e-3, atol=1e-4)
    table = vit.weight_table(vit.pruned_config(CONFIG, structure))
    transformer_laws.check_round_trip(table, once)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_weights_survive_the_round_trip(qkv_bias):
    config = dataclasses.replace(CONFIG, qkv_bias=qkv_bias)
    tensors = transformer_laws.check_round_trip(
        vit.weight_table(config), transformer_laws.initial(vit.prunable_vit(config))
    )
    patches = tensors["vit.embeddings.patch_embeddings.projection.weight"]
    assert patches.shape == (8, 2, 2, 2)


def test_a_fresh_head_on_a_file_without_one(variables):
    table = vit.weight_table(CONFIG)
    tensors = {
        name.removeprefix("vit."): tensor
        for name, tensor in weights.write(table, variables).items()
        if not name.startswith("classifier")
    }
    tensors["pooler.dense.bias"] = np.zeros(8)
    with pytest.raises(ValueError, match="2 missing: classifier"):
        weights.read(table, tensors, variables)
    read = weights.read(table, tensors, variables, new=vit.head_variables(variables))
    chex.assert_trees_all_equal(read, variables)


HF = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "image_size": [4, 6],
    "patch_size": 2,
    "num_channels": 2,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "custom": 1,
}


def test_configurations_in_and_out():
    assert vit.config_from_hf(HF) == CONFIG
    smaller = vit.pruned_config(CONFIG, prunable.Structure({STACK: (0, 2)}))
    assert vit.config_to_hf(smaller, HF) == HF | {"num_hidden_layers": 2}
    more = vit.config_to_hf(vit.config_from_hf(HF, num_classes=7), HF)
    assert vit.config_from_hf(more).num_classes == 7


def test_what_does_not_fit_is_refused(model, variables):
    with pytest.raises(ValueError, match="model_type is 'deit', not 'vit'"):
        vit.config_from_hf(HF | {"model_type": "deit"})
    with pytest.raises(ValueError, match="patch_size=4 must divide height and width"):
        vit.config_from_hf(HF | {"patch_size": 4})
    with pytest.raises(ValueError, match=r"images are \(6, 4, 2\), not image_shape"):
        jax.eval_shape(model.apply, variables, IMAGES.transpose(0, 2, 1, 3))
