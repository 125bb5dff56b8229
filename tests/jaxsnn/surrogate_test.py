import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import events, network, surrogate
from jaxsnn.crossing import crossed
from jaxsnn.network import Neurons
from jaxsnn.sampled_potentials import effects_between, sampled_potentials
from jaxsnn.sat import response
from jaxsnn.surrogate import Surrogate

CONV = network.NetworkConfig(
    (6, 6, 1),
    (network.Conv2D(3), network.EarliestPool2D(), network.Dense(5), network.Dense(4)),
    num_steps=9,
)
DENSE = network.NetworkConfig((30,), (network.Dense(6), network.Dense(4)), num_steps=12)
IN_TIME = network.NetworkConfig(
    (30,),
    (
        network.Dense(
            6, response.leak(5.0), network.Delays.of(np.arange(180).reshape(6, 30) % 3)
        ),
        network.Dense(4, response.ramp(4)),
    ),
    num_steps=14,
)

output_times = jax.jit(surrogate.output_times, static_argnums=(0, 3))
output_bounds = jax.jit(surrogate.output_bounds, static_argnums=(0, 4))
output_steps = jax.jit(events.output_steps, static_argnums=0)


def random_network(config, seed):
    init_key, input_key = jax.random.split(jax.random.key(seed))
    weights = network.init(init_key, config).weights
    num_inputs = int(np.prod(config.input_shape))
    steps = jax.random.randint(input_key, (5, num_inputs), 0, config.num_steps)
    return weights, steps


@pytest.mark.parametrize("config", [CONV, DENSE, IN_TIME])
@pytest.mark.parametrize("num_samples", [None, 4, 50])
def test_forward_is_the_network_whatever_the_gradient_sees(config, num_samples):
    weights, steps = random_network(config, seed=1)
    neurons = [Neurons(w, jnp.float32(1)) for w in weights]
    times = output_times(config, neurons, steps, Surrogate(num_samples))
    # Adding and subtracting the time that the gradient saw may round.
    exact = output_steps(config, neurons, steps)
    np.testing.assert_allclose(times, exact, atol=1e-5)


