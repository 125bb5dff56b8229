"""Sufficient sets of inputs against enumeration."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxsnn.sat import backends, explain, replay
from jaxsnn.sat.backends import Answer, Status
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.jaxsnn import small_networks


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_set_suffices_and_no_input_can_be_left_out(data):
    network = data.draw(small_networks.networks(max_steps=5))
    query = data.draw(small_networks.questions(network, "requirement"))[-1]
    assume(not replay.falsifies(network, query, query.spike_steps))
    found = explain.sufficient_inputs(network, query, seconds=30.0)
    assert found.minimal
    assert small_networks.is_robust(network, found.query)
    for left_out in range(len(found.inputs)):
        fewer = explain.freeze(query, np.delete(found.inputs, left_out))
        assert not small_networks.is_robust(network, fewer)


class Exhausted:
    """A solver that never has the time."""

    def __init__(self, problem):
        del problem

    def solve(self, assumptions, seconds):
        return Answer(Status.INTERRUPTED)

    def close(self):
        pass


def test_without_time_everything_is_kept(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "exhausted", Exhausted)
    layer = Dense(np.array([[2, 0], [0, 2]]), np.array([1, 1]))
    network = IntegerNetwork((layer,), num_steps=8)
    query = Query(np.array([1, 4]), np.array([0, 0]), np.array([7, 7]), 0)
    found = explain.sufficient_inputs(network, query, 1.0, "exhausted")
    assert (found.inputs.tolist(), found.minimal) == ([0, 1], False)
    np.testing.assert_array_equal(found.query.low, found.query.high)


def test_what_has_no_explanation_is_refused():
    layer = Dense(np.array([[1, 0], [0, 1]]), np.array([0, 0]))
    network = IntegerNetwork((layer,), num_steps=8)
    steps = np.array([2, 2])
    tied = Query(steps, steps, steps, 0)
    with pytest.raises(ValueError, match="does not hold"):
        explain.sufficient_inputs(network, tied, 1.0)
    fails = dataclasses.replace(tied, max_dropped=1, silent_step=7)
    with pytest.raises(ValueError, match="fail"):
        explain.sufficient_inputs(network, fails, 1.0)
