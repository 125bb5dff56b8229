"""The benchmark's peer computes the same matrix, and its rows mean what they say."""

import jax
import numpy as np
import pytest

from experiments.benchmarks import cka
from experiments.benchmarks.baselines import pairwise_cka
from jaxprune import similarity


def test_peer_and_ours_agree():
    keys = jax.random.split(jax.random.key(0), 3)
    base = jax.random.normal(jax.random.key(1), (20, 5))
    layers = [base + jax.random.normal(key, (20, 5)) for key in keys]
    estimator = similarity.Estimator(group_size=20)
    states = similarity.group_states(layers, None, estimator)
    ours = similarity.finish(similarity.total(states))
    np.testing.assert_allclose(ours, pairwise_cka.cka_matrix(layers), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "bert-tiny"])
def test_rows_of_a_small_model(name, tmp_path):
    rows = cka.measure_model(name, 8, 4, 2, 0, "test", pairwise=True)
    assert [entry["peer"] for entry in rows] == [cka._FORWARD, cka._PAIRWISE]
    for entry in rows:
        assert entry["ours_seconds"] > 0
        low, high = entry["spread"]["ratio_quartiles"]
        assert low <= entry["ratio"] <= high
    report = {"rows": rows, "scaling": {}, "skipped": []}
    cka.plot(report, tmp_path / "cka.png")
    assert (tmp_path / "cka.png").stat().st_size > 0
    assert f"{name}, n=8, groups of 4" in cka.describe(report)


def test_row_by_hand():
    entry = cka.row("name", "peer", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], "cpu")
    assert entry["ours_seconds"] == pytest.approx(2)
    assert entry["ratio"] == pytest.approx(1)
