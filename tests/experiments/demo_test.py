"""The demo's commands are valid, and its page is made of what the runs leave."""

import importlib
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from experiments import data, demo, demo_report, json_files
from jaxsnn import coding, integer
from jaxsnn.sat import replay
from jaxsnn.sat.spec import Dense, IntegerNetwork


@pytest.mark.parametrize("step", demo.STEPS, ids=lambda step: step.binary)
def test_binaries_take_the_flags_of_the_demo(step):
    flag_values = importlib.import_module(f"experiments.{step.binary}").FLAGS
    flag_values.unparse_flags()
    arguments = demo.command(step, pathlib.Path("w"), seed=3)
    try:
        assert flag_values(arguments[1:]) == [f"experiments.{step.binary}"]
        assert flag_values.seed == 3
        assert pathlib.Path(flag_values.workdir) == pathlib.Path("w", step.directory)
    finally:
        flag_values.unparse_flags()


def random_network() -> IntegerNetwork:
    rng = np.random.default_rng(0)
    return IntegerNetwork(
        num_steps=8,
        layers=(
            Dense(rng.integers(-3, 6, (12, 64)), np.full(12, 20)),
            Dense(rng.integers(-3, 6, (10, 12)), np.full(10, 4)),
        ),
    )


def write_runs(workdir: pathlib.Path) -> None:
    """Leaves what three runs would: one robust digit, four falsified ones."""
    for name in ("prune", "train", "verify"):
        (workdir / name).mkdir()
    np.save(workdir / "prune" / "similarity.npy", np.eye(4) / 2 + 0.5)
    base = {
        "accuracy": 0.96,
        "num_params": 24_000,
        "num_blocks": 4,
        "flops": 1_500_000.0,
        "latency_ms": 0.4,
    }
    json_files.write_json_atomic(
        workdir / "prune" / "report.json",
        {
            "base": base,
            "pruned": {
                **base,
                "num_params": 18_000,
                "num_blocks": 3,
                "kept_blocks": {"blocks": [0, 1, 3]},
            },
            "rounds": [{"threshold": 0.98, "accepted": True}],
            "certificate": {
                "confidence": 0.95,
                "num_examples": 200,
                "accuracy_drop": 0.0,
                "accuracy_drop_upper_bound": 0.0124,
                "tolerance": 0.01,
                "passed": False,
            },
            "similarity": "similarity.npy",
            "similarity_by_stack": {"blocks": "similarity.npy"},
        },
    )
    json_files.write_json_atomic(
        workdir / "train" / "metrics.json", {"test_accuracy": 0.9437}
    )
    network = random_network()
    integer.save(workdir / "train" / "network.npz", network)
    digits = data.load("digits", "test")
    records = []
    for sample in range(5):
        steps = coding.latency(digits.images[sample].reshape(-1), 8, digits.max_value)
        moves = [[i, int(steps[i]), 7 - int(steps[i])] for i in range(sample * 10)]
        records.append(
            {
                "sample": sample,
                "label": int(digits.labels[sample]),
                "prediction": replay.prediction(replay.spike_steps(network, steps)[-1]),
                "norm": "linf",
                "radius": 1,
                "verdict": "falsified" if moves else "robust",
                "stage": "attack" if moves else "bounds",
                "backend": None,
                "seconds": 0.01,
                "counterexample": moves or None,
                "proof": None,
            }
        )
    json_files.append_jsonl(workdir / "verify" / "results.jsonl", *records)
    json_files.write_json_atomic(
        workdir / "verify" / "run.json",
        {
            "flags": {"network": str(workdir / "train" / "network.npz")},
            "device": {"platform": "cpu", "count": 1, "kind": "cpu", "cpu_count": 2},
            "versions": {"jax": "0.10.2"},
            "date": "2026-11-22T12:00:00+00:00",
        },
    )


def test_page_shows_both_jobs(tmp_path):
    write_runs(tmp_path)
    path = tmp_path / "report.html"
    demo_report.write(tmp_path, path, [["-m", "experiments.prune_model"]])
    page = path.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Pruning",
        "Verification",
        "Counterexamples",
        "Again, by hand",
    ]
    # Similarity, before and after; three of verification; three counterexamples.
    assert page.count("<img ") == 2 + 3 + 3
    assert "94.4 % of the test digits" in page
    assert '<td class="number">24,000</td><td class="number">18,000</td>' in page
    assert "-25.0 %" in page
    assert ">+0.0 points</td>" in page  # of accuracy
    assert "The aim, at most 1, is not certified" in page
    assert "<pre>python -m experiments.prune_model</pre>" in page


def test_overview_is_a_picture_of_both_jobs(tmp_path):
    write_runs(tmp_path)
    demo_report.write_overview(tmp_path, tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as image:
        assert image.width == 1600
        assert 400 < image.height < 1600


def test_changed_decisions_are_shown_before_ties(tmp_path):
    write_runs(tmp_path)
    records = json_files.read_jsonl(tmp_path / "verify" / "results.jsonl")
    network = random_network()
    ordered = demo_report.telling_first(records, network, data.load("digits", "test"))
    assert {r["sample"] for r in ordered} == {1, 2, 3, 4}
    digits = data.load("digits", "test")
    ties = []
    for record in ordered:
        pixels = digits.images[record["sample"]].reshape(-1)
        steps = coding.latency(pixels, 8, digits.max_value).copy()
        for neuron, before, after in record["counterexample"]:
            assert steps[neuron] == before
            steps[neuron] = after
        changed = replay.prediction(replay.spike_steps(network, steps)[-1])
        ties.append(changed == record["prediction"])
    assert ties == sorted(ties)
