"""Solvers take turns, then race; whatever one of them does, the others go on."""

import time

import numpy as np
import pytest

from jaxsnn.sat import portfolio, workers
from jaxsnn.sat.portfolio import Portfolio
from jaxsnn.sat.query import Verdict, linf_query
from jaxsnn.sat.solve import solve_each
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.jaxsnn import fake_solvers

LAYER = Dense(np.array([[3, -1], [-1, 3]]), np.array([1, 1]))
NETWORK = IntegerNetwork((LAYER,), num_steps=8)
QUERIES = [linf_query(np.array([1, 4]), 0, radius, 8) for radius in (1, 2, 3)]
EXPECTED = [Verdict.ROBUST, Verdict.FALSIFIED, Verdict.FALSIFIED]


def decide(names, seconds, solve):
    """The results of the queries, each decided exactly once."""
    found = {}
    with Portfolio(NETWORK, names, seconds, num_workers=2, solve=solve) as solvers:
        solvers.submit("task", QUERIES)
        for task, position, result in solvers.finished(wait=True):
            assert task == "task"
            assert position not in found
            found[position] = result
    return [found[position] for position in range(len(QUERIES))]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(portfolio, "TURNS_SECONDS", 1.0)
    monkeypatch.setattr(portfolio, "_TURNS_OVERRUN_SECONDS", 0.5)
    monkeypatch.setattr(workers, "_WAIT_SECONDS", 0.05)


def test_real_solvers_decide_in_turns():
    found = decide(("clingo", "pysat"), 20.0, solve_each)
    assert [result.verdict for result in found] == EXPECTED
    for query, result in zip(QUERIES, found, strict=True):
        assert result.backend in ("clingo", "pysat")
        if result.verdict is Verdict.FALSIFIED:
            assert query.admits(result.counterexample)


@pytest.mark.parametrize("other", ["dead", "deaf"])
def test_one_good_solver_decides_whatever_the_other_does(other):
    found = decide((other, "good"), 30.0, fake_solvers.behave)
    assert [result.verdict for result in found] == EXPECTED
    assert {result.backend for result in found} == {"good"}
    assert max(result.seconds for result in found) < 30


def test_a_solver_that_overruns_its_turn_leaves_the_race_to_the_others():
    found = decide(("broken", "good"), 30.0, fake_solvers.deaf_in_turns)
    assert [result.verdict for result in found] == EXPECTED


def test_what_nobody_decides_ends_at_the_limit():
    started = time.monotonic()
    found = decide(("deaf", "idle"), 2.0, fake_solvers.behave)
    assert {result.verdict for result in found} == {Verdict.TIMEOUT}
    for result in found:
        assert 1.0 < result.seconds <= 2.0 + workers.GRACE_SECONDS
    # Three queries, each given up after 2 s and killed 1 s later.
    assert time.monotonic() - started < 3 * 3 + 20


def test_results_are_as_old_as_they_are_however_late_they_are_looked_at():
    with Portfolio(
        NETWORK, ("deaf", "good"), 30.0, num_workers=2, solve=fake_solvers.behave
    ) as solvers:
        solvers.submit("task", QUERIES[:1])
        found = list(solvers.finished())
        while not solvers._races:
            time.sleep(0.05)
            found += solvers.finished()
        time.sleep(5.0)
        found += solvers.finished(wait=True)
    ((_, _, result),) = found
    assert result.verdict is Verdict.ROBUST
    assert result.seconds < 5.0


def test_failures_of_all_solvers_are_told():
    found = decide(("dead", "broken"), 60.0, fake_solvers.behave)
    for result in found:
        assert result.verdict is Verdict.ERROR
        assert "dead: " in result.message
        assert "broken: ValueError: no good" in result.message
