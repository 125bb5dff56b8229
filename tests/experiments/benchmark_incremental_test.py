"""The incremental benchmark: arithmetic by hand, both sides on one small problem."""

import numpy as np
import pytest

from experiments.benchmarks import incremental
from jaxsnn.sat.encode import encode
from jaxsnn.sat.query import linf_query
from jaxsnn.sat.spec import Dense, IntegerNetwork


def record(sample, one, new, statuses=("unsatisfiable",), others=None):
    return {
        "network": "net",
        "sample": sample,
        "backend": "pysat",
        "repeat": 0,
        "one": {"seconds": one, "statuses": list(statuses)},
        "new": {"seconds": new, "statuses": list(others or statuses)},
    }


def test_rows_by_hand():
    records = [
        record(1, 1.0, 2.0),
        record(2, 1.0, 6.0),
        record(3, 2.0, 2.0),
        record(4, 9.0, 9.0, ("interrupted",)),
    ]
    (row,) = incremental.rows(records, "cpu")
    assert row["name"] == "net pysat"
    assert row["ours_seconds"] == 4.0
    assert row["peer_seconds"] == 10.0
    assert row["ratio"] == 2.5
    assert row["median_ratio"] == 2.0
    assert row["spread"] == [1.0, 6.0]
    assert row["undecided_samples"] == [4]
    with pytest.raises(RuntimeError, match="contradicts"):
        incremental.rows([record(1, 1.0, 1.0, others=("satisfiable",))], "cpu")


def test_both_sides_find_the_same():
    layer = Dense(np.array([[3, -1], [-1, 3]]), np.array([1, 1]))
    network = IntegerNetwork((layer,), num_steps=8)
    queries = [linf_query(np.array([1, 4]), 0, radius, 8) for radius in (1, 2)]
    encoding = encode(network, queries)
    for solve in (incremental.in_one_session, incremental.in_new_sessions):
        found = solve(encoding, "clingo", 10.0)
        assert found["statuses"] == ["unsatisfiable", "satisfiable"]
        assert found["seconds"] > 0
