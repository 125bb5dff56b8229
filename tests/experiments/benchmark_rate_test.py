import json

import pytest

from experiments import run_state
from experiments.benchmarks import rate_against_temporal as benchmark


def exit_code(workdir, **changes):
    values = {"dataset": "digits", "hidden": "4", "radius": "1", "samples": 2}
    values |= {"epochs": 2, "timeout_s": 10, "workdir": workdir} | changes
    arguments = [f"--{name}={value}" for name, value in values.items()]
    with pytest.raises(SystemExit) as left:
        run_state.run(benchmark.main, benchmark.FLAGS, ["benchmark", *arguments])
    return left.value.code or 0


def test_both_codes_are_measured_and_drawn(tmp_path, capsys):
    assert exit_code(tmp_path / "out") == 0
    text = (tmp_path / "out" / "rate_against_temporal.json").read_text()
    (row,) = json.loads(text)["rows"]
    assert row["ours_decided"] == row["peer_decided"] == len(row["samples"]) == 2
    assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["ours_seconds"])
    assert (tmp_path / "out" / "rate_against_temporal.png").stat().st_size > 0
    assert "4 hidden, budget 1" in capsys.readouterr().out


def test_rows_of_other_sizes_stay(tmp_path):
    path = tmp_path / "out" / "rate_against_temporal.json"
    assert exit_code(tmp_path / "out") == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert exit_code(tmp_path / "out", hidden="4,3") == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["hidden"] for row in rows] == [3, 4]
    assert rows[1] == row


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden": "4,none"}, "--hidden=none"),
        ({"radius": "2,1"}, "--radius=2,1"),
        ({"radius": "0"}, "--radius=0"),
        ({"weight_bits": 1}, "--weight_bits=1"),
        ({"timeout_s": 0}, "--timeout_s=0"),
        ({"dataset": "mnist"}, "--data_dir"),
    ],
)
def test_wrong_flags_exit_2_with_one_line(tmp_path, capsys, changes, named):
    assert exit_code(tmp_path / "out", **changes) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "out").exists()
