"""Merging of shards, on results written by hand."""

import csv
import pathlib

import numpy as np
import pytest

from experiments import data, json_files, results, run_state, summarize, verify_report
from jaxsnn.sat.spec import Dense, IntegerNetwork

# sample, radius, verdict, stage, seconds, label, prediction
BY_HAND = [
    (3, 1, "robust", "bounds", 0.1, 5, 5),
    (4, 1, "robust", "solve", 2.0, 1, 7),
    (9, 1, "falsified", "clean", 0.3, 2, 2),
    (3, 2, "falsified", "attack", 0.2, 5, 5),
    (4, 2, "timeout", "solve", 10.5, 1, 7),
    (9, 2, "robust", "solve", 4.0, 2, 2),
]


def record(sample, radius, verdict, stage, seconds, label, prediction):
    return {
        "sample": sample,
        "label": label,
        "prediction": prediction,
        "norm": "linf",
        "radius": radius,
        "verdict": verdict,
        "stage": stage,
        "backend": None,
        "seconds": seconds,
        "counterexample": None,
        "proof": None,
    }


def write_run(
    directory: pathlib.Path,
    rows=BY_HAND,
    file: str = "results.jsonl",
    queries: dict | None = None,
) -> pathlib.Path:
    directory.mkdir(exist_ok=True)
    facts = {
        "flags": {
            "network": "nets/small.npz",
            "dataset": "digits",
            "split": "test",
            "norm": "linf",
            "timeout_s": 10.0,
        }
    }
    if queries is not None:
        facts["queries"] = queries
    json_files.write_json_atomic(directory / "run.json", facts)
    (directory / file).touch()
    json_files.append_jsonl(directory / file, *(record(*row) for row in rows))
    return directory


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        run_state.run(summarize.main, summarize.FLAGS, ["s", *map(str, arguments)])
    return exit_info.value.code or 0


def summary(directory: pathlib.Path) -> list[dict[str, str]]:
    with (directory / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_rows_by_hand(tmp_path, capsys):
    write_run(tmp_path)
    assert call(f"--workdir={tmp_path}") == 0
    first, second = summary(tmp_path)
    assert (first["radius"], second["radius"]) == ("1", "2")
    assert (first["robust"], first["falsified"], first["timeout"]) == ("2", "1", "0")
    assert (first["by_clean"], first["by_bounds"], first["by_solve"]) == ("1", "1", "1")
    assert float(first["median_seconds"]) == 0.3
    assert float(first["max_seconds"]) == 2.0
    assert float(first["par2_seconds"]) == pytest.approx(2.4 / 3)
    # Sample 4 is robust, but wrong.
    assert float(first["accuracy"]) == pytest.approx(2 / 3)
    assert float(first["verified_accuracy"]) == pytest.approx(1 / 3)
    # The timeout counts 2 x 10 s, and its stage decided nothing.
    assert float(second["par2_seconds"]) == pytest.approx((0.2 + 20 + 4.0) / 3)
    assert (second["by_attack"], second["by_solve"]) == ("1", "1")
    shown = capsys.readouterr().out
    assert "small.npz" in shown
    assert "33.3 %" in shown
    assert "equivalent" not in shown


def test_shards_merge_to_the_same_summary(tmp_path):
    whole = write_run(tmp_path / "whole")
    shards = [
        write_run(tmp_path / f"s{i}", BY_HAND[i::3], f"results-0000{i}-of-00003.jsonl")
        for i in range(3)
    ]
    assert call(f"--workdir={whole}") == 0
    inputs = ",".join(map(str, shards))
    assert call(f"--workdir={tmp_path / 'all'}", f"--inputs={inputs}") == 0
    assert summary(tmp_path / "all") == summary(whole)


def test_shards_may_share_a_workdir(tmp_path):
    for i in range(2):
        write_run(tmp_path, BY_HAND[i::2], f"results-0000{i}-of-00002.jsonl")
    assert call(f"--workdir={tmp_path}") == 0
    assert sum(int(row["queries"]) for row in summary(tmp_path)) == len(BY_HAND)


def test_missing_shard_is_named(tmp_path, capsys):
    for i in (0, 2):
        write_run(tmp_path, BY_HAND, f"results-0000{i}-of-00004.jsonl")
    assert call(f"--workdir={tmp_path}") == 1
    message = capsys.readouterr().err
    assert "results-00001-of-00004.jsonl" in message
    assert "results-00003-of-00004.jsonl" in message
    assert "results-00002" not in message
    assert not (tmp_path / "summary.csv").exists()


def test_missing_query_is_named(tmp_path, capsys):
    queries = {"samples": [3, 4, 9, 12], "norm": "linf", "radii": [1, 2, 3]}
    write_run(tmp_path, queries=queries)
    assert call(f"--workdir={tmp_path}") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("--radius=")[1] for line in lines] == [
        "1: samples 12",
        "2: samples 12",
        "3: samples 3, 4, 9, 12",
    ]


def test_without_a_list_of_queries_radii_must_cover_the_same_samples(tmp_path, capsys):
    write_run(tmp_path, BY_HAND[:-1])
    assert call(f"--workdir={tmp_path}") == 1
    assert "--radius=2: samples 9" in capsys.readouterr().err


def test_many_missing_queries_make_a_short_line(tmp_path, capsys):
    queries = {"samples": list(range(100)), "norm": "linf", "radii": [1]}
    write_run(tmp_path, [], queries=queries)
    assert call(f"--workdir={tmp_path}") == 1
    assert "8, 9 and 90 more" in capsys.readouterr().err


