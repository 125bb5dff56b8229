"""Conjunctions, failures and properties of `verify_snn`, and `compare_snn`: files and
verdicts, by enumeration from what a person types.
"""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from experiments import check_results, compare_snn, data, run_state, verify_snn
from experiments.check_proofs import check_folders
from jaxsnn import integer, reduction
from jaxsnn.sat import replay
from jaxsnn.sat.spec import Dense, IntegerNetwork

LAST = 7


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A small network, a pruned one, and one with more steps."""
    rng = np.random.default_rng(24)
    network = IntegerNetwork(
        (
            Dense(rng.integers(-4, 7, (5, 4)), rng.integers(2, 7, 5)),
            Dense(rng.integers(-4, 6, (3, 5)), rng.integers(1, 5, 3)),
        ),
        num_steps=LAST + 1,
    )
    directory = tmp_path_factory.mktemp("networks")
    integer.save(directory / "network.npz", network)
    integer.save(directory / "pruned.npz", reduction.prune_weights(network, 0.3))
    integer.save(directory / "longer.npz", IntegerNetwork(network.layers, LAST + 2))
    return directory


def run(binary, *arguments):
    command = [sys.executable, "-m", f"experiments.{binary}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def ask(networks, workdir, binary, *arguments):
    """Runs a binary on a few irises with proofs; returns its lines."""
    made = run(
        binary,
        f"--network={networks / 'network.npz'}",
        "--dataset=iris",
        "--samples=0:6",
        "--workers=1",
        "--timeout_s=20",
        *arguments,
        f"--workdir={workdir / 'results'}",
        f"--proof_dir={workdir / 'proofs'}",
    )
    assert made.returncode == 0, made.stderr
    lines = (workdir / "results" / "results.jsonl").read_text().splitlines()
    assert (workdir / "results" / "report.html").stat().st_size > 10_000
    return [json.loads(line) for line in lines]


def confirm(workdir, records, proved):
    """Holds every line against proofs and replays."""
    confirmed, refused = check_folders(workdir / "proofs")
    assert refused == {}
    opened = check_results.open_run(workdir / "results", None)
    counts, failures = check_results.check(opened, confirmed)
    assert failures == []
    assert sum(counts.values()) == len(records)
    assert counts[proved] == sum(record["verdict"] == proved for record in records)


def clean_steps(sample):
    irises = data.load("iris", "test")
    pixels = irises.images[sample].astype(int)
    return (irises.max_value - pixels) * LAST // irises.max_value


def points(clean, admits):
    for point in itertools.product(range(LAST + 1), repeat=4):
        if admits(clean, np.array(point)):
            yield np.array(point)


def fires(network, point):
    return replay.spike_steps(network, point)[-1]


def test_a_conjunction_with_failures(networks, tmp_path):
    records = ask(
        networks,
        tmp_path,
        "verify_snn",
        "--norm=linf",
        "--radius=0,2",
        "--max_changed=2",
        "--max_total_shift=3",
        "--max_dropped=1",
        "--tie=argmin",
        "--stages=bounds,solve",
    )
    network = integer.load(networks / "network.npz")
    for record in records:
        radius = record["radius"]

        def admits(clean, point, radius=radius):
            # One spike may be lost for nothing; it is best lost where most is saved.
            for lost in (None, 0, 1, 2, 3):
                shift = np.abs(point - clean)
                if lost is not None:
                    if point[lost] != LAST or clean[lost] == LAST:
                        continue
                    shift[lost] = 0
                if (
                    shift.max() <= radius
                    and shift.sum() <= 3
                    and (shift > 0).sum() <= 2
                ):
                    return True
            return False

        label = record["prediction"]
        robust = all(
            int(np.argmin(outputs)) == label
            for point in points(clean_steps(record["sample"]), admits)
            for outputs in [fires(network, point)]
        )
        assert record["verdict"] == ("robust" if robust else "falsified")
        assert "property" not in record
    assert len({record["verdict"] for record in records}) == 2
    confirm(tmp_path, records, "robust")


@pytest.mark.parametrize("asked", ["latency:4,label", "monotone:2,1"])
def test_properties(asked, networks, tmp_path):
    records = ask(
        networks,
        tmp_path,
        "verify_snn",
        "--norm=l1",
        "--radius=1,2",
        f"--property={asked}",
        "--stages=bounds,solve",
    )
    network = integer.load(networks / "network.npz")
    for record in records:
        clean, label = clean_steps(record["sample"]), record["prediction"]

        def admits(clean, point, radius=record["radius"]):
            return np.abs(point - clean).sum() <= radius

        times = {tuple(p): fires(network, p) for p in points(clean, admits)}
        if asked.startswith("latency"):
            holds = all(outputs[label] <= 4 for outputs in times.values())
        else:
            holds = all(
                times[sooner][1] <= outputs[1]
                for point, outputs in times.items()
                for earlier in range(point[2])
                if (sooner := (*point[:2], earlier, point[3])) in times
            )
        assert record["verdict"] == ("robust" if holds else "falsified")
        assert record["property"] == asked
    assert len({record["verdict"] for record in records}) == 2
    confirm(tmp_path, records, "robust")


def test_two_networks_are_compared(networks, tmp_path):
    other = networks / "pruned.npz"
    arguments = (f"--other={other}", "--norm=linf", "--radius=0,1")
    records = ask(networks, tmp_path, "compare_snn", *arguments)
    pair = [integer.load(networks / "network.npz"), integer.load(other)]
    for record in records:
        radius = record["radius"]
        ball = points(
            clean_steps(record["sample"]),
            lambda clean, point, radius=radius: np.abs(point - clean).max() <= radius,
        )
        alike = all(
            np.argmin(fires(pair[0], point)) == np.argmin(fires(pair[1], point))
            for point in ball
        )
        assert record["verdict"] == ("equivalent" if alike else "different")
    assert len({record["verdict"] for record in records}) == 2
    confirm(tmp_path, records, "equivalent")
    summary = run("summarize", f"--workdir={tmp_path / 'results'}")
    assert summary.returncode == 0, summary.stderr
    assert "equivalent" in summary.stdout
    # A line that claims the opposite is found out.
    path = tmp_path / "results" / "results.jsonl"
    swapped = {"equivalent": "different", "different": "equivalent"}
    lines = [{**r, "verdict": swapped[r["verdict"]]} for r in records]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    checked = run(
        "check_proofs", tmp_path / "proofs", f"--results={tmp_path / 'results'}"
    )
    assert checked.returncode == 1
    assert checked.stderr.count("failed:") == len(records)


@pytest.mark.parametrize(
    ("binary", "changes", "named"),
    [
        ("compare_snn", [], "--other"),
        ("compare_snn", ["--other={longer}"], "num_steps, not 8 and 9"),
        ("compare_snn", ["--other=absent.npz"], "--other=absent.npz"),
        ("verify_snn", ["--max_shift=1"], "radius of --norm=linf"),
        ("verify_snn", ["--norm=drop", "--max_dropped=1"], "--max_dropped=1"),
        ("verify_snn", ["--max_changed=-1"], "--max_changed=-1"),
        ("verify_snn", ["--max_pixel=1.5"], "--max_pixel=1.5"),
        ("verify_snn", ["--max_pixel=nan"], "--max_pixel=nan"),
        ("verify_snn", ["--target=3"], "below 3"),
        ("verify_snn", ["--target=1", "--property=latency:3"], "--target=1"),
        ("verify_snn", ["--property=latency"], "latency:K"),
        ("verify_snn", ["--property=latency:7"], "0..6"),
        ("verify_snn", ["--property=monotone:4,0"], "input 4"),
        ("verify_snn", ["--property=monotone:0,3"], "class 3"),
        ("verify_snn", ["--property=brave"], "brave"),
        ("verify_snn", ["--find_radius", "--norm=pixel"], "drop"),
    ],
)
def test_wrong_flags_exit_2_with_one_line(
    networks, tmp_path, capsys, binary, changes, named
):
    module = {"verify_snn": verify_snn, "compare_snn": compare_snn}[binary]
    arguments = [
        f"--network={networks / 'network.npz'}",
        "--dataset=iris",
        "--samples=0",
        *(change.format(longer=networks / "longer.npz") for change in changes),
        f"--workdir={tmp_path / 'out'}",
    ]
    with pytest.raises(SystemExit) as left:
        run_state.run(module.main, module.FLAGS, [binary, *arguments])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert named in message
    assert not (tmp_path / "out").exists()
