import dataclasses

import jax
import numpy as np
import pytest

from jaxprune import cost, prunable
from jaxprune.models import blocks, decoder, generation, rotary, weights
from jaxprune.models.text import Text, pad
from tests.jaxprune import naive, transformer_laws

CONFIG = decoder.DecoderConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    intermediate_size=12,
    max_positions=12,
)
# Everything that can be switched on.
OTHER = dataclasses.replace(
    CONFIG,
    activation="gelu_pytorch_tanh",
    tie_embeddings=True,
    qkv_bias=True,
    output_bias=True,
    mlp_bias=True,
    num_layers=2,
    qk_norm=True,
    norm_offset=True,
    scale_embeddings=True,
    rope=rotary.Rotary(50.0, 4.0, (1.0, 3.0, 20)),
)
TEXT = pad([[3, 4, 5, 6, 7], [8, 9, 3]], 6)
STACK = decoder.STACK


@pytest.fixture(scope="module")
def model():
    return decoder.prunable_decoder(CONFIG)


@pytest.fixture(scope="module")
def variables(model):
    return transformer_laws.initial(model)


@pytest.fixture(scope="module")
def run(model):
    """Output and block outputs, compiled once."""
    return jax.jit(model.activations[STACK])


def naive_rotate(x, position, config):
    """Turns one head as a complex number, pair by pair."""
    rope, half = config.rope, len(x) // 2
    turned = np.zeros_like(x)
    for pair in range(half):
        fast = rope.theta ** (-2 * pair / len(x))
        angle = fast / rope.factor
        if rope.band is not None:
            low, high, context = rope.band
            turns = context * fast / (2 * np.pi)
            if turns >= high:
                angle = fast
            elif turns > low:
                share = (turns - low) / (high - low)
                angle = (1 - share) * angle + share * fast
        z = (x[pair] + 1j * x[pair + half]) * np.exp(1j * angle * position)
        turned[pair], turned[pair + half] = z.real, z.imag
    return turned


