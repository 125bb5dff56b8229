"""Each baseline against exhaustive enumeration; limits that hold."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks.baselines import (
    direct_search,
    killable,
    milp,
    our_form,
)
from jaxsnn.sat import backends, replay
from jaxsnn.sat.query import Query, Result, Verdict, l1_query, linf_query
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.jaxsnn import small_networks


def check(solve, network, query):
    result = solve(network, query, 30.0)
    if small_networks.is_robust(network, query):
        assert result.verdict is Verdict.ROBUST
        return
    assert result.verdict is Verdict.FALSIFIED
    assert query.admits(result.counterexample)
    outputs = replay.spike_steps(network, result.counterexample)[-1]
    assert query.violated_by(outputs)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_milp_equals_enumeration(data):
    network = data.draw(small_networks.networks(max_steps=5))
    check(milp.solve, network, data.draw(small_networks.nested_queries(network))[-1])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_smt_equals_enumeration(data):
    smt = pytest.importorskip(
        "experiments.benchmarks.baselines.smt",
        reason="z3-solver is not installed",
        exc_type=ImportError,
    )
    network = data.draw(small_networks.networks(max_steps=5))
    check(smt.solve, network, data.draw(small_networks.nested_queries(network))[-1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_direct_search_equals_enumeration(seed, budget):
    """Few networks, as each is compiled; many inputs of each."""
    rng = np.random.default_rng(seed)
    network = small_networks.drawn(rng, (4, 4, 3), 6)
    for _ in range(5):
        steps = rng.integers(0, 6, 4)
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        check(direct_search.solve, network, l1_query(steps, label, budget, 6))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_direct_search_visits_every_admissible_input_once(data):
    network = data.draw(small_networks.networks(max_steps=4))
    query = data.draw(small_networks.nested_queries(network))[-1]
    visited = []
    for changes in direct_search.perturbations(query):
        steps = query.spike_steps.copy()
        for neuron, step in changes:
            steps[neuron] = step
        visited.append(tuple(steps.tolist()))
    expected = {tuple(point.tolist()) for point in small_networks.admissible(query)}
    assert len(visited) == len(expected)
    assert set(visited) == expected


def test_direct_search_wants_a_budget():
    network = IntegerNetwork((Dense(np.eye(2, dtype=int), np.zeros(2, int)),), 4)
    with pytest.raises(ValueError, match="budget"):
        direct_search.solve(network, linf_query(np.array([0, 1]), 0, 1, 4), 1.0)


@pytest.mark.parametrize("backend", backends.installed())
def test_our_form_equals_enumeration(backend):
    rng = np.random.default_rng(1)
    network = small_networks.drawn(rng, (4, 4, 3), 6)
    steps = rng.integers(0, 6, 4)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    check(our_form.solver(backend), network, l1_query(steps, label, 2, 6))


def sleep_or_fail(network: IntegerNetwork, query: Query, seconds: float) -> Result:
    """Obeys no limit at budget 1, and fails at any other."""
    if query.max_total_shift == 1:
        time.sleep(60)
    raise ValueError("no such luck")


def test_what_obeys_no_limit_is_killed(monkeypatch):
    monkeypatch.setattr(killable, "_GRACE_SECONDS", 0.1)
    network = IntegerNetwork((Dense(np.eye(2, dtype=int), np.zeros(2, int)),), 4)
    steps = np.array([0, 1])
    with killable.Engine("sleeper", sleep_or_fail, network) as engine:
        started = time.monotonic()
        late = engine.solve(l1_query(steps, 0, 1, 4), 0.2)
        assert late.verdict is Verdict.TIMEOUT
        assert time.monotonic() - started < 30
        # The next query gets another process.
        monkeypatch.setattr(killable, "_GRACE_SECONDS", 20.0)
        failed = engine.solve(l1_query(steps, 0, 2, 4), 1.0)
        assert failed.verdict is Verdict.ERROR
        assert failed.message == "no such luck"


def test_killable_process_returns_what_the_baseline_found():
    network = IntegerNetwork((Dense(np.eye(2, dtype=int), np.zeros(2, int)),), 5)
    steps = np.array([0, 2])
    with killable.Engine("milp", milp.solve, network) as engine:
        assert engine.solve(l1_query(steps, 0, 1, 5), 20).verdict is Verdict.ROBUST
        assert engine.solve(l1_query(steps, 0, 2, 5), 20).verdict is Verdict.FALSIFIED