def test_kernels_learn_the_same_from_arrivals_and_from_a_convolution(monkeypatch):
    layers = network.Conv2D(3, (2, 3), (2, 1)), network.Dense(4)
    config = network.NetworkConfig((6, 5, 2), layers, num_steps=9)
    weights, steps = random_network(config, seed=2)
    weighting = jax.random.normal(jax.random.key(3), (5, 4))

    def gradient():
        def loss(weights):
            neurons = [Neurons(w, jnp.float32(1)) for w in weights]
            times = surrogate.output_times(config, neurons, steps, Surrogate(5))
            return (times * weighting).sum()

        return jax.jit(jax.grad(loss))(weights)

    by_arrivals = gradient()
    assert all(bool(slope.any()) for slope in by_arrivals)
    monkeypatch.setattr(surrogate, "_by_arrivals", lambda layer: False)
    for ours, expected in zip(by_arrivals, gradient(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    phase=st.floats(0, 1, exclude_max=True),
    num_samples=st.integers(1, 9),
    delay=st.integers(0, 3),
    shape=st.sampled_from([response.ramp(5), response.leak(2.0), response.STEP]),
)
def test_spikes_between_samples_count_as_spread_evenly(
    phase, num_samples, delay, shape
):
    samples = np.asarray(surrogate.sample_steps(phase, 8, num_samples))
    effects = np.asarray(effects_between(jnp.asarray(samples), shape, delay, 12))
    before = -1
    for h, sample in enumerate(samples):
        for g, seen in enumerate(samples):
            ages = [seen - step - delay for step in range(before + 1, sample + 1)]
            values = [shape[min(u, len(shape) - 1)] if u >= 0 else 0 for u in ages]
            # One that is first seen at h has been seen by all samples from there on.
            assert effects[g, h:].sum() == pytest.approx(np.mean(values), abs=1e-4)
        before = sample


@pytest.mark.parametrize("shape", [response.ramp(5), response.leak(2.0), (3, -1, 0)])
def test_with_every_step_sampled_the_effects_are_those_of_the_response(shape):
    effects = effects_between(jnp.arange(9), shape, 0, 12)
    np.testing.assert_array_equal(effects, response.matrix(shape, 9))
    late = effects_between(jnp.arange(9), shape, 2, 12)
    np.testing.assert_array_equal(late[2:], response.matrix(shape, 9)[:-2])


def test_a_few_samples_see_the_gradient_of_a_response_that_all_see():
    config = network.NetworkConfig(
        (30,), (network.Dense(6), network.Dense(4, response.ramp(12))), num_steps=40
    )
    weights, steps = random_network(config, seed=3)

    def gradient(phase, num_samples):
        def total(weights):
            neurons = [Neurons(w, jnp.float32(1)) for w in weights]
            seen = Surrogate(num_samples)
            times = surrogate.output_times(config, neurons, steps, seen, phase)
            return (times * jnp.array([[1.0, -2.0, 0.5, 1.0]])).sum()

        slopes = jax.grad(total)(weights)
        return jnp.concatenate([slope.ravel() for slope in slopes])

    every = np.asarray(gradient(0.5, None))
    phases = jnp.linspace(0, 1, 20, endpoint=False)
    few = np.asarray(jax.vmap(lambda phase: gradient(phase, 8))(phases)).mean(axis=0)
    assert every @ few > 0.9 * np.linalg.norm(every) * np.linalg.norm(few)


@pytest.mark.parametrize("strides", [(2, 2), (1, 2)])
def test_pooling_takes_and_shares_out_the_most_of_each_window(strides):
    layer, shape = network.EarliestPool2D((2, 2), strides), (5, 7, 2)
    spiked = jax.random.bernoulli(jax.random.key(0), 0.3, (3, 4, 5 * 7 * 2))
    spiked = spiked.astype(jnp.float32)
    factors = jax.random.normal(jax.random.key(1), (3, 4, 200))

    def naive(spiked):
        images = spiked.reshape(3, 4, *shape)
        rows = range(0, 4, strides[0])
        columns = range(0, 6, strides[1])
        found = [
            images[:, :, r : r + 2, c : c + 2, k].reshape(3, 4, 4).max(axis=-1)
            for r in rows
            for c in columns
            for k in range(2)
        ]
        return jnp.stack(found, axis=-1)

    def ours(spiked):
        return surrogate._pool(layer, shape, spiked)

    expected = naive(spiked)
    np.testing.assert_array_equal(ours(spiked), expected)
    factors = factors[..., : expected.shape[-1]]
    slopes = [
        jax.grad(lambda x, f=f: (f(x) * factors).sum())(spiked) for f in (ours, naive)
    ]
    np.testing.assert_allclose(*slopes, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 7), (40, 900)])
