"""T5 agrees with that of Hugging Face, block by block, and goes back."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxprune import plan, prunable
from jaxprune.models import (
    beam_search,
    huggingface,
    t5,
    t5_decoding,
    t5_network,
    text,
    weights,
)
from tests.jaxprune import conformance_test as conformance

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TOLERANCE = conformance.TOLERANCE

SMALL = {
    "vocab_size": 30,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    # With the decoder the deeper one, transformers 5 runs out of its cache.
    "num_layers": 4,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
    "initializer_factor": 0.5,
}
GATED = {**SMALL, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def reference_t5(config):
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**config))
    return conformance.randomize(model, 0.5)


def with_own_head(directory, config, tensors):
    """Writes a checkpoint of version 1.1, as transformers wrote them before 5."""
    own = np.random.default_rng(5).normal(size=tensors["shared.weight"].shape)
    tensors = {**tensors, "lm_head.weight": own.astype(np.float32)}
    config = {**config, "tie_word_embeddings": False}
    del config["scale_decoder_outputs"]
    huggingface.write_directory(directory, config, tensors)
    reference = transformers.T5ForConditionalGeneration.from_pretrained(directory)
    assert not np.array_equal(
        reference.lm_head.weight.detach(), reference.shared.weight
    )
    return reference.eval(), config, tensors


def read(config, tensors):
    config = t5.config_from_hf(config, tensors)
    like = jax.eval_shape(t5.prunable_t5(config).init, jax.random.key(0))
    return config, weights.read(t5.weight_table(config), tensors, like)


def some_pairs(vocab_size, lengths, seed=0):
    """Pairs whose sources and targets are filled up."""
    rng = np.random.default_rng(seed)
    sources, targets = (
        [rng.integers(2, vocab_size, n).tolist() for n in side]
        for side in zip(*lengths, strict=True)
    )
    return text.pairs(sources, targets, start_id=0, pad_id=3)[0]


def forward(reference, batch):
    """Logits of the reference, and the outputs of its blocks by stack."""
    outputs = {name: [] for name in t5.STACKS}
    hooks = [
        block.register_forward_hook(
            lambda *call, name=name: outputs[name].append(call[2][0].numpy())
        )
        for name in t5.STACKS
        for block in getattr(reference, name).block
    ]
    expected = conformance.forward(
        reference,
        input_ids=batch.token_ids,
        attention_mask=batch.mask,
        decoder_input_ids=batch.decoder_ids,
        decoder_attention_mask=batch.decoder_mask,
    )
    for hook in hooks:
        hook.remove()
    return expected.logits.numpy(), outputs


def compare(model, variables, batch, reference):
    expected_logits, expected = forward(reference, batch)
    masks = {
        "encoder": text.token_mask(batch),
        "decoder": text.decoder_token_mask(batch),
    }
    for name, mask in masks.items():
        logits, outputs = jax.jit(model.activations[name])(variables, batch)
        for ours, theirs in zip(outputs, expected[name], strict=True):
            np.testing.assert_allclose(ours[mask], theirs[mask], **TOLERANCE)
        mask = masks["decoder"]
        np.testing.assert_allclose(logits[mask], expected_logits[mask], **TOLERANCE)


BATCH = some_pairs(30, [(12, 5), (4, 7), (1, 1)])


@pytest.mark.parametrize("scan", [False, True], ids=["listed", "scanned"])
@pytest.mark.parametrize("kind", ["relu", "gated", "own head"])
def test_blocks_and_logits(tmp_path, kind, scan):
    reference = reference_t5(SMALL if kind == "relu" else GATED)
    config, tensors = conformance.saved(reference, tmp_path)
    if kind == "own head":
        reference, config, tensors = with_own_head(tmp_path / "own", config, tensors)
    config, variables = read(config, tensors)
    assert config.tied_head == (kind != "own head")
    assert config.scaled_head == (kind == "relu")
    if scan:
        variables = t5.stack(variables)
    compare(t5.prunable_t5(config, scan=scan), variables, BATCH, reference)


@pytest.mark.slow
def test_at_the_true_size(tmp_path):
    config = transformers.T5Config(
        d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0
    )
    reference = transformers.T5ForConditionalGeneration(config).eval()
    config, tensors = conformance.saved(reference, tmp_path)
    config, variables = read(config, tensors)
    assert config == t5.base_config()
    batch = some_pairs(32128, [(40, 12), (13, 20)])
    compare(t5.prunable_t5(config), variables, batch, reference)


@pytest.mark.parametrize("kind", ["relu", "gated", "own head"])
def test_a_pruned_t5_goes_back_to_transformers(tmp_path, kind):
    reference = reference_t5(SMALL if kind == "relu" else GATED)
    base, tensors = conformance.saved(reference, tmp_path)
    if kind == "own head":
        _, base, tensors = with_own_head(tmp_path / "own", base, tensors)
    config, pruned = read(base, tensors)
    model = t5.prunable_t5(config)
    for stack, removed in (("encoder", [1, 3]), ("decoder", [2])):
        made = plan.make_plan(model.stack(stack), removed)
        model, pruned = prunable.prune(model, pruned, made)
    config = t5.pruned_config(config, model.structure)
    tensors = weights.write(t5.weight_table(config), pruned)
    written = t5.config_to_hf(config, base)
    huggingface.write_directory(tmp_path / "pruned", written, tensors)
    again = conformance.strictly(
        transformers.T5ForConditionalGeneration, tmp_path / "pruned"
    )
    depths = (again.config.num_layers, again.config.num_decoder_layers)
    assert depths == (2, 2)
    compare(model, pruned, BATCH, again)
    # What transformers writes of it is read back as the same.
    saved = conformance.saved(again, tmp_path / "again")
    assert t5.config_from_hf(*saved) == config


def generated(reference, batch, length, end_id, **options):
    """What the reference writes, without the first token, and cut after the end."""
    with torch.no_grad():
        rows = reference.generate(
            input_ids=torch.from_numpy(batch.token_ids).long(),
            attention_mask=torch.from_numpy(batch.mask).long(),
            max_new_tokens=length,
            eos_token_id=end_id,
            **options,
        )
    return [until(end_id, row[1:].tolist()) for row in rows]


def until(end_id, row):
    row = np.asarray(row).tolist()
    return row[: row.index(end_id) + 1] if end_id in row else row


SEARCHES = {
    "greedy": {"num_beams": 1},
    "beams": {"num_beams": 3},
    "short": {"num_beams": 3, "length_penalty": -0.7},
    "early": {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0},
    "never": {"num_beams": 2, "early_stopping": "never", "length_penalty": 0.5},
}
STOPPING = {
    False: beam_search.Stopping.HEURISTIC,
    True: beam_search.Stopping.FULL,
    "never": beam_search.Stopping.BOUND,
}


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES.keys())
@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_generated_tokens_are_the_same(tmp_path, kind, options):
    length = 8
    for seed in range(2):
        torch.manual_seed(seed)
        reference = reference_t5(SMALL if kind == "relu" else GATED)
        config, variables = read(*conformance.saved(reference, tmp_path / str(seed)))
        batch = some_pairs(30, [(12, 1), (4, 1), (7, 1), (1, 1), (9, 1)], seed)
        # A word that it does write ends a sequence.
        end_id = generated(reference, batch, length, 1)[0][2]
        expected = generated(reference, batch, length, end_id, **options)
        config = dataclasses.replace(config, end_id=end_id)
        search = jax.jit(searching(config, length, **options))
        written = search(variables, text.Text(batch.token_ids, batch.mask))
        ours = [until(end_id, row) for row in written]
        assert ours == expected
        assert options["num_beams"] > 1 or min(map(len, ours)) <= 3


def searching(config, length, *, num_beams, length_penalty=1.0, early_stopping=False):
    module = t5_network.T5(config)

    def run(variables, source):
        if num_beams == 1:
            return t5_decoding.greedy(module, variables, source, length)
        return t5_decoding.beam_search(
            module,
            variables,
            source,
            length,
            num_beams=num_beams,
            length_penalty=length_penalty,
            stopping=STOPPING[early_stopping],
        ).tokens[:, 0]

    return run
