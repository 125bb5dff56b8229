"""Exact radii against exhaustive enumeration of every ball."""

import numpy as np
import pytest

from jaxsnn.sat import replay
from jaxsnn.sat.query import Stage, Verdict
from jaxsnn.sat.radius import (
    l0_family,
    l1_family,
    linf_family,
    smallest_breaking_radius,
)
from jaxsnn.sat.requirement import Tie
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.jaxsnn import small_networks


@pytest.mark.parametrize("family_of", [linf_family, l1_family, l0_family])
@pytest.mark.parametrize("seed", range(12))
def test_radius_equals_enumeration(family_of, seed):
    rng = np.random.default_rng(seed)
    network = small_networks.drawn(rng, (3, 4, 3), 6, (-3, 6), (0, 4))
    steps = rng.integers(0, 6, 3)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    family = family_of(steps, label, 6, Tie.ARGMIN)
    found = smallest_breaking_radius(network, family, seconds=20.0)
    expected = next(
        (
            radius
            for radius in range(family.largest + 1)
            if not small_networks.is_robust(network, family.query(radius))
        ),
        None,
    )
    assert found.breaking == expected
    if expected is None:
        assert found.result.verdict is Verdict.ROBUST
        assert found.robust == family.largest
    else:
        assert found.result.verdict is Verdict.FALSIFIED
        assert found.robust == expected - 1
        query = family.query(expected)
        assert query.admits(found.result.counterexample)


def test_a_clean_tie_breaks_at_radius_0():
    network = IntegerNetwork((Dense(np.array([[1], [1]]), np.array([0, 0])),), 4)
    found = smallest_breaking_radius(network, linf_family(np.array([1]), 0, 4), 1.0)
    assert (found.robust, found.breaking) == (-1, 0)
    assert found.result.stage is Stage.CLEAN


def test_a_limit_leaves_a_bracket():
    rng = np.random.default_rng(1)
    network = IntegerNetwork(
        (
            Dense(rng.integers(-9, 14, (40, 40)), rng.integers(10, 40, 40)),
            Dense(rng.integers(-9, 12, (10, 40)), rng.integers(10, 40, 10)),
        ),
        num_steps=16,
    )
    steps = rng.integers(0, 16, 40)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    family = linf_family(steps, label, 16, Tie.S4NN)
    found = smallest_breaking_radius(network, family, seconds=1e-4)
    assert found.breaking is None
    assert found.result.verdict is Verdict.TIMEOUT
    assert 0 <= found.robust < family.largest
