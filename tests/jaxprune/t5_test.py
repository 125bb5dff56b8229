import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import cost, plan, prunable, refit
from jaxprune.models import t5, text, weights
from tests.jaxprune import naive
from tests.jaxprune.relative_position_test import naive_bucket
from tests.jaxprune.transformer_laws import check_round_trip, initial

CONFIG = t5.T5Config(
    vocab_size=12,
    hidden_size=8,
    head_size=3,
    intermediate_size=10,
    num_encoder_layers=3,
    num_decoder_layers=3,
    num_heads=2,
    num_buckets=8,
    max_distance=5,
)
# Version 1.1.
GATED = dataclasses.replace(
    CONFIG, activation="gelu_new", gated=True, tied_head=False, scaled_head=False
)
BATCH, LABELS = text.pairs(
    [[3, 4, 5, 6, 7, 3, 9], [8, 9, 3]],
    [[5, 4, 1], [7, 11, 10, 8, 1]],
    start_id=0,
    lengths=(8, None),
    pad_id=2,
)


@pytest.fixture(scope="module")
def model():
    return t5.prunable_t5(CONFIG)


@pytest.fixture(scope="module")
def variables(model):
    return initial(model)


def naive_norm(p, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def naive_attention(p, x, source, bias, mask, config):
    """One query, one head, one key at a time."""
    query, key, value = (
        naive.dense(p["query"], x),
        naive.dense(p["key"], source),
        naive.dense(p["value"], source),
    )
    result = np.zeros_like(query)
    for head in range(config.num_heads):
        part = slice(head * config.head_size, (head + 1) * config.head_size)
        for i in range(len(x)):
            scores = np.array(
                [
                    query[i, part] @ key[j, part] + bias(i, j)[head]
                    for j in range(len(source))
                ]
            )
            shares = np.exp(scores - scores.max()) * [
                mask(i, j) for j in range(len(source))
            ]
            result[i, part] = shares / shares.sum() @ value[:, part]
    return naive.dense(p["output"], result)


def naive_mlp(p, x, config):
    y = naive.dense(p["hidden"], x)
    if not config.gated:
        return naive.dense(p["output"], np.maximum(y, 0))
    inner = np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)
    y = y * (1 + np.tanh(inner)) / 2 * naive.dense(p["gate"], x)
    return naive.dense(p["output"], y)


def naive_stack(p, depth, x, source, mask, source_mask, both_ways, config):
    """Block outputs of one example, and the normalised last one."""

    def bias(i, j):
        sizes = (config.num_buckets, config.max_distance)
        bucket = naive_bucket(j - i, *sizes, both_ways)
        return p["relative_bias"]["embedding"][bucket]

    outputs = []
    for index in range(depth):
        q = p[f"block_{index}"]
        y = naive_norm(q["self_attention_norm"], x)
        x = x + naive_attention(q["self_attention"], y, y, bias, mask, config)
        if source is not None:
            y = naive_norm(q["cross_attention_norm"], x)
            x = x + naive_attention(
                q["cross_attention"],
                y,
                source,
                lambda i, j: [0, 0],
                source_mask,
                config,
            )
        x = x + naive_mlp(q["mlp"], naive_norm(q["mlp_norm"], x), config)
        if "adapter" in q:
            x = naive.dense(q["adapter"], x)
        outputs.append(x)
    return outputs, naive_norm(p["norm"], x)


def naive_t5(variables, example, config):
    """Outputs of all blocks and logits of one example, in float64."""
    token_ids, mask, decoder_ids, decoder_mask = (np.asarray(part) for part in example)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    words = p["embedding"]["embedding"]
    encoder, source = naive_stack(
        p["encoder"],
        config.num_encoder_layers,
        words[token_ids],
        None,
        lambda i, j: mask[j],
        None,
        True,
        config,
    )
    decoder, x = naive_stack(
        p["decoder"],
        config.num_decoder_layers,
        words[decoder_ids],
        source,
        lambda i, j: decoder_mask[j] and j <= i,
        lambda i, j: mask[j],
        False,
        config,
    )
    if config.scaled_head:
        x = x / np.sqrt(config.hidden_size)
    head = words.T if config.tied_head else p["head"]["kernel"]
    return {"encoder": encoder, "decoder": decoder}, x @ head


