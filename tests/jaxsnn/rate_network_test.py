"""Rate-coded networks on the accelerator and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import coding, rate_network, training
from jaxsnn.sat import rate, rate_solve
from jaxsnn.sat.query import Verdict
from jaxsnn.sat.rate import LIF, Leak, RateNetwork, RateQuery


@pytest.mark.parametrize("leak", [Leak(1, 0), Leak(15, 4), Leak(1, 1)])
def test_the_accelerated_simulator_equals_the_reference(leak):
    rng = np.random.default_rng(0)
    layers = (
        LIF(rng.integers(-3, 5, (6, 5)), rng.integers(1, 7, 6)),
        LIF(rng.integers(-3, 5, (3, 6)), rng.integers(1, 5, 3)),
    )
    network = RateNetwork(layers, num_steps=5, leak=leak)
    spikes = rng.random((50, 5, 5)) < 0.5
    simulate = jax.jit(
        jax.vmap(lambda train: rate_network.output_spikes(network, train))
    )
    expected = [rate.spike_trains(network, train)[-1] for train in spikes]
    np.testing.assert_array_equal(simulate(spikes), expected)
    assert 0.1 < np.mean(expected) < 0.9  # or the comparison says little


def test_a_trained_network_is_the_one_that_is_verified():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    chosen = data.target < 3
    pixels, labels = data.data[chosen].astype(np.int32), data.target[chosen]
    spikes = np.moveaxis(coding.even_rate(pixels, 5, max_value=16), 0, 1)
    config = rate_network.RateConfig((64, 6, 3), num_steps=5)
    optimizer = optax.adam(0.02)
    update = training.make_update(rate_network.gradient(config), optimizer)

    trains, classes = jnp.asarray(spikes), jnp.asarray(labels)

    @jax.jit
    def train(state, keys):
        def one(state, key):
            rows = jax.random.randint(key, (32,), 0, len(labels))
            return update(state, key, trains[rows], classes[rows])

        return jax.lax.scan(one, state, keys)

    params = rate_network.init(jax.random.key(0), config)
    state = training.initial_state(params, optimizer)
    state, losses = train(state, jax.random.split(jax.random.key(1), 150))
    assert losses[-20:].mean() < losses[:20].mean()
    network = rate_network.integer_network(config, state.params)
    outputs = [rate.spike_trains(network, one)[-1] for one in spikes[:100]]
    predictions = [rate.prediction(one) for one in outputs]
    assert np.mean(predictions == labels[:100]) > 0.8
    # Every single flip, tried one by one, against the solvers.
    for index in range(6):
        query = RateQuery(spikes[index], predictions[index], 1)
        (result,) = rate_solve.solve_each(network, [query], 10.0, ("clingo",))
        broken = query.violated_by(outputs[index])
        for place in np.ndindex(spikes[index].shape):
            flipped = spikes[index].copy()
            flipped[place] ^= True
            broken |= query.violated_by(rate.spike_trains(network, flipped)[-1])
        assert (result.verdict is Verdict.FALSIFIED) == broken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (3,)}, "two or more"),
        ({"weight_bits": 9}, "bits=9"),
        ({"weight_bits": 0}, "need whole weights"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        rate_network.RateConfig(**({"widths": (3, 2), "num_steps": 4} | arguments))
