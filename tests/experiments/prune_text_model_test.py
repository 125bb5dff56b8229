"""A checkpoint of transformers through the binary: pruned, killed, written back."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import json_files, prune_model, run_state
from jaxprune import checkpoints
from jaxprune.models import bert, text, weights
from tests.experiments import tiny_texts

ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": "."}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tiny_texts.WORDS]
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": len(PIECES),
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
    "hidden_act": "gelu",
    "type_vocab_size": 2,
}
FLAGS = (
    "--model=bert",
    "--dataset=emotion",
    "--train_epochs=2",
    "--recovery_epochs=0",
    "--max_rounds=1",
    "--threshold=0.3",
    "--max_accuracy_drop=1",
    "--max_length=12",
    "--batch_size=16",
    "--sparsity=0.25",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A checkpoint without a head for the task, and texts whose words tell labels."""
    root = tmp_path_factory.mktemp("bert")
    config = bert.config_from_hf(CONFIG)
    # A single draw in which blocks differ a little.
    variables = bert.prunable_bert(config).init(jax.random.key(3))
    checkpoint, emotion = root / "checkpoint", root / "emotion"
    checkpoint.mkdir()
    tiny_texts.write(emotion)
    tensors = weights.write(bert.weight_table(config), variables)
    checkpoints.save_safetensors(checkpoint / "model.safetensors", tensors, {})
    json_files.write_json_atomic(checkpoint / "config.json", CONFIG)
    (checkpoint / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    return checkpoint, emotion


def arguments(places, workdir, *more):
    checkpoint, emotion = places
    return [
        *FLAGS,
        f"--weights={checkpoint}",
        f"--data_dir={emotion}",
        f"--workdir={workdir}",
        *more,
    ]


def command(places, workdir):
    return [
        sys.executable,
        "-m",
        "experiments.prune_model",
        *arguments(places, workdir),
    ]


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    result = subprocess.run(
        command(places, workdir), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return workdir


def test_the_report_says_that_the_head_is_new(finished):
    report = json_files.read_json(finished / "report.json")
    assert report["base"]["origin"] == (
        "the weights given, with a new head for this task, fine-tuned here for 2 epochs"
    )
    kept = report["pruned"]["kept_blocks"]["blocks"]
    assert kept[0] == 0
    assert len(kept) == report["pruned"]["num_blocks"] < 3
    assert report["data"]["training"] == 96
    assert report["pruned"]["adapters"] == {}


def test_a_quarter_of_the_kernels_is_zero(finished):
    report = json_files.read_json(finished / "report.json")
    assert [line["sparsity"] for line in report["sparsified"]] == [0.0, 0.25]
    tensors = checkpoints.load_safetensors(finished / "pruned.safetensors")
    kernel = tensors["bert.encoder.layer.0.intermediate.dense.weight"]
    assert np.mean(np.asarray(kernel) == 0) == pytest.approx(0.25)


def test_a_directory_in_the_layout_it_came_from_is_written(finished, places):
    depth = json_files.read_json(finished / "report.json")["pruned"]["num_blocks"]
    written = json_files.read_json(finished / "pruned" / "config.json")
    assert written["num_hidden_layers"] == depth
    assert written["architectures"] == ["BertForSequenceClassification"]
    assert written["id2label"]["1"] == "joy"
    vocabulary = (places[0] / "vocab.txt").read_bytes()
    assert (finished / "pruned" / "vocab.txt").read_bytes() == vocabulary
    tensors = checkpoints.load_safetensors(finished / "pruned.safetensors")
    assert f"bert.encoder.layer.{depth - 1}.output.dense.weight" in tensors
    assert f"bert.encoder.layer.{depth}.output.dense.weight" not in tensors
    # The unpruned model, which was fine-tuned here, can be pruned again from there.
    base = json_files.read_json(finished / "base" / "config.json")
    assert base["num_hidden_layers"] == 3


@pytest.mark.peer
def test_transformers_reads_it_and_says_the_same(finished):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        finished / "pruned"
    ).eval()
    batch = text.pad([[2, 6, 8, 3], [2, 5, 6, 7, 8, 9, 3]])
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch.token_ids),
            attention_mask=torch.tensor(batch.mask),
        ).logits.numpy()
    config = bert.config_from_hf(json_files.read_json(finished / "config.json"))
    variables, _ = checkpoints.load(finished / "checkpoint")
    found = bert.prunable_bert(config).apply(variables, batch)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_killed_run_ends_the_same(finished, places, tmp_path):
    """Killed after its first epoch of fine-tuning, and started again."""
    workdir = tmp_path / "run"
    with subprocess.Popen(
        command(places, workdir),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 200
        while not (workdir / "training" / "manifest.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (workdir / "report.json").exists()
    subprocess.run(command(places, workdir), env=ENVIRONMENT, check=True)
    name = "pruned/model.safetensors"
    assert (workdir / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "config", "told"),
    [
        (["--max_length=13"], {}, "--max_length=13: the model reads at most 12 tokens"),
        ([], {"model_type": "gpt2"}, "holds a model of type 'gpt2', not 'bert'"),
        (
            [],
            {"architectures": ["BertForSequenceClassification"], "num_labels": 3},
            "tells 3 classes apart, --dataset=emotion has 6",
        ),
        (["--dataset=digits"], {}, "--dataset=digits: these models take texts"),
        (["--dataset=sst2"], {}, "lacks train.tsv, which --dataset=sst2 reads"),
        (["--heal=guess"], {}, "--heal=guess: valid are batchnorm, linear, refit"),
        (["--sparsity=0.5,2"], {}, "--sparsity=0.5,2: must be different shares"),
        (["--sparsity=x"], {}, "--sparsity=x: must be different shares"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    more, config, told, places, tmp_path, capsys
):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("model.safetensors", "vocab.txt"):
        (checkpoint / name).symlink_to(places[0] / name)
    (checkpoint / "config.json").write_text(json.dumps({**CONFIG, **config}))
    argv = arguments((checkpoint, places[1]), tmp_path / "w", *more)
    with pytest.raises(SystemExit) as exit_info:
        run_state.run(prune_model.main, prune_model.FLAGS, ["prune_model", *argv])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1
    assert not (tmp_path / "w").exists()
