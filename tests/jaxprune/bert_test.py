import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import cost, plan, prunable
from jaxprune.models import bert, blocks, weights
from jaxprune.models.text import Text, pad
from tests.jaxprune import naive, transformer_laws

CONFIG = bert.BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    intermediate_size=12,
    max_positions=6,
    num_labels=3,
)
TYPES = np.array([[0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1]], np.int32)
TEXT = pad([[3, 4, 5, 6, 7], [8, 9, 3]], 6)._replace(token_type_ids=TYPES)
STACK = bert.STACK


@pytest.fixture(scope="module")
def model():
    return bert.prunable_bert(CONFIG)


@pytest.fixture(scope="module")
def variables(model):
    return transformer_laws.initial(model)


@pytest.fixture(scope="module")
def run(model):
    """Output and block outputs, compiled once."""
    return jax.jit(model.activations[STACK])


def naive_blocks(params, token_ids, mask, types, config):
    """Block outputs for one sentence, from the paper's description, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = p["word_embeddings"]["embedding"][token_ids]
    x = x + p["position_embeddings"]["embedding"][: len(x)]
    x = x + p["type_embeddings"]["embedding"][types]
    x = naive.norm(p["embeddings_norm"], x)
    outputs = []
    for index in range(config.num_layers):
        q = p[f"block_{index}"]
        y = naive.attention(q["attention"], x, mask, config.num_heads)
        x = naive.norm(q["attention_norm"], x + y)
        y = naive.dense(
            q["mlp"]["output"], naive.gelu(naive.dense(q["mlp"]["hidden"], x))
        )
        x = naive.norm(q["mlp_norm"], x + y)
        outputs.append(x)
    return outputs


def test_blocks_and_logits_match_a_naive_network(run, variables):
    logits, outputs = run(variables, TEXT)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    for row in range(2):
        example = [np.asarray(part[row]) for part in TEXT]
        expected = naive_blocks(p, *example, CONFIG)
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(ours[row], theirs, rtol=1e-4, atol=1e-4)
        pooled = np.tanh(naive.dense(p["pooler"], expected[-1][0]))
        np.testing.assert_allclose(
            logits[row], naive.dense(p["classifier"], pooled), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("head", bert.Head)
def test_padding_changes_nothing(head):
    config = dataclasses.replace(CONFIG, num_layers=1, head=head)
    model = bert.prunable_bert(config)
    variables = transformer_laws.initial(model)
    words, apply = [[3, 4, 5], [3, 4, 5, 11]], jax.jit(model.apply)
    first = apply(variables, pad(words, 6, pad_id=0))
    second = apply(variables, pad(words, 6, pad_id=9))
    keep = slice(3) if head is bert.Head.MASKED_LM else slice(None)
    np.testing.assert_array_equal(first[0][keep], second[0][keep])
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_heads_return_what_they_say():
    shapes = {}
    for head in bert.Head:
        model = bert.prunable_bert(dataclasses.replace(CONFIG, head=head))
        variables = jax.eval_shape(model.init, jax.random.key(0))
        shapes[head] = jax.eval_shape(model.apply, variables, TEXT).shape
    assert shapes == {
        bert.Head.CLASSIFICATION: (2, 3),
        bert.Head.EMBEDDING: (2, 8),
        bert.Head.MASKED_LM: (2, 6, 20),
    }


def test_embeddings_are_the_mean_over_tokens():
    config = dataclasses.replace(CONFIG, num_layers=1, head=bert.Head.EMBEDDING)
    model = bert.prunable_bert(config)
    variables = transformer_laws.initial(model)
    pooled, outputs = jax.jit(model.activations[STACK])(variables, TEXT)
    np.testing.assert_allclose(pooled[0], outputs[-1][0, :5].mean(0), rtol=1e-5)
    np.testing.assert_allclose(pooled[1], outputs[-1][1, :3].mean(0), rtol=1e-5)


def test_published_parameter_counts():
    """BERT-base, and the counts of the MPruner paper with a head of six classes."""
    config = bert.base_config()

    def millions(config, **kept):
        model = bert.prunable_bert(config, scan=True, **kept)
        return (
            cost.count_parameters(jax.eval_shape(model.init, jax.random.key(0))) / 1e6
        )

    assert millions(config) == 109.483778
    six = bert.base_config(num_labels=6)
    for depth, expected in [(10, 95.31111), (8, 81.135366), (6, 66.959622)]:
        structure = prunable.Structure({STACK: tuple(range(depth))})
        assert millions(six, structure=structure) == expected
    assert millions(bert.minilm_config()) == 22.565376  # without a pooler


def test_pruning_removes_blocks_and_no_more(model, variables):
    made = plan.make_plan(model.stack(STACK), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    expected = naive_blocks(
        pruned["params"],
        TEXT.token_ids[0],
        TEXT.mask[0],
        TYPES[0],
        dataclasses.replace(CONFIG, num_layers=2),
    )
    _, outputs = jax.jit(smaller.activations[STACK])(pruned, TEXT)
    np.testing.assert_allclose(outputs[-1][0], expected[-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        pruned["params"]["block_1"]["mlp"]["hidden"]["kernel"],
        variables["params"]["block_2"]["mlp"]["hidden"]["kernel"],
    )


def test_scanned_blocks_are_the_listed_ones(model, variables):
    scanned = bert.prunable_bert(CONFIG, scan=True)
    transformer_laws.check_scanned_blocks(
        model, scanned, variables, TEXT, removed=[0, 2]
    )


def test_scanned_blocks_hold_no_linear_maps(model, variables):
    structure = model.structure.with_adapters(STACK, [1])
    scanned = bert.prunable_bert(CONFIG, structure, scan=True)
    assert scanned.attach is None
    with pytest.raises(ValueError, match="cannot hold linear maps"):
        jax.eval_shape(scanned.init, jax.random.key(0))
    linear_map = prunable.LinearMap(jnp.eye(8), jnp.zeros(8))
    adapted = model.attach(variables, STACK, {1: linear_map})
    with pytest.raises(ValueError, match=r"cannot hold the linear maps at \[1\]"):
        blocks.stack(adapted)


def test_attached_maps_take_effect_and_compose(model, run, variables):
    adapted = model.build(model.structure.with_adapters(STACK, [1]))
    rng = np.random.default_rng(2)
    first, second = (
        prunable.LinearMap(
            np.float32(rng.normal(size=(8, 8))), np.float32(rng.normal(size=8))
        )
        for _ in range(2)
    )
    adapted_run = jax.jit(adapted.activations[STACK])
    before = np.asarray(run(variables, TEXT)[1][1])
    once = model.attach(variables, STACK, {1: first})
    expected = before @ first.kernel + first.bias
    after = adapted_run(once, TEXT)[1][1]
    np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-4)
    twice = adapted.attach(once, STACK, {1: second})
    expected = expected @ second.kernel + second.bias
    after = adapted_run(twice, TEXT)[1][1]
    np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-3)
    config = bert.pruned_config(CONFIG, adapted.structure)
    tensors = weights.write(bert.weight_table(config), twice)
    assert tensors["bert.encoder.layer.1.adapter.weight"].shape == (8, 8)
    with pytest.raises(ValueError, match=r"blocks \[1\] end in linear maps"):
        bert.config_to_hf(config, {})


@pytest.mark.parametrize("head", bert.Head)
def test_weights_survive_the_round_trip(head):
    config = dataclasses.replace(CONFIG, head=head)
    variables = transformer_laws.initial(bert.prunable_bert(config))
    tensors = transformer_laws.check_round_trip(bert.weight_table(config), variables)
    prefix = "" if head is bert.Head.EMBEDDING else "bert."
    assert tensors[f"{prefix}encoder.layer.2.intermediate.dense.weight"].shape == (
        12,
        8,
    )


def test_another_head_can_be_put_on_the_same_encoder():
    """From a file of embeddings, without a prefix and in old spellings."""
    bare = dataclasses.replace(CONFIG, head=bert.Head.EMBEDDING)
    like = jax.eval_shape(bert.prunable_bert(bare).init, jax.random.key(0))
    tensors = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x
        for name, x in weights.write(
            bert.weight_table(bare), naive.randomized(like)
        ).items()
    }
    tensors["pooler.dense.weight"] = np.eye(8, dtype=np.float32)
    tensors["pooler.dense.bias"] = np.ones(8, np.float32)
    tensors["embeddings.position_ids"] = np.arange(6)[None]
    weights.read(bert.weight_table(bare), tensors, like)

    table = bert.weight_table(CONFIG)
    like = jax.eval_shape(bert.prunable_bert(CONFIG).init, jax.random.key(0))
    fresh = naive.randomized(like, seed=1)
    with pytest.raises(ValueError, match=r"2 missing: classifier\.bias, classifier"):
        weights.read(table, tensors, fresh)
    read = weights.read(table, tensors, fresh, new=bert.head_variables(fresh))
    np.testing.assert_array_equal(read["params"]["pooler"]["bias"], 1)
    np.testing.assert_array_equal(
        read["params"]["classifier"]["kernel"], fresh["params"]["classifier"]["kernel"]
    )
    np.testing.assert_array_equal(
        read["params"]["block_1"]["mlp_norm"]["scale"],
        tensors["encoder.layer.1.output.LayerNorm.gamma"],
    )


def test_weights_of_another_depth_are_refused(variables):
    deeper = dataclasses.replace(CONFIG, num_layers=4)
    like = jax.eval_shape(bert.prunable_bert(deeper).init, jax.random.key(0))
    tensors = weights.write(bert.weight_table(CONFIG), variables)
    with pytest.raises(ValueError, match="has depth 3 in the file and 4 in the model"):
        weights.read(bert.weight_table(deeper), tensors, like)


HF = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 6,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "torch_dtype": "bfloat16",
    "custom": {"kept": True},
}


def test_configurations_in_and_out():
    assert bert.config_from_hf(HF) == CONFIG
    smaller = bert.pruned_config(CONFIG, prunable.Structure({STACK: (0, 2)}))
    written = bert.config_to_hf(smaller, HF)
    assert written == HF | {"num_hidden_layers": 2, "torch_dtype": "float32"}
    assert bert.config_from_hf(written) == smaller
    headed = bert.config_from_hf(HF, head=bert.Head.EMBEDDING)
    assert bert.config_to_hf(headed, HF)["architectures"] == ["BertModel"]
    more = bert.config_to_hf(bert.config_from_hf(HF, num_labels=5), HF)
    assert len(more["id2label"]) == 5
    assert bert.config_from_hf(more).num_labels == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', not 'bert'"),
        ({"is_decoder": True}, "is_decoder is True, not False"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is"),
        ({"hidden_act": "selu"}, "hidden_act is 'selu', not 'gelu' or"),
        ({"architectures": ["BertForTokenClassification"]}, "no head for architecture"),
        ({"vocab_size": None}, "the configuration has no 'vocab_size'"),
        (
            {"num_attention_heads": 3},
            "hidden_size=8 a positive multiple of num_heads=3",
        ),
    ],
)
def test_configurations_that_are_not_supported(change, message):
    with pytest.raises(ValueError, match=message):
        bert.config_from_hf(HF | change)


def test_text_that_is_too_long_is_refused(model, variables):
    with pytest.raises(ValueError, match=r"7 tokens are more than .*max_positions=6"):
        jax.eval_shape(model.apply, variables, Text(*np.ones((2, 1, 7), np.int32)))