def test_skipped_samples_are_not_missing_but_count(tmp_path):
    queries = {"samples": [3, 9, 4], "norm": "linf", "radii": [1], "skipped": [4]}
    write_run(tmp_path, [BY_HAND[0], BY_HAND[2]], queries=queries)
    assert call(f"--workdir={tmp_path}") == 0
    (row,) = summary(tmp_path)
    assert row["queries"] == "2"
    assert float(row["accuracy"]) == pytest.approx(2 / 3)
    assert float(row["verified_accuracy"]) == pytest.approx(1 / 3)


def test_contradiction_is_named(tmp_path, capsys):
    write_run(tmp_path, [*BY_HAND, (3, 1, "falsified", "solve", 1.0, 5, 5)])
    assert call(f"--workdir={tmp_path}") == 1
    assert "sample 3 is falsified and robust" in capsys.readouterr().err


def test_decided_duplicate_wins_over_a_timeout(tmp_path):
    write_run(tmp_path, [*BY_HAND, (4, 2, "robust", "solve", 30.0, 1, 7)])
    assert call(f"--workdir={tmp_path}") == 0
    assert summary(tmp_path)[1]["timeout"] == "0"
    assert summary(tmp_path)[1]["robust"] == "2"


def test_torn_last_line_is_a_missing_query(tmp_path, capsys):
    write_run(tmp_path)
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert call(f"--workdir={tmp_path}") == 1
    assert "--radius=2: samples 9" in capsys.readouterr().err


def test_run_without_a_single_result_is_told(tmp_path, capsys):
    write_run(tmp_path, [])
    assert call(f"--workdir={tmp_path}") == 1
    assert "no results in" in capsys.readouterr().err


@pytest.mark.parametrize("lacking", ["run.json", "results.jsonl"])
def test_directory_that_is_no_run_is_a_usage_error(lacking, tmp_path, capsys):
    write_run(tmp_path)
    (tmp_path / lacking).unlink()
    assert call(f"--workdir={tmp_path}") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "--inputs" in message


def test_equivalence_has_columns_of_its_own(tmp_path):
    rows = [
        (3, 1, "equivalent", "bounds", 0.1, 5, 5),
        (4, 1, "different", "attack", 0.1, 5, 5),
    ]
    run = results.read_run(write_run(tmp_path, rows))
    run = results.Run(
        directory=run.directory,
        flags={**run.flags, "other": "nets/pruned.npz"},
        records=run.records,
        shards=run.shards,
        queries=None,
    )
    header, cells = results.table(results.summarize([run]))
    shown = dict(zip(header, cells[0], strict=True))
    assert shown["other"] == "pruned.npz"
    assert (shown["equivalent"], shown["different"]) == (1, 1)
    assert "verified" not in shown


def test_exact_radii_say_what_holds_at_every_radius():
    def line(sample, robust, radius, verdict):
        return {
            "sample": sample,
            "label": 1,
            "prediction": 1,
            "norm": "l1",
            "radius": radius,
            "robust_radius": robust,
            "verdict": verdict,
            "stage": "solve",
            "backend": "exact",
            "seconds": 1.0,
            "counterexample": None,
        }

    records = [
        line(0, 2, 3, "falsified"),
        line(1, 0, 1, "timeout"),
        line(2, 9000, 9000, "robust"),  # nothing breaks it
    ]
    implied = results.implied_by_radius(records)
    verdicts = {(r["sample"], r["radius"]): r["verdict"] for r in implied}
    assert verdicts == {
        **{(0, k): "robust" for k in (0, 1, 2)},
        (0, 3): "falsified",
        (1, 0): "robust",
        **{(1, k): "timeout" for k in (1, 2, 3)},
        **{(2, k): "robust" for k in range(4)},
    }
    assert sum(r["seconds"] for r in implied) == 3.0
    rows = [
        results.summarize_records([r for r in implied if r["radius"] == radius])
        for radius in range(4)
    ]
    assert [3 * row["verified_accuracy"] for row in rows] == [3, 2, 2, 1]
    assert [3 * row["unbroken_accuracy"] for row in rows] == [3, 3, 3, 2]
    figure = verify_report.plot_verified_accuracy(
        [{"radius": radius, **row} for radius, row in enumerate(rows)]
    )
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["not decided", "clean", "verified"]


def test_seconds_are_drawn_by_stage_and_solver_but_not_where_none_were_spent():
    def record(stage, backend, seconds):
        known = {"verdict": "robust" if stage else "timeout", "stage": stage}
        return known | {"backend": backend, "seconds": seconds}

    records = [
        record("bounds", None, 0.01),
        record("bounds", None, 0.02),
        record("solve", "exact", 2.0),
        record("solve", "exact", 0.0),  # a narrower ball was falsified
        record(None, None, 9.0),
    ]
    axes = verify_report.plot_seconds(records).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [
        "bounds (2)",
        "narrower ball (1)",
        "solve: exact (1)",
        "timeout (1)",
    ]
    drawn = [line.get_xdata().tolist() for line in axes.lines]
    assert drawn == [[0.01, 0.02], [], [2.0], [9.0]]


def test_counterexamples_of_the_smallest_radii_are_shown():
    digits = data.load("digits", "test")
    layer = Dense(np.ones((10, 64), int), np.zeros(10, int))
    records = [
        {
            "sample": sample,
            "radius": radius,
            "backend": None,
            "stage": "attack",
            "counterexample": [[0, 15, 14]],
        }
        for sample, radius in ((3, 2), (4, 3), (3, 1), (5, 2))
    ]
    network = IntegerNetwork((layer,), num_steps=16)
    pictures = verify_report.counterexample_pictures(network, digits, records, 2)
    assert [text for _, text in pictures] == [
        "sample 3, radius 1, found by attack",
        "sample 5, radius 2, found by attack",
    ]
