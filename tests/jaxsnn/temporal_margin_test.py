import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import low_precision, network, surrogate, temporal_margin, training


def test_loss_of_ties_and_silence():
    def loss(times, margin):
        return float(temporal_margin.loss(jnp.array(times), jnp.array(0), margin, 1.0))

    assert loss([4.0, 4.0, 99.0], 0.0) == pytest.approx(math.log(2), rel=1e-5)
    assert loss([7.0, 7.0, 7.0], 0.0) == pytest.approx(math.log(3), rel=1e-5)
    # e^-1 for the label against 2 e^-2 for the rest, after a delay of 2.
    expected = -math.log(math.exp(-3) / (math.exp(-3) + 2 * math.exp(-2)))
    assert loss([1.0, 2.0, 2.0], 2.0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -0.1}, "margin=-0.1"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"weight_bits": 1}, "bits=1"),
        ({"radius": -1}, "radius=-1"),
        ({"ramp": -1}, "ramp=-1"),
        ({"robustness": 1.5}, "robustness=1.5"),
    ],
)
def test_wrong_objectives_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        temporal_margin.TemporalMargin(**arguments)


def test_certified_training_keeps_the_label_ahead_in_the_worst_case():
    config = network.NetworkConfig((8,), (network.Dense(6), network.Dense(2)), 10)
    early = np.where(np.arange(8) < 4, 2, 7)
    steps = jnp.asarray(np.stack([early, early[::-1]]))
    labels = jnp.array([0, 1])

    def worst_margin(radius):
        optimizer = optax.adam(0.02)
        objective = temporal_margin.TemporalMargin(radius=radius, ramp=25)
        gradient = temporal_margin.gradient(config, objective)
        update = jax.jit(training.make_update(gradient, optimizer))
        params = network.init(jax.random.key(1), config)
        state = training.initial_state(params, optimizer)
        for key in jax.random.split(jax.random.key(2), 100):
            state, _ = update(state, key, steps, labels)
        neurons = low_precision.integer_neurons(config, state.params, 0)
        first, last = surrogate.output_bounds(
            config, neurons, steps - 2, steps + 2, surrogate.Surrogate()
        )
        return float((jnp.diag(first[:, ::-1]) - jnp.diag(last)).min())

    certified = worst_margin(radius=2)
    assert certified > worst_margin(radius=0)
    assert certified > 0