def test_gradient_of_potentials_is_that_of_the_plain_sum(shape):
    """Both ways of computing it; the larger layer is summed by examples."""
    weights = jax.random.normal(jax.random.key(0), shape)
    arrivals = jax.random.randint(jax.random.key(1), (4, shape[1]), 0, 7)
    factors = jax.random.normal(jax.random.key(2), (4, 6, shape[0]))

    def naive(weights):
        arrived = arrivals[:, None] <= jnp.arange(6)[None, :, None]
        return jnp.einsum("bgd,nd->bgn", arrived.astype(jnp.float32), weights)

    def ours(weights):
        return sampled_potentials(weights, arrivals, 6)

    np.testing.assert_allclose(ours(weights), naive(weights), atol=1e-4)
    expected = jax.jit(jax.grad(lambda w: (naive(w) * factors).sum()))(weights)
    actual = jax.jit(jax.grad(lambda w: (ours(w) * factors).sum()))(weights)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_gradient_of_spiking_is_that_of_the_highest_potential_so_far():
    """An oracle by automatic differentiation of a soft step with the same slope."""
    potentials = jax.random.normal(jax.random.key(0), (3, 7, 5)) + 0.5
    factors = jax.random.normal(jax.random.key(1), (3, 7, 5))
    threshold, width = jnp.float32(1.3), 0.4

    def soft(potentials):
        highest = jax.lax.cummax(potentials, axis=1)
        distance = (highest - threshold) / (width * threshold)
        # The integral of 1 / (threshold (1 + |distance|)^2).
        step = width * distance / (1 + jnp.abs(distance))
        return (factors * step).sum()

    def ours(potentials):
        return (factors * crossed(potentials, threshold, width)).sum()

    expected = jax.jit(jax.grad(soft))(potentials)
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(potentials), expected, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    phase=st.floats(0, 1, exclude_max=True),
    last=st.integers(0, 300),
    num_samples=st.integers(2, 40),
)
def test_samples_are_different_steps_of_the_range(phase, last, num_samples):
    steps = np.asarray(surrogate.sample_steps(phase, last, num_samples))
    assert len(steps) == min(num_samples, last + 1)
    assert steps[0] >= 0
    assert steps[-1] <= last
    assert (np.diff(steps) >= 1).all()


def test_samples_of_many_phases_miss_no_step():
    phases = np.linspace(0, 1, 64, endpoint=False)
    seen = [np.asarray(surrogate.sample_steps(phase, 199, 8)) for phase in phases]
    assert set(np.concatenate(seen)) == set(range(200))


def test_what_samples_see_is_exact_where_they_look():
    """Potentials and spikes by the samples of each layer, from the plain simulator."""
    weights, steps = random_network(DENSE, seed=2)
    neurons = [Neurons(w, jnp.float32(1)) for w in weights]
    samples = surrogate.sample_steps(0.3, DENSE.num_steps - 4, 5)
    spiked = surrogate._outputs_spiked(DENSE, neurons, steps, samples, 0.3)
    exact = np.asarray(output_steps(DENSE, neurons, steps))
    # An output may have crossed between samples and come back since.
    by = np.asarray(samples)[None, :, None] + len(weights)
    assert (np.asarray(spiked) <= (exact[:, None] <= by)).all()
    assert np.asarray(spiked).any()


def test_a_silent_neuron_is_drawn_towards_the_threshold():
    config = network.NetworkConfig((3,), (network.Dense(1),), num_steps=6)

    def time(weights):
        neurons = [Neurons(weights, jnp.float32(1))]
        steps = jnp.array([[0, 2, 5]])
        return surrogate.output_times(config, neurons, steps, Surrogate())[0, 0]

    value, gradient = jax.jit(jax.value_and_grad(time))(jnp.array([[0.3, 0.4, 0.9]]))
    assert value == 5
    # The last input spikes too late to matter; the first counts longest.
    assert gradient[0, 0] < gradient[0, 1] < gradient[0, 2] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1,), "num_samples=1"), ((None, 0.0), "width=0.0")],
)
def test_wrong_surrogates_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Surrogate(*arguments)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31 - 1), radius=st.integers(0, 3))
def test_bounds_hold_for_every_input_of_the_box(seed, radius):
    """Soundness, by random inputs; and at radius 0 the bounds are the times."""
    weights, steps = random_network(CONV, seed % 7)
    # Whole numbers, so that both sides add up exactly.
    neurons = [Neurons(jnp.round(4 * w), jnp.float32(4)) for w in weights]
    lowest = jnp.maximum(steps - radius, 0)
    highest = jnp.minimum(steps + radius, CONV.num_steps - 1)
    first, last = output_bounds(CONV, neurons, lowest, highest, Surrogate())
    inside = jax.random.randint(jax.random.key(seed), steps.shape, lowest, highest + 1)
    times = output_steps(CONV, neurons, inside).astype(jnp.float32)
    assert bool((first <= times).all())
    assert bool((times <= last).all())
    if radius == 0:
        assert np.array_equal(first, times)
        assert np.array_equal(last, times)
