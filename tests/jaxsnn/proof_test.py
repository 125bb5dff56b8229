"""Proof folders: made for random networks, confirmed, and refused once altered."""

import dataclasses
import functools
import gzip
import importlib.util
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxsnn import integer
from jaxsnn.sat import proof
from jaxsnn.sat.check import manifest
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.folder import confirm
from jaxsnn.sat.check.manifest import Method
from jaxsnn.sat.query import Query, linf_query
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Robust
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.jaxsnn import small_networks

HAS_EXACT = importlib.util.find_spec("exact") is not None
NEEDS_EXACT = pytest.mark.skipif(not HAS_EXACT, reason="Exact is not installed")
REFUTERS = [
    Method.CLAUSES,
    pytest.param(Method.CUTTING_PLANES, marks=NEEDS_EXACT),
]


def write(directory, network, query, proved):
    file = directory / "network.npz"
    integer.save(file, network)
    other = None
    if isinstance(query.requires, Alike):
        other = directory / "other.npz"
        integer.save(other, query.requires.other)
    subject = {"sample": 3}
    name = proof.write(directory, "a", network, file, query, proved, subject, other)
    return directory / name


@functools.cache
def undecided_by_intervals(seed=0):
    """A robust query whose proof needs a refutation."""
    rng = np.random.default_rng(seed)
    while True:
        network = IntegerNetwork(
            (
                Dense(rng.integers(-4, 6, (4, 5)), rng.integers(1, 6, 4)),
                Dense(rng.integers(-4, 6, (3, 4)), rng.integers(1, 4, 3)),
            ),
            num_steps=6,
        )
        query = linf_query(rng.integers(0, 6, 5), int(rng.integers(3)), 1, 6)
        if small_networks.is_robust(network, query):
            found = proof.prove(network, query, 10.0, (Method.CLAUSES,))
            num_lines = 0
            if found.method is Method.CLAUSES:
                refutation = found.files["refutation.drup.gz"]
                num_lines = gzip.decompress(refutation).count(b"\n")
            if num_lines > 5:
                return network, query


