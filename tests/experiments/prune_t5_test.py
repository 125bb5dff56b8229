"""A T5 of transformers through a run: both stacks, answers in words, and back."""

import jax
import numpy as np
import pytest

from experiments import json_files, prune_job, text_tokenizers
from jaxprune import checkpoints
from jaxprune.models import t5, text, weights
from tests.experiments import prune_job_test, tiny_texts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Pruned as it is drawn: training is the same for all models."""
    root = tmp_path_factory.mktemp("t5")
    checkpoint, emotion, workdir = (root / n for n in ("t5", "emotion", "run"))
    checkpoint.mkdir()
    workdir.mkdir()
    tiny_texts.write(emotion)
    words = " ".join([*tiny_texts.WORDS, "joy", "anger"])
    tokenizer = text_tokenizers.make("t5", [words, words])
    text_tokenizers.write(tokenizer, checkpoint)
    config = {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": tokenizer.get_vocab_size(),
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 2,
    }
    json_files.write_json_atomic(checkpoint / "config.json", config)
    ours = t5.config_from_hf(config)
    variables = t5.prunable_t5(ours).init(jax.random.key(0))
    tensors = weights.write(t5.weight_table(ours), variables)
    checkpoints.save_safetensors(checkpoint / "model.safetensors", tensors, {})
    flags = {
        **prune_job_test.DEFAULTS,
        "model": "t5",
        "weights": str(checkpoint),
        "dataset": "emotion",
        "data_dir": str(emotion),
        "score": "last",
    }
    report = prune_job.run_job(prune_job.Job(**flags), workdir)
    return workdir, report


def test_both_stacks_lose_blocks_and_keep_their_first(finished):
    workdir, report = finished
    kept = report["pruned"]["kept_blocks"]
    assert kept["encoder"][0] == kept["decoder"][0] == 0
    assert len(kept["encoder"]) + len(kept["decoder"]) < 5
    assert set(report["similarity_by_stack"]) == {"encoder", "decoder"}
    assert 0 <= report["pruned"]["accuracy"] <= 1
    written = json_files.read_json(workdir / "pruned" / "config.json")
    assert written["num_layers"] == len(kept["encoder"])
    assert written["num_decoder_layers"] == len(kept["decoder"])


@pytest.mark.peer
def test_transformers_reads_it_and_says_the_same(finished):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    workdir, _ = finished
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(
        workdir / "pruned"
    ).eval()
    batch, _ = text.pairs([[3, 5, 4, 1], [6, 1]], [[7, 1], [8, 9, 1]], start_id=0)
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch.token_ids),
            attention_mask=torch.tensor(batch.mask),
            decoder_input_ids=torch.tensor(batch.decoder_ids),
        ).logits.numpy()
    config = t5.config_from_hf(json_files.read_json(workdir / "pruned/config.json"))
    variables, _ = checkpoints.load(workdir / "checkpoint")
    found = t5.prunable_t5(config).apply(variables, batch)
    shown = np.asarray(batch.decoder_mask, bool)
    np.testing.assert_allclose(
        np.asarray(found)[shown], expected[shown], atol=1e-4, rtol=1e-4
    )
