"""Smaller networks: equal where they promise it, checked by enumeration."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import reduction
from jaxsnn.sat import replay
from jaxsnn.sat.perturbation import Perturbation
from jaxsnn.sat.query import Verdict
from jaxsnn.sat.requirement import Tie
from jaxsnn.sat.spec import Conv2D, Dense, IntegerNetwork
from jaxsnn.verify import cascade
from jaxsnn.verify.equivalence import compare
from tests.jaxsnn import small_networks


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_silent_neurons_change_no_output_on_any_input(data):
    network = data.draw(
        st.one_of(
            small_networks.networks(max_steps=5), small_networks.delayed_networks()
        )
    )
    smaller = reduction.without_silent(network)
    for point in itertools.product(range(network.num_steps), repeat=network.num_inputs):
        before, after = (
            replay.spike_steps(each, np.array(point))[-1] for each in (network, smaller)
        )
        np.testing.assert_array_equal(before, after)


def test_neurons_of_least_outgoing_weight_go_by_hand():
    first = Dense(np.arange(8).reshape(4, 2), np.arange(4))
    last = Dense(np.array([[5, -1, 0, 3], [-5, 1, 0, -4]]), np.array([1, 2]))
    network = IntegerNetwork((first, last), num_steps=8)
    smaller = reduction.prune_neurons(network, 0.6)  # two of four
    np.testing.assert_array_equal(smaller.layers[0].weights, [[0, 1], [6, 7]])
    np.testing.assert_array_equal(smaller.layers[0].thresholds, [0, 3])
    np.testing.assert_array_equal(smaller.layers[1].weights, [[5, 3], [-5, -4]])
    np.testing.assert_array_equal(
        reduction.prune_weights(network, 0.5).layers[1].weights,
        [[5, 0, 0, 3], [-5, 0, 0, -4]],
    )


def test_what_cannot_be_left_out_is_refused():
    dense = Dense(np.ones((2, 4), int), np.zeros(2, int))
    conv = Conv2D(np.ones((1, 1, 1, 1), int), np.zeros(1, int), (2, 2, 1))
    network = IntegerNetwork((conv, dense), num_steps=6)
    mask = np.array([True, False, True, True])
    with pytest.raises(ValueError, match="Conv2D"):
        reduction.keep_neurons(network, [mask])
    with pytest.raises(ValueError, match="no neurons left"):
        reduction.keep_neurons(network, [mask & False])
    with pytest.raises(ValueError, match=r"\[4\] neurons"):
        reduction.keep_neurons(network, [mask[:3]])
    with pytest.raises(ValueError, match=r"1\.5"):
        reduction.prune_weights(network, 1.5)


def test_comparison_of_a_pruned_network_equals_enumeration():
    rng = np.random.default_rng(5)
    network = IntegerNetwork(
        (
            Dense(rng.integers(-4, 7, (5, 3)), rng.integers(1, 6, 5)),
            Dense(rng.integers(-4, 6, (3, 5)), rng.integers(1, 5, 3)),
        ),
        num_steps=7,
    )
    pruned = reduction.prune_neurons(network, 0.2)
    inputs = rng.integers(0, 7, (12, 3))
    config = cascade.CascadeConfig(backends=("pysat",))
    verdicts = set()
    for tie in (Tie.ARGMIN, Tie.ADVERSARIAL):
        for sample, _, result in compare(
            network,
            pruned,
            inputs,
            [Perturbation(max_shift=1)],
            config,
            jax.random.key(0),
            tie,
        ):
            alike = all(
                _first(network, point, tie) == _first(pruned, point, tie)
                for point in itertools.product(
                    *(range(max(s - 1, 0), min(s + 1, 6) + 1) for s in inputs[sample])
                )
            )
            expected = Verdict.ROBUST if alike else Verdict.FALSIFIED
            assert result.verdict is expected
            verdicts.add((tie, expected))
    assert len(verdicts) >= 3
    longer = IntegerNetwork(network.layers, 8)
    with pytest.raises(ValueError, match="num_steps"):
        next(compare(network, longer, inputs, [], config, jax.random.key(0)))


def _first(network, point, tie):
    outputs = replay.spike_steps(network, np.array(point))[-1].tolist()
    winners = [c for c, step in enumerate(outputs) if step == min(outputs)]
    return winners[0] if tie is Tie.ARGMIN else winners