@pytest.mark.parametrize(
    ("config", "scan"), [(CONFIG, False), (GATED, True)], ids=["listed", "scanned"]
)
def test_blocks_and_logits_match_a_naive_network(config, scan):
    listed = t5.prunable_t5(config)
    listed_variables = initial(listed)
    model, variables = listed, listed_variables
    if scan:
        model, variables = t5.prunable_t5(config, scan=True), t5.stack(variables)
        assert all(
            map(
                np.array_equal,
                jax.tree.leaves(t5.unstack(variables)),
                jax.tree.leaves(listed_variables),
            )
        )
    for name in t5.STACKS:
        logits, outputs = jax.jit(model.activations[name])(variables, BATCH)
        for row in range(2):
            example = [part[row] for part in BATCH]
            expected, expected_logits = naive_t5(listed_variables, example, config)
            assert len(outputs) == len(expected[name])
            for ours, theirs in zip(outputs, expected[name], strict=True):
                np.testing.assert_allclose(ours[row], theirs, rtol=2e-4, atol=2e-4)
            np.testing.assert_allclose(
                logits[row], expected_logits, rtol=5e-4, atol=5e-4
            )


def test_padding_changes_nothing(model, variables):
    apply = jax.jit(model.apply)
    short, _ = text.pairs([[3, 4, 5]], [[6, 7, 1]], start_id=0)
    padded, _ = text.pairs(
        [[3, 4, 5]], [[6, 7, 1]], start_id=0, lengths=(8, 5), pad_id=2
    )
    np.testing.assert_allclose(
        apply(variables, padded)[:, :3], apply(variables, short), rtol=1e-4, atol=1e-4
    )


def test_published_parameter_counts():
    """T5-base, and the counts of MPruner, whose 7/3 blocks are in truth 8/3."""
    base = t5.prunable_t5(t5.base_config())
    base_shapes = jax.eval_shape(base.init, jax.random.key(0))

    def parameters(*depths):
        model, shapes = base, base_shapes
        for stack, depth in zip(t5.STACKS, depths, strict=True):
            made = plan.make_plan(model.stack(stack), range(depth, 12))
            model, shapes = prunable.prune(model, shapes, made)
        return cost.count_parameters(shapes)

    assert parameters(12, 12) == 222_903_552
    assert parameters(9, 5) == 135_588_864
    assert parameters(8, 3) == 109_630_464
    assert parameters(7, 3) == 102_551_040
    small = jax.eval_shape(t5.prunable_t5(t5.small_config()).init, jax.random.key(0))
    assert cost.count_parameters(small) == 60_506_624


def with_zero_branches(variables, stack, block):
    """Variables whose block leaves what passes through it as it is."""

    def change(path, x):
        names = [key.key for key in path]
        zero = names[1:3] == [stack, block] and "output" in names
        return jnp.zeros_like(x) if zero else x

    return jax.tree.map_with_path(change, variables)


@pytest.mark.parametrize("stack", t5.STACKS)
def test_blocks_that_add_nothing_go_without_changing_a_bit(model, variables, stack):
    zeroed = with_zero_branches(variables, stack, "block_1")
    made = plan.make_plan(model.stack(stack), [1])
    smaller, pruned = prunable.prune(model, zeroed, made)
    assert smaller.structure.kept[stack] == (0, 2)
    np.testing.assert_array_equal(
        jax.jit(model.apply)(zeroed, BATCH), jax.jit(smaller.apply)(pruned, BATCH)
    )


def test_stacked_and_listed_variables_are_pruned_alike(model, variables):
    scanned = t5.prunable_t5(CONFIG, scan=True)
    made = plan.make_plan(model.stack("decoder"), [1, 2])
    smaller, pruned = prunable.prune(model, variables, made)
    _, stacked = prunable.prune(scanned, t5.stack(variables), made)
    again = t5.unstack(stacked)
    chex.assert_trees_all_equal(again, pruned)
    like = jax.eval_shape(smaller.init, jax.random.key(0))
    assert jax.tree.map(np.shape, pruned) == jax.tree.map(np.shape, like)


