"""The benchmark of what the attack finds, on a run made for it."""

import json

import pytest

from experiments import check_results, run_state, verify_snn
from experiments.benchmarks import attack_recall
from tests.experiments import iris_network


def call(binary, arguments):
    """Runs a binary in this process; returns its exit code."""
    with pytest.raises(SystemExit) as exit_info:
        run_state.run(binary.main, binary.FLAGS, [binary.__name__, *arguments])
    return exit_info.value.code or 0


def test_what_a_run_falsified_is_looked_for(tmp_path, capsys):
    iris_network.write(tmp_path / "network.npz")
    verified = call(
        verify_snn,
        [
            f"--network={tmp_path / 'network.npz'}",
            "--dataset=iris",
            "--samples=0:12",
            "--norm=l1",
            "--radius=2",
            "--stages=bounds",
            f"--workdir={tmp_path / 'run'}",
        ],
    )
    assert verified == 0
    exist = attack_recall.existing(check_results.open_run(tmp_path / "run", None))
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    expected = {
        (record["radius"], record["sample"])
        for record in records
        if record["verdict"] == "falsified" and record["stage"] != "clean"
    }
    assert expected
    found = {(radius, sample) for radius in exist for sample in exist[radius]}
    assert found == expected
    asked = [f"--runs={tmp_path / 'run'}", f"--workdir={tmp_path / 'out'}"]
    assert call(attack_recall, asked) == 0
    rows = json.loads((tmp_path / "out" / "attack_recall.json").read_text())["rows"]
    assert sum(row["exist"] for row in rows) == len(expected)
    assert all(row["found"] + len(row["missed"]) == row["exist"] for row in rows)
    # Small balls of so small a network hide nothing from the beam.
    assert sum(row["found"] for row in rows) == len(expected)
    assert f"found {len(expected)} of {len(expected)}" in capsys.readouterr().out


def test_no_run_is_one_line(tmp_path, capsys):
    assert call(attack_recall, [f"--workdir={tmp_path}"]) == 2
    assert "--runs" in capsys.readouterr().err
