"""Queries that cannot be meant are refused before anything is decided about them."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxsnn.sat.query import Query, Verdict, linf_query
from jaxsnn.sat.radius import climb, linf_family
from jaxsnn.sat.solve import solve
from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.verify.cascade import CascadeConfig, verify

NETWORK = IntegerNetwork(
    (Dense(np.array([[3, -1], [-1, 3]]), np.array([1, 1])),), num_steps=8
)
STEPS = np.array([1, 4])
QUERY = linf_query(STEPS, label=0, radius=1, num_steps=8)


def decided_by_solve(query):
    return solve(NETWORK, [query], 10.0)


def decided_by_cascade(query):
    config = CascadeConfig(backends=("pysat",))
    return list(verify(NETWORK, [[query]], config, jax.random.key(0)))


def test_a_verdict_is_no_boolean():
    with pytest.raises(TypeError, match=r"is Verdict\.ROBUST"):
        bool(Verdict.FALSIFIED)


@pytest.mark.parametrize("decided", [decided_by_solve, decided_by_cascade])
@pytest.mark.parametrize(
    ("query", "told"),
    [
        (linf_query(np.array([1, 4, 4]), 0, 1, 8), "about 3 inputs, the network has 2"),
        (linf_query(STEPS, 0, 5, 20), "reach from step 0 to 9, the network has the st"),
        (Query(STEPS, STEPS - 2, STEPS, 0), "reach from step -1 to 4"),
        (dataclasses.replace(QUERY, label=-1), "label=-1 must be one of the classes 0"),
        (dataclasses.replace(QUERY, label=2), "label=2 must be one of the classes 0"),
        (dataclasses.replace(QUERY, target=2), "target=2 must be one of the classes"),
        (dataclasses.replace(QUERY, silent_step=9), "silent_step=9 must be 7"),
    ],
)
def test_queries_about_another_network_are_refused(decided, query, told):
    with pytest.raises(ValueError, match=told):
        decided(query)


def test_radii_of_another_network_are_refused():
    family = linf_family(STEPS, label=2, num_steps=8)
    with pytest.raises(ValueError, match="label=2 must be one of the classes 0 to 1"):
        list(climb(NETWORK, family, 10.0))


@pytest.mark.parametrize("steps", [[1.5, 4], [np.nan, 4]])
def test_steps_are_whole(steps):
    with pytest.raises(ValueError, match=rf"spike_steps holds {steps[0]}, which is no"):
        Query(np.array(steps), STEPS, STEPS, 0)
    assert Query(STEPS.astype(float), STEPS, STEPS, 0).spike_steps.dtype == np.int64


@pytest.mark.parametrize("names", [(), ("kissat",)])
def test_some_backend_must_be_known(names):
    with pytest.raises(ValueError, match=r"is not one of .*pysat"):
        solve(NETWORK, [QUERY], 10.0, names)


def test_backends_of_the_cascade_are_known_before_it_runs():
    with pytest.raises(ValueError, match=r"\['kissat'\] are not among .*pysat"):
        CascadeConfig(backends=("pysat", "kissat"))


def test_time_that_is_over_is_a_timeout():
    (result,) = solve(NETWORK, [QUERY], 0.0)
    assert result.verdict is Verdict.TIMEOUT
