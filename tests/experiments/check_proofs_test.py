"""`verify_snn --proof_dir` and `check_proofs`: made, confirmed, refused; no jax."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments import check_proofs, check_results, data
from experiments.check_proofs import Memory, check_folders
from experiments.verify_proofs import Prover
from jaxsnn import coding, integer
from jaxsnn.sat.check import manifest
from jaxsnn.sat.check.folder import confirm
from jaxsnn.sat.query import Query, l0_query, l1_query, linf_query
from jaxsnn.sat.requirement import Tie
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.experiments import iris_network


def run(binary, *arguments):
    command = [sys.executable, "-m", f"experiments.{binary}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run with its proofs: some by intervals, some by a solver."""
    directory = tmp_path_factory.mktemp("run")
    iris_network.write(directory / "network.npz")
    made = run(
        "verify_snn",
        f"--network={directory / 'network.npz'}",
        "--dataset=iris",
        "--samples=0:8",
        "--norm=linf",
        "--radius=0,1",
        "--stages=solve",
        "--backend=pysat",
        "--workers=1",
        f"--proof_dir={directory / 'proofs'}",
        f"--workdir={directory / 'results'}",
    )
    assert made.returncode == 0, made.stderr
    lines = (directory / "results" / "results.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    robust = [record for record in records if record["verdict"] == "robust"]
    assert f"{len(robust)} of {len(robust)} robust" in made.stdout
    assert any(record["verdict"] == "falsified" for record in records)
    for record in records:
        assert (record["proof"] is not None) == (record["verdict"] == "robust")
    return directory


@pytest.fixture
def made(original, tmp_path):
    """A copy to spoil."""
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def rewrite(path, change):
    """Changes the first line for which `change` returns another record."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for index, record in enumerate(records):
        changed = change(dict(record))
        if changed != record:
            records[index] = changed
            break
    else:
        raise AssertionError("nothing was changed")
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_everything_is_confirmed_without_jax_and_solvers(made, tmp_path):
    alone = run("check_proofs", made / "proofs")
    assert alone.returncode == 0, alone.stderr
    assert "intervals" in alone.stdout
    both = run(
        "check_proofs",
        f"--proof_dir={made / 'proofs'}",
        f"--results={made / 'results'}",
        f"--workdir={tmp_path / 'out'}",
    )
    assert both.returncode == 0, both.stderr
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert report["failures"] == []
    assert sum(report["confirmed"].values()) == 16
    methods = {proof["method"] for proof in report["proofs"].values()}
    assert "intervals" in methods
    assert len(methods) > 1
    # The command above refuses to succeed if any of these was imported; here in full.
    code = (
        "import sys, experiments.check_proofs\n"
        "names = 'jax jaxlib clingo exact ortools pysat.solvers pysolvers'\n"
        "assert not set(names.split()) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_later_call_goes_on_from_an_earlier_one(made, tmp_path, monkeypatch):
    proofs = made / "proofs"
    first = check_folders(proofs, memory=Memory(tmp_path))
    followed = []

    def follow(folder, load):
        followed.append(folder.name)
        return confirm(folder, load)

    monkeypatch.setattr(check_proofs, "confirm", follow)
    again, refused = check_folders(proofs, memory=Memory(tmp_path))
    assert (list(again), refused, followed) == (list(first[0]), {}, [])
    assert [found.num_steps for found in again.values()] == [
        found.num_steps for found in first[0].values()
    ]
    for altered, file in enumerate(("intervals.json", "query.json")):
        path = proofs / sorted(again)[altered] / file
        path.write_bytes(path.read_bytes() + b" ")
    _, refused = check_folders(proofs, memory=Memory(tmp_path))
    assert sorted(refused) == sorted(again)[:2]
    assert followed == []  # hashes tell
    # Other code has confirmed nothing yet.
    monkeypatch.setattr(check_proofs, "_digest_of_the_code", lambda: "another")
    check_folders(proofs, memory=Memory(tmp_path))
    assert sorted(followed) == sorted(again)


def test_processes_find_what_one_finds(made):
    folder = sorted(path for path in (made / "proofs").iterdir() if path.is_dir())[0]
    (folder / "query.json").write_bytes(b"{}")
    alone, several = (check_folders(made / "proofs", workers) for workers in (1, 2))
    assert list(alone[0]) == list(several[0])
    assert alone[1] == several[1] == {folder.name: "query.json was altered"}


def test_an_altered_proof_is_named(made):
    folder = sorted(p for p in (made / "proofs").iterdir() if p.is_dir())[0]
    file = folder / "intervals.json"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    outcome = run("check_proofs", made / "proofs", f"--results={made / 'results'}")
    assert outcome.returncode == 1
    assert f"failed: {folder.name}: intervals.json was altered" in outcome.stderr
    assert f"no proof {folder.name} holds" in outcome.stderr


def no_proof(record):
    return {**record, "proof": None} if record["proof"] else record


def another_proof(record):
    # The same sample, a narrower ball.
    return {**record, "radius": 2} if record["proof"] else record


def no_change(record):
    return {**record, "counterexample": []} if record["counterexample"] else record


def far_change(record):
    changes = record["counterexample"]
    if not changes:
        return record
    neuron, step, _ = changes[0]
    return {**record, "counterexample": [[neuron, step, (step + 5) % 10]]}


def other_start(record):
    changes = record["counterexample"]
    if not changes:
        return record
    neuron, step, changed = changes[0]
    return {**record, "counterexample": [[neuron, step + 1, changed]]}


def other_prediction(record):
    return {**record, "prediction": (record["prediction"] + 1) % 3}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (no_proof, "has no proof"),
        (another_proof, "its proof is about another query"),
        (no_change, "does not change the decision"),
        (far_change, "outside the ball"),
        (other_start, "does not spike at step"),
        (other_prediction, "the prediction is"),
    ],
)
def test_a_line_that_is_not_true_is_named(original, change, reason, tmp_path):
    shutil.copytree(original / "results", tmp_path / "results")
    rewrite(tmp_path / "results" / "results.jsonl", change)
    opened = check_results.open_run(tmp_path / "results", None)
    confirmed, refused = check_folders(original / "proofs")
    assert refused == {}
    _, failures = check_results.check(opened, confirmed)
    assert any(reason in failure for failure in failures)


def test_proofs_of_another_network_do_not_count(original):
    """Not even if that network happens to behave alike."""
    network = integer.load(original / "network.npz")
    finer = [Dense(2 * x.weights, 2 * x.thresholds + 1) for x in network.layers]
    other = IntegerNetwork(tuple(finer), 10)
    opened = check_results.open_run(original / "results", None)
    confirmed, _ = check_folders(original / "proofs")
    opened = check_results.Run(opened.records, other, opened.dataset, opened.tie)
    _, failures = check_results.check(opened, confirmed)
    assert any("another network" in failure for failure in failures)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["absent"], 2, "--proof_dir"),
        ([], 2, "--proof_dir"),
        (["{empty}"], 1, "no proofs"),
        (["{empty}", "--results=absent"], 2, "absent"),
    ],
)
def test_wrong_arguments(arguments, code, named, tmp_path):
    arguments = [argument.format(empty=tmp_path) for argument in arguments]
    outcome = run("check_proofs", *arguments)
    assert outcome.returncode == code
    assert named in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("norm", ["linf", "l1", "l0", "pixel"])
def test_queries_are_derived_as_they_are_asked(norm):
    """Once here in NumPy, once by the functions that ask them."""
    digits = data.load("digits", "test")
    rng = np.random.default_rng(0)
    network = IntegerNetwork(
        (Dense(rng.integers(-3, 4, (10, 64)), rng.integers(1, 4, 10)),), num_steps=7
    )
    opened = check_results.Run([], network, digits, Tie.ARGMIN)
    for sample, radius in itertools.product(
        (0, 5), (0.0, 0.2, 7 / 16, 1.0) if norm == "pixel" else (0, 1, 3)
    ):
        pixels = digits.images[sample].reshape(-1)
        steps = coding.latency(pixels, 7, digits.max_value)
        if norm == "pixel":
            window = coding.pixel_window(pixels, radius, 7, digits.max_value)
            asked = Query(steps, *window, 4)
        else:
            ball = {"linf": linf_query, "l1": l1_query, "l0": l0_query}[norm]
            asked = ball(steps, 4, radius, 7)
        asked = dataclasses.replace(asked, tie=Tie.ARGMIN)
        record = {"sample": sample, "norm": norm, "radius": radius, "prediction": 4}
        derived = check_results.derive_query(opened, record)
        assert manifest.query_to_json(derived) == manifest.query_to_json(asked)


def test_exact_radii_are_confirmed_from_both_sides(original, tmp_path):
    made = run(
        "verify_snn",
        f"--network={original / 'network.npz'}",
        "--dataset=iris",
        "--samples=0:4",
        "--norm=linf",
        "--find_radius",
        "--backend=pysat",
        "--workers=1",
        f"--proof_dir={tmp_path / 'proofs'}",
        f"--workdir={tmp_path / 'results'}",
    )
    assert made.returncode == 0, made.stderr
    checked = run(
        "check_proofs", tmp_path / "proofs", f"--results={tmp_path / 'results'}"
    )
    assert checked.returncode == 0, checked.stderr
    assert "4 robust, 4 falsified" in checked.stdout


def test_a_wrong_verdict_becomes_an_error(tmp_path):
    """The prover is told that a query is robust which is not."""
    layer = Dense(np.array([[1, 0], [0, 1]]), np.array([0, 0]))
    network = IntegerNetwork((layer,), num_steps=6)
    record = {"sample": 0, "norm": "linf", "verdict": "robust", "proof": None}
    steps = np.array([1, 4])
    with Prover(str(tmp_path), network, seconds=5.0, num_workers=1) as prover:
        for radius in (1, 2):
            query = linf_query(steps, 0, radius, 6)
            prover.submit({**record, "radius": radius}, query)
        proved, wrong = sorted(prover.finished(wait=True), key=lambda r: r["radius"])
    assert (tmp_path / proved["proof"] / "manifest.json").exists()
    assert (wrong["verdict"], wrong["proof"]) == ("error", None)
    assert "counterexample" in wrong["message"]
