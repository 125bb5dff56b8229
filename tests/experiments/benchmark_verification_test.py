"""The verification benchmark: arithmetic by hand, and one small run of its parts."""

import numpy as np
import pytest

from experiments import json_files, run_state
from experiments.benchmarks import verification, verification_report
from jaxsnn.sat import replay
from jaxsnn.sat.query import l1_query
from jaxsnn.sat.spec import Dense, IntegerNetwork


def record(engine, sample, verdict, seconds, radius=1):
    return {
        "network": "net",
        "norm": "l1",
        "sample": sample,
        "radius": radius,
        "engine": engine,
        "verdict": verdict,
        "seconds": seconds,
    }


RECORDS = [
    # Three repeats of ours on the first query, one on the others.
    record("jaxsnn", 1, "robust", 0.1),
    record("jaxsnn", 1, "robust", 0.2),
    record("jaxsnn", 1, "robust", 0.4),
    record("jaxsnn", 2, "falsified", 0.5),
    record("jaxsnn", 3, "robust", 1.0),
    record("peer", 1, "robust", 2.0),
    record("peer", 2, "timeout", 10.3),
    record("peer", 3, "falsified", 4.0),
]


def test_rows_by_hand():
    (row,) = verification_report.compare(RECORDS, timeout_s=10.0, device="cpu")
    assert row["name"] == "net l1 1"
    assert row["peer"] == "peer"
    assert (row["ours_solved"], row["peer_solved"], row["queries"]) == (3, 2, 3)
    assert row["ours_seconds"] == 0.5  # of 0.2, 0.5, 1
    assert row["peer_seconds"] == 4.0  # of 2, 10, 4
    assert row["ratio"] == 10.0  # of 10, 20, 4
    assert row["at_least"] == 1
    assert row["spread"]["ratio_quartiles"] == [7.0, 15.0]
    assert row["spread"]["ours_slowest_over_fastest"] == 4.0


def test_an_answer_that_cost_nothing_still_has_a_ratio():
    records = [
        record("jaxsnn", 1, "falsified", 0.0),
        record("peer", 1, "falsified", 2.0),
    ]
    (row,) = verification_report.compare(records, timeout_s=10.0, device="cpu")
    assert row["ratio"] == 2e6


def test_summary_by_hand():
    ours, peer = verification_report.summarize(RECORDS, timeout_s=10.0)
    assert ours["decided"] == 3
    assert ours["par2_seconds"] == pytest.approx((0.2 + 0.5 + 1.0) / 3)
    assert (peer["decided"], peer["queries"]) == (2, 3)
    assert peer["median_seconds"] == 4.0
    assert peer["par2_seconds"] == pytest.approx((2 + 20 + 4) / 3)


def test_a_verdict_after_the_limit_does_not_count():
    (row,) = verification_report.summarize([record("slow", 1, "robust", 11)], 10.0)
    assert row["decided"] == 0
    assert row["par2_seconds"] == 20


def test_contradictions_are_named():
    (line,) = verification_report.disagreements(RECORDS)
    assert "sample 3" in line
    assert "falsified by peer" in line
    assert "robust by jaxsnn" in line


def small_task():
    rng = np.random.default_rng(0)
    network = IntegerNetwork(
        (
            Dense(rng.integers(-3, 5, (4, 4)), rng.integers(0, 5, 4)),
            Dense(rng.integers(-3, 5, (3, 4)), rng.integers(0, 5, 3)),
        ),
        num_steps=6,
    )
    samples, queries = (0, 1), []
    for _ in samples:
        steps = rng.integers(0, 6, 4)
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        queries.append(tuple(l1_query(steps, label, r, 6) for r in (1, 2)))
    return verification.Task("small", network, "l1", samples, (1, 2), tuple(queries))


def test_a_run_agrees_writes_everything_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        verification,
        "missing_package",
        lambda peer: "cleverness" if peer == "exact" else None,
    )
    run = run_state.start_run(tmp_path / "out", {"seed": 0}, outputs=())
    arguments = [small_task()], ("milp", "pysat", "exact"), run
    settings = {"timeout_s": 20.0, "repeats": 1, "seed": 0}
    settings["stages"] = ("bounds", "solve")  # the attack takes long to compile
    report = verification.run_benchmark(*arguments, **settings)
    assert report["disagreements"] == []
    assert report["skipped"] == ["exact: cleverness is not installed"]
    assert {row["peer"] for row in report["rows"]} == {"milp", "pysat"}
    assert len(report["rows"]) == 4  # two radii, two peers
    assert all(row["decided"] == 4 for row in report["engines"])
    assert (run.workdir / "verification.png").stat().st_size > 1000
    assert "milp" in verification_report.describe(report)
    lines = json_files.read_jsonl(run.workdir / "measurements.jsonl")
    assert len(lines) == 4 * (1 + 2)
    assert verification.run_benchmark(*arguments, **settings) == report
    assert json_files.read_jsonl(run.workdir / "measurements.jsonl") == lines