def test_first_blocks_stay(model):
    for name in t5.STACKS:
        with pytest.raises(ValueError, match=f"block 0: owns the relative .* {name}"):
            plan.make_plan(model.stack(name), [0, 1])


def test_attached_maps_take_effect(variables):
    config = dataclasses.replace(CONFIG, num_encoder_layers=3)
    model = t5.prunable_t5(config)
    structure = model.structure.with_adapters("encoder", [1])
    structure = structure.with_adapters("decoder", [0])
    adapted = model.build(structure)
    rng = np.random.default_rng(2)
    kernel, bias = rng.normal(size=(8, 8)), rng.normal(size=8)
    linear_map = prunable.LinearMap(jnp.float32(kernel), jnp.float32(bias))
    once = model.attach(variables, "encoder", {1: linear_map})
    once = adapted.attach(once, "decoder", {0: linear_map})
    once = adapted.attach(once, "decoder", {0: linear_map})  # composed
    smaller = t5.pruned_config(config, structure)
    expected, logits = naive_t5(once, [part[1] for part in BATCH], smaller)
    ours, outputs = jax.jit(adapted.activations["decoder"])(once, BATCH)
    np.testing.assert_allclose(
        outputs[-1][1], expected["decoder"][-1], rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(ours[1], logits, rtol=1e-3, atol=1e-3)
    tensors = weights.write(t5.weight_table(smaller), once)
    assert tensors["encoder.block.1.adapter.weight"].shape == (8, 8)
    with pytest.raises(ValueError, match=r"blocks \[1, 0\] end in linear maps"):
        t5.config_to_hf(smaller, {})


def test_initial_logits_and_blocks_are_of_moderate_size():
    config = t5.tiny_config(num_encoder_layers=1, num_decoder_layers=2)
    model = t5.prunable_t5(config)
    variables = jax.jit(model.init)(jax.random.key(0))
    logits, outputs = jax.jit(model.activations["decoder"])(variables, BATCH)
    assert 0.1 < np.std(logits) < 3
    assert all(0.3 < np.std(x) < 5 for x in outputs)


@pytest.mark.parametrize("config", [CONFIG, GATED], ids=["relu", "gated"])
def test_weights_survive_the_round_trip(config):
    variables = initial(t5.prunable_t5(config))
    tensors = check_round_trip(t5.weight_table(config), variables)
    assert len(tensors) == len(jax.tree.leaves(variables))


def test_copies_of_the_embedding_and_old_leftovers_are_read(variables):
    table = t5.weight_table(CONFIG)
    tensors = weights.write(table, variables)
    embedding = tensors.pop("shared.weight")
    tensors["encoder.embed_tokens.weight"] = embedding
    tensors["lm_head.weight"] = embedding.copy()
    old = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[old] = np.zeros((8, 2))
    again = weights.read(table, tensors, variables)
    np.testing.assert_array_equal(again["params"]["embedding"]["embedding"], embedding)
    tensors["lm_head.weight"] = 2 * embedding
    with pytest.raises(ValueError, match="should be equal and are not"):
        weights.read(table, tensors, variables)


def test_weights_of_another_depth_are_refused(variables):
    tensors = weights.write(t5.weight_table(CONFIG), variables)
    deeper = dataclasses.replace(CONFIG, num_decoder_layers=4)
    like = jax.eval_shape(t5.prunable_t5(deeper).init, jax.random.key(0))
    with pytest.raises(ValueError, match="do not fit") as error:
        weights.read(t5.weight_table(deeper), tensors, like)
    told = "decoder.block.N has depth 3 in the file and 4 in the model"
    assert told in str(error.value)
    assert "13 missing: decoder.block.3.layer.0.SelfAttention.k.w" in str(error.value)


HF_CONFIG = {
    "model_type": "t5",
    "vocab_size": 12,
    "d_model": 8,
    "d_kv": 3,
    "d_ff": 10,
    "num_layers": 3,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 5,
}


def test_configurations_are_read_and_written():
    assert t5.config_from_hf(HF_CONFIG) == CONFIG
    gated = {
        **HF_CONFIG,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_decoder_layers": None,
    }
    assert t5.config_from_hf(gated) == GATED
    # Since version 5, transformers writes that heads are tied, whatever they are.
    written = {**gated, "tie_word_embeddings": True, "scale_decoder_outputs": False}
    head = {"shared.weight": np.ones((12, 8)), "lm_head.weight": np.zeros((12, 8))}
    assert t5.config_from_hf(written, head) == GATED
    tied = t5.config_from_hf(written, {"shared.weight": head["shared.weight"]})
    assert tied == dataclasses.replace(GATED, tied_head=True)
    smaller = dataclasses.replace(CONFIG, num_encoder_layers=2, num_decoder_layers=1)
    again = t5.config_to_hf(smaller, {**HF_CONFIG, "dtype": "bfloat16", "n_x": 3})
    assert (again["num_layers"], again["num_decoder_layers"]) == (2, 1)
    assert (again["dtype"], again["n_x"]) == ("float32", 3)
    assert t5.config_from_hf(again) == smaller


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "bart"}, "model_type is 'bart', not 't5'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder is False"),
        ({"architectures": ["T5EncoderModel"]}, "architectures is"),
        ({"d_model": None}, "the configuration has no 'd_model'"),
        ({"feed_forward_proj": "gated-tanh"}, "activation='tanh' is none of"),
        ({"num_layers": 0}, "num_layers=0, not a whole number above 0"),
        ({"relative_attention_max_distance": 2}, "max_distance=2 must be above"),
        ({"eos_token_id": [1, 2]}, r"eos_token_id is \[1, 2\]"),
        ({"pad_token_id": 100}, "pad_id=100 is not a token of vocab_size=12"),
    ],
)
def test_configurations_that_are_not_supported_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        t5.config_from_hf({**HF_CONFIG, **changes})


