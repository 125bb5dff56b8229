import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import events, low_precision, network, surrogate, training


@pytest.mark.parametrize(
    ("steps", "label", "correct", "tied", "silent", "margin"),
    [
        ([2, 5, 7], 0, True, False, False, 3),
        ([2, 5, 7], 1, False, False, False, -3),
        ([5, 2, 2], 1, True, True, False, 0),
        ([5, 2, 2], 2, False, True, False, 0),
        ([7, 7, 7], 0, True, True, True, 0),
        ([5, 2, 7], 2, False, False, False, -5),
    ],
)
def test_outcomes_of_a_table_worked_by_hand(
    steps, label, correct, tied, silent, margin
):
    judged = training.outcome(jnp.array(steps), jnp.array(label), num_steps=8)
    assert judged.correct == correct
    assert judged.tied == tied
    assert judged.silent == silent
    assert judged.margin == margin


def test_loss_of_ties_and_silence():
    def loss(times, margin):
        return float(
            training.temporal_margin_loss(jnp.array(times), jnp.array(0), margin, 1.0)
        )

    assert loss([4.0, 4.0, 99.0], 0.0) == pytest.approx(math.log(2), rel=1e-5)
    assert loss([7.0, 7.0, 7.0], 0.0) == pytest.approx(math.log(3), rel=1e-5)
    # e^-1 for the label against 2 e^-2 for the rest, after a delay of 2.
    expected = -math.log(math.exp(-3) / (math.exp(-3) + 2 * math.exp(-2)))
    assert loss([1.0, 2.0, 2.0], 2.0) == pytest.approx(expected, rel=1e-5)


def test_jitter_stays_within_radius_and_time():
    steps = jnp.tile(jnp.arange(10), (200, 1))
    moved = np.asarray(training.jitter(jax.random.key(0), steps, 2, 10))
    moves = moved - np.asarray(steps)
    assert set(np.unique(moves[:, 5])) == {-2, -1, 0, 1, 2}
    assert moved.min() == 0
    assert moved.max() == 9


@pytest.mark.parametrize("bits", [0, 3])
def test_a_network_learns_to_tell_two_patterns_apart(bits):
    config = network.NetworkConfig((8,), (network.Dense(6), network.Dense(2)), 10)
    early = np.where(np.arange(8) < 4, 1, 7)
    patterns = np.stack([early, early[::-1]])
    labels = jnp.asarray(np.tile([0, 1], 16))
    noise = np.random.default_rng(0).integers(-1, 2, (16, 2, 8))
    steps = jnp.asarray((patterns + noise).reshape(32, 8))

    optimizer = optax.adam(0.02)
    objective = training.Objective(jitter=1, weight_bits=bits)
    update = jax.jit(training.make_update(config, objective, optimizer))
    state = training.initial_state(jax.random.key(1), config, optimizer)
    for key in jax.random.split(jax.random.key(2), 150):
        state, _ = update(state, key, steps, labels)
    neurons = low_precision.integer_neurons(config, state.params, bits)
    outputs = jax.jit(events.output_steps, static_argnums=0)(config, neurons, steps)
    judged = jax.vmap(training.outcome, (0, 0, None))(outputs, labels, 10)
    assert bool(judged.correct.all())
    assert not bool(judged.tied.any())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -0.1}, "margin=-0.1"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"jitter": -1}, "jitter=-1"),
        ({"weight_bits": 1}, "bits=1"),
        ({"radius": -1}, "radius=-1"),
        ({"ramp": -1}, "ramp=-1"),
        ({"robustness": 1.5}, "robustness=1.5"),
    ],
)
def test_wrong_objectives_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        training.Objective(**arguments)


def test_certified_training_keeps_the_label_ahead_in_the_worst_case():
    config = network.NetworkConfig((8,), (network.Dense(6), network.Dense(2)), 10)
    early = np.where(np.arange(8) < 4, 2, 7)
    steps = jnp.asarray(np.stack([early, early[::-1]]))
    labels = jnp.array([0, 1])

    def worst_margin(radius):
        optimizer = optax.adam(0.02)
        objective = training.Objective(radius=radius, ramp=25)
        update = jax.jit(training.make_update(config, objective, optimizer))
        state = training.initial_state(jax.random.key(1), config, optimizer)
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
