"""The binary `verify_snn`: files, resuming, exit codes; verdicts by enumeration."""

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import data
from jaxsnn import integer
from jaxsnn.sat import replay
from jaxsnn.sat.spec import Dense, IntegerNetwork


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    """A small network that decides differently for different irises."""
    rng = np.random.default_rng(7)
    network = IntegerNetwork(
        (
            Dense(rng.integers(-4, 7, (6, 4)), rng.integers(2, 7, 6)),
            Dense(rng.integers(-4, 6, (3, 6)), rng.integers(1, 5, 3)),
        ),
        num_steps=10,
    )
    path = tmp_path_factory.mktemp("network") / "network.npz"
    integer.save(path, network)
    return path


def run(*arguments):
    command = [sys.executable, "-m", "experiments.verify_snn", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read(workdir, name="results.jsonl"):
    lines = (workdir / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_lines_are_true_and_a_rerun_resumes(network_file, tmp_path):
    arguments = [
        f"--network={network_file}",
        "--dataset=iris",
        "--samples=0:6",
        "--norm=linf",
        "--radius=0,1",
        "--workers=1",
        "--timeout_s=10",
        f"--workdir={tmp_path}",
    ]
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "report" in first.stdout
    records = read(tmp_path)
    assert len(records) == 12
    network = integer.load(network_file)
    irises = data.load("iris", "test")
    for record in records:
        assert list(record) == [
            "sample",
            "label",
            "prediction",
            "norm",
            "radius",
            "verdict",
            "stage",
            "backend",
            "seconds",
            "counterexample",
            "proof",
        ]
        pixels = irises.images[record["sample"]].astype(int)
        clean = (irises.max_value - pixels) * 9 // irises.max_value
        outputs = replay.spike_steps(network, clean)[-1]
        assert record["prediction"] == replay.prediction(outputs)
        assert record["label"] == irises.labels[record["sample"]]
        reach = range(-record["radius"], record["radius"] + 1)
        broken = False
        for moves in itertools.product(reach, repeat=4):
            steps = clean + np.array(moves)
            if steps.min() < 0 or steps.max() > 9:
                continue
            moved = replay.spike_steps(network, steps)[-1]
            rivals = np.delete(moved, record["prediction"])
            broken |= bool((rivals <= moved[record["prediction"]]).any())
        assert record["verdict"] == ("falsified" if broken else "robust")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["queries"]["samples"] == list(range(6))

    # Resuming after a torn line decides only what is missing.
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    resumed = read(tmp_path)
    assert resumed[:5] == records[:5]
    assert {(r["sample"], r["radius"]) for r in resumed} == {
        (r["sample"], r["radius"]) for r in records
    }

    other = run(*(a.replace("0,1", "0,2") for a in arguments))
    assert other.returncode == 2
    assert "--radius" in other.stderr


def test_shards_share_a_workdir_and_are_merged(network_file, tmp_path):
    arguments = [
        f"--network={network_file}",
        "--dataset=iris",
        "--samples=random:5",
        "--stages=bounds,solve",
        "--norm=l1",
        "--num_shards=2",
        "--workers=1",
        f"--workdir={tmp_path}",
    ]
    assert run(*arguments, "--shard=0").returncode == 0
    summarize = [sys.executable, "-m", "experiments.summarize", f"--workdir={tmp_path}"]
    partial = subprocess.run(summarize, capture_output=True, text=True, check=False)
    assert partial.returncode == 1
    assert "shard" in partial.stderr
    assert run(*arguments, "--shard=1").returncode == 0
    whole = subprocess.run(summarize, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert len(read(tmp_path, "results-00000-of-00002.jsonl")) == 3
    assert len(read(tmp_path, "results-00001-of-00002.jsonl")) == 2
    assert (tmp_path / "summary.csv").read_text().count("\n") == 2


def test_exact_radii_agree_with_single_queries(network_file, tmp_path):
    arguments = [
        f"--network={network_file}",
        "--dataset=iris",
        "--samples=0:8",
        "--norm=l1",
        "--workers=1",
    ]
    found = run(*arguments, "--find_radius", f"--workdir={tmp_path / 'radius'}")
    assert found.returncode == 0, found.stderr
    radii = {r["sample"]: r for r in read(tmp_path / "radius")}
    assert len(radii) == 8
    queries = [*arguments, "--stages=solve", "--backend=pysat", "--radius=0,1,2,3"]
    assert run(*queries, f"--workdir={tmp_path / 'queries'}").returncode == 0
    for record in read(tmp_path / "queries"):
        exact = radii[record["sample"]]
        assert exact["robust_radius"] == exact["radius"] - 1
        broken = record["radius"] >= exact["radius"]
        assert record["verdict"] == ("falsified" if broken else "robust")
    summarize = [sys.executable, "-m", "experiments.summarize"]
    merged = subprocess.run(
        [*summarize, f"--workdir={tmp_path / 'radius'}"],
        capture_output=True,
        check=False,
    )
    assert merged.returncode == 0
    refused = run(*arguments, "--find_radius", "--radius=1", f"--workdir={tmp_path}")
    assert refused.returncode == 2
    assert "--radius" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--network=absent.npz"], "absent.npz"),
        (["--dataset=cifar11"], "cifar11"),
        (["--dataset=mnist", "--data_dir=/absent"], "/absent"),
        (["--dataset=digits"], "64"),
        (["--samples=3:3"], "3:3"),
        (["--samples="], "samples"),
        (["--samples=99"], "99"),
        (["--radius=-1"], "-1"),
        (["--norm=pixel", "--radius=1.5"], "1.5"),
        (["--norm=pixel", "--radius=nan"], "nan"),
        (["--timeout_s=0"], "timeout_s"),
        (["--stages=guess"], "guess"),
        (["--stages="], "stages"),
        (["--backend=kissat"], "kissat"),
        (["--num_steps=12"], "12"),
        (["--shard=1"], "shard"),
        (["--colour=red"], "colour"),
    ],
)
def test_wrong_flags_exit_2_with_one_line(network_file, tmp_path, changes, named):
    workdir = tmp_path / "out"
    given = {
        "network": f"--network={network_file}",
        "dataset": "--dataset=iris",
        "samples": "--samples=0",
    }
    for change in changes:
        given[change.removeprefix("--").split("=")[0]] = change
    started = time.monotonic()
    result = run(*given.values(), f"--workdir={workdir}")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert named in result.stderr
    assert not workdir.exists()
    # Two seconds on a free machine; jax alone would take longer than this test allows.
    assert "jax" not in result.stderr
    assert time.monotonic() - started < 20
