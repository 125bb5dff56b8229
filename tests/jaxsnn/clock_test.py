"""A clock: what it does to spike times, and that it is not learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import clock, events, low_precision, network, temporal_margin
from jaxsnn.sat import replay
from jaxsnn.sat.response import leak, ramp

T = 12
DEEP = network.NetworkConfig(
    (5,), (network.Dense(4), network.Dense(3), network.Dense(2, ramp(T))), T
)


def drawn(config, seed=0):
    return network.init(jax.random.key(seed), config)


def test_the_clock_ticks_through_all_layers_and_lifts_all_outputs_alike():
    params = clock.with_clock(DEEP, drawn(DEEP), 0.9)
    for first in range(T):
        steps = np.full(5, T - 1)
        steps[3] = first
        levels = network.apply(DEEP, params, jnp.asarray(steps))
        expected = [min(first + layer, T - 1) for layer in (1, 2)]
        assert [int(level[0]) for level in levels[1:3]] == expected
    lift = np.asarray(params.weights[-1][:, 0])
    np.testing.assert_allclose(lift, 0.9)


def test_outputs_cross_as_if_thresholds_fell():
    """Worked by definition: a potential against `theta (1 - lift * age / T)`."""
    config = network.NetworkConfig(
        (6,), (network.Dense(9), network.Dense(3, ramp(T))), T
    )
    params = clock.with_clock(config, drawn(config, 1), 0.75)
    hidden = np.asarray(params.weights[1])
    rng = np.random.default_rng(0)
    seen = set()
    for steps in rng.integers(0, T, (40, 6)):
        _, fired, outputs = network.apply(config, params, jnp.asarray(steps))
        ages = np.maximum(np.arange(T)[:, None] - np.asarray(fired) + 1, 0)
        evidence = ages[:, 1:] @ hidden[:, 1:].T / T
        falling = 1 - 0.75 * ages[:, :1] / T
        above = evidence > falling
        first = np.where(above.any(axis=0), above.argmax(axis=0), T)
        np.testing.assert_array_equal(outputs, np.minimum(first + 1, T - 1))
        seen |= set(np.asarray(outputs).tolist())
    assert len(seen) > 4


def test_the_integer_network_has_the_clock():
    params = clock.with_clock(DEEP, drawn(DEEP), 0.9)
    exact = low_precision.integer_network(DEEP, params, 0)
    neurons = low_precision.integer_neurons(DEEP, params, 0)
    steps = np.random.default_rng(0).integers(0, T, (20, 5))
    expected = [replay.spike_steps(exact, one) for one in steps]
    found = events.output_steps(DEEP, neurons, jnp.asarray(steps))
    np.testing.assert_array_equal(found, [levels[-1] for levels in expected])
    ticks = [levels[2][0] for levels in expected]
    np.testing.assert_array_equal(ticks, np.minimum(steps.min(axis=1) + 2, T - 1))


def test_gradients_are_those_beside_the_clock_and_leave_it_alone():
    rule = temporal_margin.gradient(DEEP, temporal_margin.TemporalMargin())
    beside = clock.learn_beside(rule, DEEP, 0.9)
    params = drawn(DEEP)
    batch = (
        jnp.asarray(np.random.default_rng(0).integers(0, T, (8, 5))),
        jnp.zeros(8, int),
        jnp.int32(0),
    )
    loss, slope = beside(params, *batch)
    expected_loss, expected = rule(clock.with_clock(DEEP, params, 0.9), *batch)
    assert float(loss) == pytest.approx(float(expected_loss))
    for got, full, own in zip(
        slope.weights, expected.weights, ("row", "row", "column"), strict=True
    ):
        fixed = np.s_[0] if own == "row" else np.s_[:, 0]
        assert not np.asarray(got)[fixed].any()
        rest = np.s_[1:] if own == "row" else np.s_[:, 1:]
        np.testing.assert_allclose(got[rest], full[rest], rtol=1e-5)
        assert np.asarray(got).any()


@pytest.mark.parametrize(
    ("shape", "layers", "message"),
    [
        ((5,), (network.Dense(2, ramp(T)),), "there are none"),
        ((5,), (network.Dense(3), network.Dense(2)), "respond in time"),
        (
            (4, 4, 1),
            (network.Conv2D(2), network.Dense(2, leak(3.0))),
            "dense layers throughout",
        ),
    ],
)
def test_networks_without_a_place_for_a_clock_are_refused(shape, layers, message):
    config = network.NetworkConfig(shape, layers, T)
    with pytest.raises(ValueError, match=message):
        clock.learn_beside(lambda *_: None, config, 0.9)
