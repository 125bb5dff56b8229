"""Reading what was published, comparing with it, and explaining the differences."""

import gzip
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from experiments import float_replay, grid_report, published, run_state
from jaxsnn import integer
from jaxsnn.sat import replay

HEADER = "dataset,coding,method,num_steps,hidden,l1_budget,sample,verdict,seconds"


@pytest.fixture
def data_dir(tmp_path):
    """Two images of six pixels, one network, verdicts of three methods."""
    images = np.array([[0, 255, 90, 0, 9, 40], [255, 0, 0, 130, 99, 7]], np.uint8)
    (tmp_path / "mnist").mkdir()
    header = struct.pack(">IIII", 0x803, 2, 2, 3)
    with gzip.open(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + images.tobytes())
    with gzip.open(tmp_path / "mnist" / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">II", 0x801, 2) + bytes([0, 1]))
    (tmp_path / "s4nn").mkdir()
    rng = np.random.default_rng(3)
    weights = {
        "weights_0": rng.uniform(-60, 110, (3, 6)),
        "weights_1": rng.uniform(-60, 110, (2, 3)),
    }
    np.savez(tmp_path / "s4nn" / "7_6_3_2.npz", **weights)
    lines = [HEADER]
    for sample in (0, 1):
        lines += [
            f"mnist,temporal,z3,7,3,1,{sample},robust,5.0",
            f"mnist,temporal,search,7,3,1,{sample},falsified,2.0",
            f"mnist,temporal,milp,7,3,1,{sample},unknown,",
            f"mnist,rate,z3,7,3,1,{sample},falsified,1.0",
        ]
    (tmp_path / "s4nn" / "published_results.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_what_was_published_is_read(data_dir):
    verdicts = published.verdicts(data_dir)
    assert len(verdicts) == 6  # without rate coding
    assert published.samples(verdicts) == [0, 1]
    assert [v.seconds for v in verdicts[:3]] == [5.0, 2.0, None]
    with pytest.raises(run_state.UsageError, match="--networks=9_9_9_9"):
        published.select(data_dir, ["9_9_9_9"])


def test_networks_on_iris_are_left_out(data_dir):
    for name in ("fm_5_784_20_10", "20_4_10_3"):
        np.savez(data_dir / "s4nn" / f"{name}.npz", weights_0=np.eye(2))
    found = [(n.name, n.dataset, n.hidden) for n in published.networks(data_dir)]
    assert found == [("7_6_3_2", "mnist", 3), ("fm_5_784_20_10", "fashion_mnist", 20)]


def test_unrounded_replay_is_the_integer_one_where_nothing_rounds(tmp_path):
    rng = np.random.default_rng(0)
    weights = [rng.integers(-60, 110, (5, 6)), rng.integers(-60, 110, (3, 5))]
    path = tmp_path / "5_6_5_3.npz"
    np.savez(path, weights_0=weights[0], weights_1=weights[1])
    network = integer.load(path, num_steps=8)
    loaded = float_replay.load_weights(path)
    for _ in range(20):
        steps = rng.integers(0, 8, 6)
        expected = replay.spike_steps(network, steps)[-1]
        np.testing.assert_array_equal(
            float_replay.output_steps(loaded, 8, steps), expected
        )


def test_reaching_the_threshold_crosses_only_with_the_looser_comparison():
    weights, steps = [np.array([[100.0]])], np.array([1])
    assert float_replay.output_steps(weights, 6, steps).tolist() == [5]
    looser = float_replay.Crossing.REACHING
    assert float_replay.output_steps(weights, 6, steps, looser).tolist() == [2]


def comparison(verdict, seconds, others):
    network = published.Network(None, "mnist", 5, 10)
    record = {"sample": 1, "radius": 2, "verdict": verdict, "seconds": seconds}
    others = tuple(published.Verdict("mnist", 5, 10, 2, 1, *o) for o in others)
    return grid_report.Comparison(network, record, others)


def test_ratios_by_hand():
    comparisons = [
        comparison("robust", 0.5, [("z3", "robust", 9.0), ("milp", "unknown", None)]),
        comparison(
            "robust", 1.0, [("search-bab", "robust", 4.0), ("z3", "robust", 10.0)]
        ),
        comparison("timeout", 60.0, [("z3", "robust", 9.0)]),
        comparison("robust", 1.0, [("z3", "unknown", None)]),
    ]
    every, unpruned = (
        row for row in grid_report.ratios(comparisons) if row["budget"] == "2"
    )
    assert (every["queries"], every["median"], every["smallest"]) == (2, 11.0, 4.0)
    assert (unpruned["queries"], unpruned["median"], unpruned["smallest"]) == (
        2,
        14.0,
        10.0,
    )


def test_only_decided_verdicts_differ():
    others = [("z3", "falsified", 1.0), ("milp", "unknown", None)]
    assert [o.method for o in comparison("robust", 1, others).differing] == ["z3"]
    assert comparison("timeout", 1, others).differing == []
    assert comparison("falsified", 1, others).differing == []


def test_the_command_decides_compares_and_resumes(data_dir, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.published_grid"]
    command += [f"--workdir={out}", f"--data_dir={data_dir}", "--radius=1"]
    # The attack takes long to compile.
    command += ["--stages=bounds,solve", "--backend=pysat", "--workers=1"]
    command += [f"--proof_dir={tmp_path / 'proofs'}"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    report = json.loads((out / "grid.json").read_text())
    (row,) = report["rows"]
    assert row["queries"] == row["robust"] + row["falsified"] == 2
    # One of the two methods is wrong about each sample.
    assert len(report["differences"]) == 2
    for entry in report["differences"]:
        (theirs,) = entry["published"]
        assert entry["verdict"] not in theirs
    assert report["undecided"] == []
    assert (out / "tables.md").read_text() in first.stdout
    (proved,) = report["proofs"]
    assert proved["failures"] == []
    assert proved["confirmed"] == {
        "robust": row["robust"],
        "falsified": row["falsified"],
    }
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    resumed = json.loads((out / "grid.json").read_text())
    # The proofs are there, and are checked anew.
    assert resumed.pop("proofs")[0]["confirmed"] == report.pop("proofs")[0]["confirmed"]
    assert resumed == report
    # All but how long the checks took.
    told, told_again = (run.stdout.split("check s")[0] for run in (first, again))
    assert told == told_again
    assert "check s" in again.stdout