@pytest.mark.parametrize("stack", t5.STACKS)
def test_blocks_run_one_by_one_as_in_the_network(model, variables, stack):
    """What `jaxprune.refit` is told of the blocks."""
    hook = model.refit[stack]
    _, expected = jax.jit(model.activations[stack])(variables, BATCH)
    masks = {"encoder": text.token_mask, "decoder": text.decoder_token_mask}
    carry = jax.jit(hook.enter)(variables, BATCH)
    for index, block in enumerate(hook.blocks):
        of_block = {"params": variables["params"][stack][f"block_{index}"]}
        observe = jax.jit(block.operation.observe, static_argnums=2)
        seen = observe(of_block, carry, 100)
        kernel = block.operation.read(of_block).kernel
        carry = jax.jit(block.forward)(of_block, carry)
        output = np.asarray(block.output(carry))
        np.testing.assert_allclose(output, expected[index], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.total, output.reshape(-1, 8), atol=1e-4)
        assert seen.features.shape == (len(seen.total), len(kernel))
        assert seen.counted.tolist() == masks[stack](BATCH).reshape(-1).tolist()


def test_a_refit_block_stands_for_a_removed_one(model, variables):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(2, 12, rng.integers(3, 9)).tolist() for _ in range(64)]
    batch, _ = text.pairs(sequences, sequences, start_id=0, lengths=(8, 8))
    made = plan.make_plan(model.stack("decoder"), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    arguments = (model, variables, smaller, pruned, made, [batch])
    healed, fresh, _ = refit.refit(*arguments, positions=8)
    assert jax.tree.map(np.shape, fresh) == jax.tree.map(np.shape, pruned)
    counted = text.decoder_token_mask(batch)

    def last(model, variables):
        return jax.jit(model.activations["decoder"])(variables, batch)[1][-1][counted]

    wanted = last(model, variables)
    before = np.mean(np.square(last(smaller, pruned) - wanted))
    after = np.mean(np.square(last(healed, fresh) - wanted))
    assert after < before / 2
