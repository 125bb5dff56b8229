"""Balls that grow in one limit while others stay, against enumeration."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.sat import replay
from jaxsnn.sat.perturbation import Growing, Perturbation
from jaxsnn.sat.query import Verdict, l0_query, l1_query, linf_query
from jaxsnn.sat.radius import smallest_breaking_radius
from jaxsnn.sat.requirement import Latency, Tie
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.jaxsnn import small_networks

NAMES = [field.name for field in dataclasses.fields(Perturbation)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_smallest_breaking_radius_equals_enumeration(data):
    network = data.draw(small_networks.networks(max_steps=4))
    last = network.num_steps - 1
    steps = np.array(
        data.draw(
            st.lists(
                st.sampled_from([0, 1, last]),
                min_size=network.num_inputs,
                max_size=network.num_inputs,
            )
        )
    )
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    name = data.draw(st.sampled_from(NAMES))
    limits = Perturbation(
        max_shift=data.draw(st.sampled_from([None, 0, 1])),
        max_changed=data.draw(st.sampled_from([None, 1])),
        max_dropped=data.draw(st.integers(0, 1)),
    )
    requires = data.draw(st.sampled_from([None, Latency(last - 1)]))
    growing = (
        Growing(limits, name, requires=requires) if requires else Growing(limits, name)
    )
    balls = growing.family(steps, label, network.num_steps, Tie.ARGMIN)
    robust = [
        small_networks.is_robust(network, balls.query(radius))
        for radius in range(balls.largest + 2)
    ]
    found = smallest_breaking_radius(network, balls, seconds=10.0)
    if all(robust):
        assert found.breaking is None
        assert found.robust == balls.largest
        assert found.result.verdict is Verdict.ROBUST
    else:
        assert found.breaking == robust.index(False)
        assert found.robust == found.breaking - 1
        query = balls.query(found.breaking)
        assert replay.falsifies(network, query, found.result.counterexample)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Perturbation)])
def test_negative_limits_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=-1"):
        Perturbation(**{name: -1})


def test_a_fixed_limit_may_break_at_radius_zero():
    # Losing input 0 is enough, however little the others move.
    layer = Dense(np.array([[1, 0], [0, 1]]), np.array([0, 0]))
    network = IntegerNetwork((layer,), num_steps=8)
    growing = Growing(Perturbation(max_dropped=1), "max_shift")
    balls = growing.family(np.array([1, 4]), 0, 8)
    found = smallest_breaking_radius(network, balls, seconds=10.0)
    assert (found.robust, found.breaking) == (-1, 0)
    assert found.result.counterexample.tolist() == [7, 4]


def test_single_limits_are_the_balls_they_are_named_for():
    steps = np.array([0, 3, 7])
    for limits, ball in (
        (Perturbation(max_shift=2), linf_query),
        (Perturbation(max_total_shift=2), l1_query),
        (Perturbation(max_changed=2), l0_query),
    ):
        ours, theirs = limits.around(steps, 1, 8), ball(steps, 1, 2, 8)
        for field in dataclasses.fields(ours):
            np.testing.assert_array_equal(
                getattr(ours, field.name), getattr(theirs, field.name)
            )


def test_windows_hold_together():
    steps = np.array([2, 3])
    window = (np.array([1, 0]), np.array([7, 3]))
    query = Perturbation(max_shift=2).around(steps, 0, 8, window=window)
    assert (query.low.tolist(), query.high.tolist()) == ([1, 1], [4, 3])
    with pytest.raises(ValueError, match="windows must contain"):
        Perturbation().around(steps, 0, 8, window=(steps + 1, steps + 2))
