"""Delays and responses of float networks: one definition forward, useful gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import (
    coding,
    events,
    low_precision,
    network,
    s4nn,
    surrogate,
    temporal_margin,
    training,
)
from jaxsnn.sat import replay
from jaxsnn.sat.response import alpha, leak, ramp

LEAK, RAMP, ALPHA = leak(3.0, bits=3), ramp(3), alpha(2.0, bits=3)


def configs(kind, num_steps=8):
    rng = np.random.default_rng(3)
    if kind == "dense":
        delays = network.Delays.of(rng.integers(0, 3, (6, 5)))
        layers = (network.Dense(6, LEAK, delays), network.Dense(3, RAMP))
        return network.NetworkConfig((5,), layers, num_steps)
    delays = network.Delays.of(rng.integers(0, 2, (2, 4)))
    layers = (
        network.Conv2D(2, (2, 2), response=ALPHA, delays=delays),
        network.EarliestPool2D(),
        network.Dense(3, LEAK),
    )
    return network.NetworkConfig((3, 5, 1), layers, num_steps)


@pytest.mark.parametrize(("kind", "bits"), [("dense", 4), ("conv", 0)])
def test_every_simulator_gives_the_times_of_the_exact_network(kind, bits):
    config = configs(kind)
    params = network.init(jax.random.key(1), config)
    params = jax.tree.map(lambda w: 1.5 * (w - w.mean() / 2), params)
    steps = np.random.default_rng(0).integers(0, 8, (40, np.prod(config.input_shape)))
    exact = low_precision.integer_network(config, params, bits)
    expected = np.array([replay.spike_steps(exact, one)[-1] for one in steps])
    assert len(np.unique(expected, axis=0)) > 5  # or the comparison says little
    neurons = low_precision.integer_neurons(config, params, bits)
    found = jax.jit(events.output_steps, static_argnums=0)(config, neurons, steps)
    np.testing.assert_array_equal(found, expected)
    seen = surrogate.output_times(config, neurons, steps, surrogate.Surrogate())
    np.testing.assert_array_equal(seen, expected)
    whole = network.Params(tuple(layer.weights for layer in neurons))
    thresholds = {float(layer.threshold) for layer in neurons}
    if len(thresholds) == 1:  # `apply` has one threshold
        one = network.NetworkConfig(
            config.input_shape, config.layers, config.num_steps, thresholds.pop()
        )
        levels = jax.vmap(lambda row: network.apply(one, whole, row)[-1])(steps)
        np.testing.assert_array_equal(levels, expected)


@pytest.mark.parametrize("response", [LEAK, ramp(64), alpha(9.0)])
@pytest.mark.parametrize("max_delay", [0, 2])
def test_potentials_from_sums_of_arrivals_are_those_of_every_step(response, max_delay):
    rng = np.random.default_rng(max_delay)
    delays = network.Delays.of(rng.integers(0, max_delay + 1, (7, 200)))
    layer = network.Dense(7, response, delays if max_delay else None)
    config = network.NetworkConfig((200,), (layer,), num_steps=64)
    params = network.Params((jnp.asarray(rng.normal(0.1, 1.0, (7, 200)) * 40),))
    neurons = low_precision.integer_neurons(config, params, 4)
    steps = rng.integers(0, 64, (20, 200))
    steps[0], steps[1] = 63, 62  # nothing arrives in time
    exact = low_precision.integer_network(config, params, 4)
    expected = np.array([replay.spike_steps(exact, one)[-1] for one in steps])
    assert len(np.unique(expected)) > 5  # or the comparison says little
    for simulate in (events.by_arrivals, events.by_responses):
        found = jax.jit(simulate, static_argnums=(0, 3))(layer, neurons[0], steps, 64)
        np.testing.assert_array_equal(found, expected)
    found = jax.jit(events.output_steps, static_argnums=0)(config, neurons, steps)
    np.testing.assert_array_equal(found, expected)


def test_bounds_of_output_times_are_sound():
    config = configs("dense")
    params = network.init(jax.random.key(2), config)
    neurons = low_precision.integer_neurons(config, params, 4)
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 8, (20, 5))
    low, high = np.maximum(steps - 1, 0), np.minimum(steps + 1, 7)
    first, last = surrogate.output_bounds(
        config, neurons, low, high, surrogate.Surrogate()
    )
    first, last = np.asarray(first), np.asarray(last)
    simulate = jax.jit(events.output_steps, static_argnums=0)
    for _ in range(20):
        moved = rng.integers(low, high + 1)
        outputs = np.asarray(simulate(config, neurons, moved))
        assert (first <= outputs).all()
        assert (outputs <= last).all()


def test_digits_are_learned_with_a_leak():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    steps = coding.latency(data.data.astype(np.int32), 12, max_value=16)
    steps, labels = jnp.asarray(steps[:600]), jnp.asarray(data.target[:600])
    config = network.NetworkConfig(
        (64,), (network.Dense(16, LEAK), network.Dense(10, LEAK)), 12
    )
    objective = temporal_margin.TemporalMargin(weight_bits=4)
    optimizer = optax.adam(0.02)
    update = training.make_update(
        temporal_margin.gradient(config, objective), optimizer
    )

    @jax.jit
    def train(state, keys):
        def one(state, key):
            rows = jax.random.randint(key, (50,), 0, 600)
            return update(state, key, steps[rows], labels[rows])

        return jax.lax.scan(one, state, keys)[0]

    params = network.init(jax.random.key(0), config)
    state = training.initial_state(params, optimizer)
    state = train(state, jax.random.split(jax.random.key(1), 120))
    exact = low_precision.integer_network(config, state.params, 4)
    outputs = [replay.spike_steps(exact, np.asarray(one))[-1] for one in steps[:200]]
    assert np.mean(np.argmin(outputs, axis=1) == labels[:200]) > 0.6


def test_what_cannot_be_done_is_said():
    config = configs("dense")
    params = network.init(jax.random.key(2), config)
    neurons = low_precision.integer_neurons(config, params, 4)
    few = surrogate.Surrogate(num_samples=4)
    box = jnp.zeros((1, 5), jnp.int32), jnp.ones((1, 5), jnp.int32)
    with pytest.raises(ValueError, match="num_samples=4 must be None"):
        surrogate.output_bounds(config, neurons, *box, few)
    with pytest.raises(ValueError, match="S4NN rule"):
        s4nn.gradient(config, s4nn.Rule())
    delayed = network.Dense(2, delays=network.Delays.of(np.zeros((1, 2), int)))
    with pytest.raises(ValueError, match=r"delays of shape \(1, 2\) for weights"):
        network.NetworkConfig((5,), (delayed,), 8)
    with pytest.raises(ValueError, match="from 0 to 32767"):
        network.Delays.of(np.array([[-1]]))
