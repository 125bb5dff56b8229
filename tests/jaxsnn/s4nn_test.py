import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import events, network, s4nn, training
from jaxsnn.network import Dense, NetworkConfig

CONFIG = NetworkConfig((12,), (Dense(7), Dense(5), Dense(3)), num_steps=14)


def per_sample_rule(weights, steps, label, margin, num_steps):
    """The published rule for one example, in NumPy, neuron by neuron."""
    last = num_steps - 1
    levels = [np.asarray(steps)]
    for w in weights:
        fired = []
        for row in w:
            crossing = last
            for t in range(num_steps):
                if row[levels[-1] <= t].sum() > 1:
                    crossing = t
                    break
            fired.append(min(crossing + 1, last))
        levels.append(np.array(fired))
    outputs = levels[-1]
    first = outputs.min()
    if first == last:
        target = np.full(len(outputs), last)
        target[label] = last - margin
    else:
        target = np.where(outputs < first + margin, first + margin, outputs)
        target[label] = first
    delta = (target - outputs) / last
    updates = []
    for w, before, fired in zip(
        reversed(weights), reversed(levels[:-1]), reversed(levels[1:]), strict=True
    ):
        if np.linalg.norm(delta) > 0:
            delta = delta / np.linalg.norm(delta)
        update, back = np.zeros_like(w), np.zeros(len(before))
        for n, i in itertools.product(range(len(fired)), range(len(before))):
            if before[i] < fired[n]:
                update[n, i] = delta[n]
                back[i] += delta[n] * w[n, i]
        updates.insert(0, update)
        delta = back
    return updates


def test_the_batch_makes_the_updates_of_the_published_rule():
    params = s4nn.init(jax.random.key(0), CONFIG)
    # Negative weights too, as after some training.
    params = jax.tree.map(lambda w: w - 0.3 * w.mean(), params)
    rng = np.random.default_rng(0)
    steps, labels = rng.integers(0, 14, (9, 12)), rng.integers(0, 3, 9)
    gradient = jax.jit(s4nn.gradient(CONFIG, s4nn.Rule(margin=2)))
    _, updates = gradient(params, jnp.asarray(steps), jnp.asarray(labels), 0)
    weights = [np.asarray(w, np.float64) for w in params.weights]
    expected = [
        per_sample_rule(weights, one, label, 2, 14)
        for one, label in zip(steps, labels, strict=True)
    ]
    for depth, update in enumerate(updates.weights):
        total = sum(one[depth] for one in expected)
        assert np.abs(total).max() > 0
        np.testing.assert_allclose(update, total, atol=1e-5)


def test_initial_weights_have_the_published_range():
    config = NetworkConfig((784,), (Dense(400), Dense(10)), 256, threshold=100.0)
    first, second = s4nn.init(jax.random.key(0), config).weights
    assert 0 <= first.min() < 0.01
    assert 5.0 < first.max() < 40 * 100 / 784
    assert 9.9 < second.max() <= 10


def test_the_rule_learns_to_tell_two_patterns_apart():
    config = NetworkConfig((8,), (Dense(6), Dense(2)), 16)
    early_first = [1, 2, 3, 4, 11, 12, 13, 14]
    steps = jnp.asarray([early_first, early_first[4:] + early_first[:4]])
    labels = jnp.array([0, 1])
    gradient = s4nn.gradient(config, s4nn.Rule(margin=2))
    optimizer = optax.sgd(0.01)
    update = jax.jit(training.make_update(gradient, optimizer))
    params = s4nn.init(jax.random.key(2), config)
    params = jax.tree.map(lambda w: 0.2 * w, params)
    state = training.initial_state(params, optimizer)
    for key in jax.random.split(jax.random.key(1), 100):
        state, _ = update(state, key, steps, labels)
    neurons = [network.Neurons(w, jnp.float32(1)) for w in state.params.weights]
    outputs = events.output_steps(config, neurons, steps)
    judged = jax.vmap(training.outcome, (0, 0, None))(outputs, labels, 16)
    assert int(judged.margin.min()) >= 2


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="margin=0"):
        s4nn.Rule(margin=0)
    with pytest.raises(ValueError, match="bits=1"):
        s4nn.Rule(weight_bits=1)
    config = NetworkConfig((4, 4, 1), (network.Conv2D(2), Dense(3)), 8)
    with pytest.raises(ValueError, match="Conv2D"):
        s4nn.gradient(config, s4nn.Rule())
