import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import events, low_precision, network
from jaxsnn.sat import replay, response

CONFIG = network.NetworkConfig(
    (6, 6, 1),
    (network.Conv2D(3), network.EarliestPool2D(), network.Dense(4)),
    num_steps=9,
)

output_steps = jax.jit(events.output_steps, static_argnums=0)


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_whole_and_few(bits):
    weights = jax.random.normal(jax.random.key(bits), (40, 50))
    rounded, threshold = low_precision.quantize(weights, 1.0, bits)
    rounded = np.asarray(rounded)
    assert np.array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= 2 ** (bits - 1) - 1
    assert len(np.unique(rounded)) > 2 ** (bits - 1)
    assert float(threshold) == round(float(threshold)) >= 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_error_is_that_of_the_best_uniform_quantizer(bits):
    """The scale is chosen for Gaussian weights: no other does much better."""
    weights = np.asarray(jax.random.normal(jax.random.key(0), (200, 200)))
    largest = 2 ** (bits - 1) - 1
    # A large threshold, so that making it whole does not move the scale.
    rounded, threshold = low_precision.quantize(jnp.asarray(weights), 1e4, bits)
    unit = 1e4 / float(threshold)
    error = np.mean((np.asarray(rounded) * unit - weights) ** 2)
    others = [
        np.mean((u * np.clip(np.rint(weights / u), -largest, largest) - weights) ** 2)
        for u in unit * np.linspace(0.5, 2, 31)
    ]
    assert error <= 1.05 * min(others)


def test_zero_bits_change_nothing():
    weights = jnp.array([[0.3, -0.7]])
    assert np.array_equal(low_precision.quantize(weights, 2.0, 0).weights, weights)


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1.0, 1e5])
def test_only_the_ratio_of_weights_and_threshold_matters(scale):
    weights = jnp.array([[0.7, -0.2, 0.45]])
    config = network.NetworkConfig((3,), (network.Dense(1),), 8, threshold=scale)
    params = network.Params((weights * scale,))
    exact = low_precision.integer_network(config, params, 0)
    ratio = exact.layers[0].weights / exact.layers[0].thresholds[:, None]
    np.testing.assert_allclose(ratio, weights, atol=2.0**-16)


@pytest.mark.parametrize("bits", [0, 2, 8])
def test_a_layer_that_has_died_is_exact_and_silent(bits):
    layer = network.Dense(2, response.leak(2.0))
    config = network.NetworkConfig((3,), (layer,), 8)
    params = network.Params((jnp.zeros((2, 3)),))
    exact = low_precision.integer_network(config, params, bits)
    assert replay.spike_steps(exact, np.zeros(3, int))[-1].tolist() == [7, 7]


def test_gradient_passes_the_rounding():
    weights = jax.random.normal(jax.random.key(0), (3, 4))

    def total(w):
        return low_precision.quantize(w, 1.0, 4).weights.sum()

    scale = float(low_precision.quantize(weights, 1.0, 4).threshold)
    np.testing.assert_allclose(jax.grad(total)(weights), scale, rtol=1e-6)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**31 - 1), bits=st.sampled_from([0, 2, 4]))
def test_the_integer_network_decides_as_its_neurons_do(seed, bits):
    init_key, input_key = jax.random.split(jax.random.key(seed))
    params = network.init(init_key, CONFIG)
    steps = jax.random.randint(input_key, (3, 36), 0, 9)
    neurons = low_precision.integer_neurons(CONFIG, params, bits)
    exact = low_precision.integer_network(CONFIG, params, bits)
    outputs = np.asarray(output_steps(CONFIG, neurons, steps))
    for one, output in zip(np.asarray(steps), outputs, strict=True):
        assert np.array_equal(replay.spike_steps(exact, one)[-1], output)


def test_the_finest_scale_reproduces_float_weights_closely():
    config = network.NetworkConfig((4,), (network.Dense(2),), num_steps=5)
    params = network.init(jax.random.key(0), config)
    exact = low_precision.integer_network(config, params, bits=0)
    assert exact.scale == 2**16
    np.testing.assert_allclose(
        exact.layers[0].weights / exact.scale, params.weights[0], atol=2**-16
    )


@pytest.mark.parametrize("bits", [-1, 1, 9])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"bits={bits}"):
        low_precision.quantize(jnp.ones((1, 1)), 1.0, bits)


def test_weights_that_are_not_finite_are_refused():
    config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=5)
    params = network.Params((jnp.array([[1.0, jnp.nan]]),))
    with pytest.raises(ValueError, match="layer 0"):
        low_precision.integer_network(config, params, bits=4)