@pytest.mark.parametrize("method", REFUTERS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_robust_queries_have_proofs_and_others_cannot(method, tmp_path, data):
    network = data.draw(small_networks.networks(max_steps=5))
    query = data.draw(small_networks.questions(network))[-1]
    if not small_networks.is_robust(network, query):
        with pytest.raises(proof.ContradictionError):
            proof.prove(network, query, 10.0, (method,))
        return
    proved = proof.prove(network, query, 10.0, (method,))
    confirmed = confirm(write(tmp_path, network, query, proved), integer.load)
    assert confirmed.manifest.method is proved.method
    assert confirmed.manifest.subject == {"sample": 3}
    assert manifest.query_to_json(confirmed.query) == manifest.query_to_json(query)


def changed(query, kind):
    """The query for a proof of this kind, robust as it was."""
    if kind == "intervals":  # one input is all there is
        return dataclasses.replace(query, low=query.spike_steps, high=query.spike_steps)
    if kind == "two networks":
        network, _ = undecided_by_intervals()
        return dataclasses.replace(query, requires=Alike(network))
    if kind == "budget":
        return dataclasses.replace(query, max_total_shift=2)
    return query


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("intervals", Method.CLAUSES),
        ("two networks", Method.CLAUSES),
        ("budget", Method.CLAUSES),
        ("window", Method.CLAUSES),
        pytest.param("window", Method.CUTTING_PLANES, marks=NEEDS_EXACT),
    ],
)
def test_any_altered_byte_is_noticed(kind, method, tmp_path):
    network, query = undecided_by_intervals()
    query = changed(query, kind)
    proved = proof.prove(network, query, 10.0, (method,))
    if kind == "intervals":
        method = Method.INTERVALS
    if kind != "budget":  # intervals may do
        assert proved.method is method
    folder = write(tmp_path, network, query, proved)
    load = functools.cache(integer.load)
    confirm(folder, load)
    rng = np.random.default_rng(1)
    for file in [*folder.iterdir(), *tmp_path.glob("*.npz")]:
        original = file.read_bytes()
        positions = {0, len(original) - 1, *rng.integers(len(original), size=12)}
        if file.name == manifest.MANIFEST_FILE and kind == "window":
            positions = range(len(original))
        for position in positions:
            altered = bytearray(original)
            altered[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(altered)
            with pytest.raises(ProofError):
                confirm(folder, load)
        for altered in (original[:-1], original[: len(original) // 2], b""):
            file.write_bytes(altered)
            with pytest.raises(ProofError):
                confirm(folder, load)
        file.write_bytes(original)
    confirm(folder, load)


def reseal_and_confirm(folder, files):
    """Alters files as one would who can write the manifest, too."""
    sealed, present = manifest.open_sealed(folder)
    changed = {**present, **files}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    other = folder.parent / "other.npz"
    query = manifest.query_from_json(
        changed["query.json"], integer.load(other) if other.exists() else None
    )
    sealed = sealed._replace(
        files={name: manifest.sha256(content) for name, content in changed.items()},
        query=manifest.sha256(changed["query.json"]),
        input=manifest.input_digest(query),
    )
    (folder / "manifest.json").write_bytes(manifest.seal(sealed))
    confirm(folder, integer.load)


@pytest.mark.parametrize("method", REFUTERS)
def test_wrong_proofs_with_right_hashes_are_refused(method, tmp_path):
    network, query = undecided_by_intervals()
    proved = proof.prove(network, query, 10.0, (method,))
    formula_file, refutation_file = manifest.REFUTATION_FILES[method]
    wider = Query(query.spike_steps, query.low * 0, query.high, query.label)
    text = gzip.decompress(proved.files[formula_file]).decode()
    first, *lines = text.splitlines(keepends=True)
    levels = json.loads(proved.files["intervals.json"])
    levels[0]["low"][0] += 1
    refutation = gzip.decompress(proved.files[refutation_file]).splitlines(True)

    cases = {
        "interval": {"intervals.json": manifest.to_json(levels)},
        "formula of this query": {
            formula_file: gzip.compress("".join([first, *lines[1:]]).encode())
        },
        "does not follow|formula of this query": {
            "query.json": manifest.query_to_json(wider)
        },
        "ends without": {refutation_file: gzip.compress(refutation[0])},
        "unpacked": {refutation_file: b"no archive"},
        "no query": {"query.json": b"{}\n"},
        "holds no intervals": {"intervals.json": b"[[1, 2]]\n"},
    }
    for number, (reason, files) in enumerate(cases.items()):
        directory = tmp_path / str(number)
        directory.mkdir()
        folder = write(directory, network, query, proved)
        with pytest.raises(ProofError, match=reason):
            reseal_and_confirm(folder, files)


@pytest.mark.parametrize("method", REFUTERS)
def test_a_proof_for_another_network_is_refused(method, tmp_path):
    network, query = undecided_by_intervals()
    proved = proof.prove(network, query, 10.0, (method,))
    first, second = network.layers
    other = IntegerNetwork((Dense(first.weights[::-1], first.thresholds), second), 6)
    folder = write(tmp_path, network, query, proved)
    with pytest.raises(ProofError, match="network that the manifest names"):
        confirm(folder, lambda _: other)
    # A manifest that names the other network: another formula, or other intervals.
    folder = write(tmp_path, other, query, proved)
    with pytest.raises(ProofError, match=r"does not follow|formula of this query"):
        confirm(folder, integer.load)


def test_intervals_that_do_not_decide_are_refused(tmp_path):
    network, query = undecided_by_intervals()
    proved = proof.prove(network, query, 10.0, (Method.CLAUSES,))
    intervals = {"intervals.json": proved.files["intervals.json"]}
    folder = write(tmp_path, network, query, proof.Proof(Method.INTERVALS, intervals))
    with pytest.raises(ProofError, match=r"class \d may spike"):
        confirm(folder, integer.load)


def test_missing_and_superfluous_files_are_named(tmp_path):
    network, query = undecided_by_intervals()
    proved = proof.prove(network, query, 10.0, (Method.CLAUSES,))
    folder = write(tmp_path, network, query, proved)
    (folder / "more.txt").write_text("x")
    with pytest.raises(ProofError, match=r"more\.txt"):
        confirm(folder, integer.load)
    (folder / "more.txt").unlink()
    (folder / "intervals.json").unlink()
    with pytest.raises(ProofError, match=r"intervals\.json"):
        confirm(folder, integer.load)
    folder = write(tmp_path, network, query, proved)
    (tmp_path / "network.npz").unlink()
    with pytest.raises(ProofError, match=r"network\.npz cannot be read"):
        confirm(folder, integer.load)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ProofError, match=r"no readable manifest\.json"):
        confirm(folder, integer.load)


def test_a_hard_query_is_not_proved_in_no_time():
    network, query = undecided_by_intervals()
    found = proof.prove(network, query, 0.0, (Method.CLAUSES,))
    assert isinstance(found, proof.NotProved)
    assert "within 0 s" in found.reason


def test_digests_tell_networks_apart_by_what_they_compute():
    weights, thresholds = np.array([[1, 2], [3, 4]]), np.array([1, 2])
    network = IntegerNetwork((Dense(weights, thresholds),), 4)
    digest = manifest.network_digest(network)
    scaled = IntegerNetwork((Dense(weights, thresholds),), 4, scale=16.0)
    assert manifest.network_digest(scaled) == digest  # the scale is a label
    for other in (
        IntegerNetwork((Dense(weights, thresholds),), 5),
        IntegerNetwork((Dense(weights, thresholds[::-1]),), 4),
        IntegerNetwork((Dense(weights[::-1], thresholds),), 4),
        IntegerNetwork((Dense(weights, thresholds),) * 2, 4),
    ):
        assert manifest.network_digest(other) != digest


def test_a_proof_of_one_requirement_is_none_of_another(tmp_path):
    # Output 0 always follows input 0 by a step, output 1 never spikes of itself.
    layer = Dense(np.array([[1, 0], [0, 0]]), np.array([0, 0]))
    network = IntegerNetwork((layer,), num_steps=8)
    other = IntegerNetwork((Dense(layer.weights, np.array([0, 1])),), num_steps=8)
    robust = linf_query(np.array([1, 5]), 0, 1, 8)
    questions = [
        dataclasses.replace(robust, requires=requires)
        for requires in (
            Robust(),
            Latency(3),
            Latency(3, of_label=True),
            Monotone(1, 0),
            Alike(other),
        )
    ]
    impossible = dataclasses.replace(robust, requires=Latency(1))
    lossy = dataclasses.replace(robust, max_dropped=1, silent_step=7)
    for number, query in enumerate(questions):
        directory = tmp_path / str(number)
        directory.mkdir()
        proved = proof.prove(network, query, 10.0)
        folder = write(directory, network, query, proved)
        confirmed = confirm(folder, integer.load)
        assert type(confirmed.query.requires) is type(query.requires)
        for wrong in (impossible, lossy):
            with pytest.raises(ProofError, match=r"not follow|late|query|layers"):
                reseal_and_confirm(
                    folder, {"query.json": manifest.query_to_json(wrong)}
                )


def test_the_other_network_is_part_of_the_question(tmp_path):
    layer = Dense(np.array([[1, 0], [0, 0]]), np.array([0, 0]))
    network, longer = (IntegerNetwork((layer,), steps) for steps in (8, 9))
    query = dataclasses.replace(
        linf_query(np.array([1, 5]), 0, 1, 8), requires=Alike(network)
    )
    folder = write(tmp_path, network, query, proof.prove(network, query, 10.0))
    assert isinstance(confirm(folder, integer.load).query.requires, Alike)
    integer.save(tmp_path / "other.npz", longer)
    with pytest.raises(ProofError, match=r"other.npz was altered"):
        confirm(folder, integer.load)
    digest = manifest.sha256((tmp_path / "other.npz").read_bytes())
    sealed, _ = manifest.open_sealed(folder)
    for changes in ({"other_file_sha256": digest}, {"other_file": None}):
        altered = sealed._replace(**changes)
        (folder / "manifest.json").write_bytes(manifest.seal(altered))
        with pytest.raises(ProofError, match="no query"):
            confirm(folder, integer.load)
