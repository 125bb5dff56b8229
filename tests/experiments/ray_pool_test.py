"""The pool on Ray: the events of the local one, deaths survived, hangs killed."""

import os
import pathlib
import time

import numpy as np
import pytest

from jaxsnn.sat.portfolio import Portfolio
from jaxsnn.sat.query import Verdict, linf_query
from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.sat.workers import Kind

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.peer

LAYER = Dense(np.array([[3, -1], [-1, 3]]), np.array([1, 1]))
NETWORK = IntegerNetwork((LAYER,), num_steps=8)


def count(network, number):
    yield from range(number)


def fail(network):
    yield "first"
    raise ValueError("no good")


def hang(network):
    yield "first"
    time.sleep(600)


def die_once(network, path):
    if not pathlib.Path(path).exists():
        pathlib.Path(path).touch()
        os._exit(3)
    yield "survived"


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_items_arrive_in_order_and_bad_tasks_harm_only_themselves(tmp_path):
    from experiments.ray_pool import RayPool

    events = {}
    with RayPool(NETWORK, num_workers=2, limit_seconds=15.0) as pool:
        pool.submit("count", count, 3)
        pool.submit("fail", fail)
        pool.submit("die", die_once, str(tmp_path / "died"))
        pool.submit("hang", hang)
        pool.submit("never", hang)
        pool.cancel("never")
        for event in pool.events(wait=True):
            events.setdefault(event.task, []).append((event.kind, event.value))
    assert events["count"] == [*((Kind.ITEM, k) for k in range(3)), (Kind.DONE, None)]
    assert events["fail"][-1] == (Kind.FAILED, "ValueError: no good")
    assert events["die"] == [(Kind.ITEM, "survived"), (Kind.DONE, None)]
    assert events["hang"] == [(Kind.ITEM, "first"), (Kind.STALLED, None)]
    assert "never" not in events


def test_a_portfolio_decides_on_a_cluster():
    from experiments.ray_pool import RayPool

    queries = [linf_query(np.array([1, 4]), 0, radius, 8) for radius in (1, 2)]
    names = ("clingo", "pysat")
    with Portfolio(NETWORK, names, 60.0, 2, make_pool=RayPool) as solvers:
        solvers.submit("task", queries)
        found = {position: result for _, position, result in solvers.finished(True)}
    assert [found[k].verdict for k in (0, 1)] == [Verdict.ROBUST, Verdict.FALSIFIED]