def naive_decoder(params, token_ids, config):
    """Block outputs and logits for one text without padding, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(q, x):
        scale = 1 + q["offset"] if config.norm_offset else q["scale"]
        mean_square = (x * x).mean(-1, keepdims=True)
        return x / np.sqrt(mean_square + config.norm_epsilon) * scale

    def activation(x):
        if config.activation == "silu":
            return x / (1 + np.exp(-x))
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2

    def attention(q, x):
        size, shared = config.head_dim, config.num_heads // config.num_kv_heads
        query, key, value = (
            naive.dense(q[name], x).reshape(len(x), -1, size)
            for name in ("query", "key", "value")
        )
        if config.qk_norm:
            query, key = norm(q["query_norm"], query), norm(q["key_norm"], key)
        rows = []
        for i in range(len(x)):
            heads = []
            for head in range(config.num_heads):
                own = naive_rotate(query[i, head], i, config)
                scores = [
                    np.exp(own @ naive_rotate(key[j, head // shared], j, config) / 2)
                    for j in range(i + 1)
                ]
                shares = np.array(scores) / np.sum(scores)
                heads.append(shares @ value[: i + 1, head // shared])
            rows.append(np.concatenate(heads))
        return naive.dense(q["output"], np.array(rows))

    x = p["embeddings"]["embedding"][token_ids]
    if config.scale_embeddings:
        x = x * np.sqrt(config.hidden_size)
    outputs = []
    for index in range(config.num_layers):
        q = p[f"block_{index}"]
        x = x + attention(q["attention"], norm(q["attention_norm"], x))
        y = norm(q["mlp_norm"], x)
        y = activation(naive.dense(q["gate"], y)) * naive.dense(q["up"], y)
        x = x + naive.dense(q["down"], y)
        outputs.append(x)
    x = norm(p["norm"], x)
    if config.tie_embeddings:
        return outputs, x @ p["embeddings"]["embedding"].T
    return outputs, naive.dense(p["head"], x)


def check_against_naive(config, run, variables):
    texts = [[3, 4, 5, 6, 7], [8, 9, 3]]
    expected = [naive_decoder(variables["params"], ids, config) for ids in texts]
    for left in (False, True):
        batch = pad(texts, 6, left=left, pad_id=11)
        logits, outputs = run(variables, batch)
        for row, (hidden, last) in enumerate(expected):
            real = batch.mask[row] > 0
            for ours, theirs in zip(outputs, hidden, strict=True):
                np.testing.assert_allclose(ours[row][real], theirs, 1e-3, 1e-3)
            np.testing.assert_allclose(logits[row][real], last, 1e-3, 1e-3)


def test_blocks_and_logits_match_a_naive_network(run, variables):
    check_against_naive(CONFIG, run, variables)


def test_every_option_matches_a_naive_network():
    model = decoder.prunable_decoder(OTHER)
    variables = transformer_laws.initial(model)
    check_against_naive(OTHER, jax.jit(model.activations[STACK]), variables)


@pytest.mark.parametrize(("scan", "left"), [(False, True), (True, False)])
def test_greedy_continuation_is_that_of_whole_passes(variables, scan, left):
    texts = [[3, 4, 5, 6, 7], [8, 9, 3]]
    module = decoder.Decoder(CONFIG, scan)
    batch = pad(texts, left=left)
    generate = jax.jit(
        generation.greedy, static_argnums=(0, 3), static_argnames="end_ids"
    )
    given = blocks.stack(variables) if scan else variables
    tokens = np.asarray(generate(module, given, batch, 6))
    for row, token_ids in enumerate(texts):
        whole = list(token_ids)
        for _ in range(6):
            _, logits = naive_decoder(variables["params"], whole, CONFIG)
            whole.append(int(np.argmax(logits[-1])))
        assert tokens[row].tolist() == whole[len(token_ids) :]
    if scan:
        end = tokens[0][2].item()
        ended = np.asarray(generate(module, given, batch, 6, end_ids=(end,)))
        first = tokens[0].tolist().index(end)
        assert ended[0].tolist() == tokens[0][: first + 1].tolist() + [0] * (5 - first)


def test_published_parameter_counts():
    for config, expected in [(TINYLLAMA, 1_100_048_384), (QWEN3, 596_049_920)]:
        model = decoder.prunable_decoder(decoder.config_from_hf(config), scan=True)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        assert cost.count_parameters(shapes) == expected


def test_a_zero_residual_branch_can_go_without_changing_a_bit(model, variables):
    branches = [("attention", "output"), ("down",)]
    transformer_laws.check_zero_block_can_go(model, variables, TEXT, branches)


def test_scanned_blocks_are_the_listed_ones(model, variables):
    scanned = decoder.prunable_decoder(CONFIG, scan=True)
    transformer_laws.check_scanned_blocks(
        model, scanned, variables, TEXT, removed=[1], rtol=1e-4
    )


@pytest.mark.parametrize("config", [CONFIG, OTHER])
def test_weights_survive_the_round_trip(config):
    config = dataclasses.replace(config, adapters=(1,))
    like = jax.eval_shape(decoder.Decoder(config).init, jax.random.key(0), TEXT)
    table = decoder.weight_table(config)
    tensors = transformer_laws.check_round_trip(table, naive.randomized(like))
    assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (8, 8)
    assert ("lm_head.weight" in tensors) is not config.tie_embeddings


def test_untied_heads_are_not_taken_for_tied_ones(variables):
    tied = dataclasses.replace(CONFIG, tie_embeddings=True)
    like = jax.eval_shape(decoder.Decoder(tied).init, jax.random.key(0), TEXT)
    tensors = weights.write(decoder.weight_table(CONFIG), variables)
    message = r"should be equal and are not: model.embed_tokens.weight and lm_head.w"
    with pytest.raises(ValueError, match=message):
        weights.read(decoder.weight_table(tied), tensors, like)
    del tensors["lm_head.weight"]
    with pytest.raises(ValueError, match=r"1 missing: lm_head\.weight"):
        weights.read(decoder.weight_table(CONFIG), tensors, variables)


TINYLLAMA = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN3 = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "layer_types": ["full_attention"] * 28,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def test_configurations_in_and_out():
    llama = decoder.config_from_hf(TINYLLAMA)
    assert (llama.head_dim, llama.norm_epsilon, llama.qk_norm) == (64, 1e-5, False)
    assert llama.rope == rotary.Rotary(10000.0)
    smaller = decoder.pruned_config(llama, prunable.Structure({STACK: (0, 2)}))
    written = decoder.config_to_hf(smaller, TINYLLAMA)
    assert written == TINYLLAMA | {"num_hidden_layers": 2, "torch_dtype": "float32"}
    qwen = decoder.config_from_hf(QWEN3)
    assert (qwen.qk_norm, qwen.qkv_bias, qwen.tie_embeddings) == (True, False, True)
    smaller = decoder.pruned_config(qwen, prunable.Structure({STACK: (0, 2, 5)}))
    assert len(decoder.config_to_hf(smaller, QWEN3)["layer_types"]) == 3
    scaled = decoder.config_from_hf(TINYLLAMA | {"rope_scaling": LLAMA3})
    assert scaled.rope == rotary.Rotary(10000.0, 32.0, (1.0, 4.0, 8192))
    newer = {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}}
    assert decoder.config_from_hf(TINYLLAMA | newer).rope.theta == 500000.0
    gemma = TINYLLAMA | {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"}
    del gemma["tie_word_embeddings"]
    config = decoder.config_from_hf(gemma)
    assert (config.head_dim, config.norm_offset, config.tie_embeddings) == (256, 1, 1)
    windowed = TINYLLAMA | {"model_type": "mistral", "sliding_window": 512}
    assert decoder.config_from_hf(windowed).max_positions == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma3"}, "model_type is 'gemma3', not 'llama' or 'mistral'"),
        ({"hidden_act": "selu"}, "hidden_act is 'selu'"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            r"layer_types is \['full_attention', 'sliding_attention'\], not \[\]",
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "no 'factor'"),
        ({"num_key_value_heads": 5}, "num_heads=32 a multiple of num_kv_heads=5"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
    ],
)
def test_configurations_that_are_not_supported(change, message):
    with pytest.raises(ValueError, match=message):
        decoder.config_from_hf(TINYLLAMA | change)


def test_text_that_is_too_long_is_refused(model, variables):
    with pytest.raises(ValueError, match=r"13 tokens are more than .*max_positions=12"):
        jax.eval_shape(model.apply, variables, Text(*np.ones((2, 1, 13), np.int32)))
    with pytest.raises(ValueError, match="13 tokens are more"):
        generation.greedy(decoder.Decoder(CONFIG), variables, TEXT, 7)
