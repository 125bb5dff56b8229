"""The exact simulators against each other, bit for bit, and against a table."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import simulate
from jaxsnn.sat import replay
from jaxsnn.sat.spec import MAX_EXACT_SUM, Conv2D, Dense, EarliestPool2D, IntegerNetwork
from tests.jaxsnn import small_networks


def naive_spike_steps(network, inputs):
    """The definition, one neuron and one step at a time, in Python integers."""
    last = network.num_steps - 1
    levels = [list(map(int, inputs))]
    for layer in network.layers:
        rows = layer.synapses()
        fired = []
        for neuron in range(layer.num_outputs):
            span = range(rows.starts[neuron], rows.starts[neuron + 1])
            fire = last
            for step in range(network.num_steps):
                voltage = sum(
                    int(rows.weights[k])
                    for k in span
                    if levels[-1][rows.inputs[k]] <= step
                )
                if voltage > rows.thresholds[neuron]:
                    fire = min(step + layer.delay, last)
                    break
            fired.append(fire)
        levels.append(fired)
    return levels


@settings(max_examples=60, deadline=None)
@given(network=small_networks.networks(), seed=st.integers(0, 2**31 - 1))
def test_the_reference_equals_the_definition(network, seed):
    rng = np.random.default_rng(seed)
    for steps in rng.integers(0, network.num_steps, (4, network.num_inputs)):
        expected = naive_spike_steps(network, steps)
        for level, slow in zip(
            replay.spike_steps(network, steps), expected, strict=True
        ):
            np.testing.assert_array_equal(level, slow)


@pytest.mark.parametrize("widths", [(5, 6, 3), (4, 5, 4, 3)])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_jit_vmap_and_numpy_agree(widths, seed):
    rng = np.random.default_rng(seed)
    shapes = list(itertools.pairwise(widths))
    layers = tuple(
        Dense(rng.integers(-4, 6, (b, a)), rng.integers(-1, 6, b)) for a, b in shapes
    )
    network = IntegerNetwork(layers, num_steps=6)
    inputs = rng.integers(0, 6, (8, widths[0]))
    weights = simulate.device_weights(network)
    steps = jnp.asarray(inputs, jnp.int32)
    batched = compiled(widths)(weights, steps)
    single = simulate.spike_steps(layers, weights, 6, steps[0])
    for depth, level in enumerate(single):
        np.testing.assert_array_equal(level, batched[depth][0])
    for row, example in enumerate(inputs):
        for depth, level in enumerate(replay.spike_steps(network, example)):
            np.testing.assert_array_equal(batched[depth][row], level)


@functools.cache
def compiled(widths):
    """One compilation for all networks of these widths."""
    layers = [
        Dense(np.zeros((b, a), int), np.zeros(b, int))
        for a, b in itertools.pairwise(widths)
    ]

    def run(weights, inputs):
        return simulate.spike_steps(layers, weights, 6, inputs)

    return jax.jit(jax.vmap(run, in_axes=(None, 0)))


@pytest.mark.parametrize("seed", range(4))
def test_convolution_and_pooling_agree_with_the_definition(seed):
    rng = np.random.default_rng(seed)
    conv = Conv2D(
        rng.integers(-3, 5, (3, 2, 2, 3)),
        rng.integers(0, 6, 3),
        input_shape=(5, 6, 2),
        strides=(1, 2),
        padding=((1, 0), (0, 1)),
    )
    pool = EarliestPool2D(conv.output_shape, window=(2, 2), strides=(2, 1))
    dense = Dense(rng.integers(-3, 5, (4, pool.num_outputs)), rng.integers(0, 9, 4))
    network = IntegerNetwork((conv, pool, dense), num_steps=7)
    inputs = rng.integers(0, 7, (3, network.num_inputs))
    weights = simulate.device_weights(network)
    for steps in inputs:
        levels = simulate.spike_steps(
            network.layers, weights, 7, jnp.asarray(steps, jnp.int32)
        )
        expected = naive_spike_steps(network, steps)
        for level, fast, slow in zip(
            levels, replay.spike_steps(network, steps), expected, strict=True
        ):
            np.testing.assert_array_equal(level, slow)
            np.testing.assert_array_equal(fast, slow)


def test_a_table_worked_by_hand():
    # Arrivals: input 0 at 1 (+3), input 1 at 2 (-2), input 2 at 3 (+2).
    # V of neuron 0 = 0 3 1 3 3, above 2 at step 1: fires at 2 and stays latched.
    # V of neuron 1 = 0 1 2 4 4, above 3 at step 3: fires at 4.
    # V of neuron 2 = 0 0 0 0 0, never: the forced spike at 4.
    weights = np.array([[3, -2, 2], [1, 1, 2], [0, 0, 0]])
    layer = Dense(weights, np.array([2, 3, 0]))
    network = IntegerNetwork((layer,), num_steps=5)
    steps = np.array([1, 2, 3])
    assert replay.spike_steps(network, steps)[-1].tolist() == [2, 4, 4]
    outputs = jax.jit(lambda x: simulate.output_steps(network, x))(steps[None])
    assert outputs.tolist() == [[2, 4, 4]]


def test_sums_just_below_the_limit_stay_exact():
    # Two sums that differ by one unit in 2^23: float32 must tell them apart.
    half = MAX_EXACT_SUM // 4 - 1
    layer = Dense(
        np.array([[half, half], [half, half - 1]]), np.array([2 * half - 1] * 2)
    )
    network = IntegerNetwork((layer,), num_steps=4)
    outputs = jax.jit(lambda x: simulate.output_steps(network, x))(np.array([[0, 1]]))
    assert outputs.tolist() == [[2, 3]]
    assert replay.spike_steps(network, np.array([0, 1]))[-1].tolist() == [2, 3]


def test_a_network_that_could_round_is_refused_by_name():
    weights = np.array([[1, 1], [MAX_EXACT_SUM // 2, MAX_EXACT_SUM // 2]])
    with pytest.raises(ValueError, match="neuron 1"):
        Dense(weights, np.array([0, 0]))


def test_wrong_inputs_are_named():
    network = IntegerNetwork((Dense(np.ones((2, 3), int), np.zeros(2, int)),), 4)
    with pytest.raises(ValueError, match=r"takes \(3,\)"):
        replay.spike_steps(network, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"0 \.\. 3"):
        replay.spike_steps(network, np.array([0, 1, 4]))
    with pytest.raises(ValueError, match="takes 3 inputs"):
        IntegerNetwork((*network.layers, *network.layers), 4)
    with pytest.raises(ValueError, match="integers"):
        Dense(np.ones((2, 3)), np.zeros(2, int))


def test_potentials_of_every_layer_have_a_derivative_under_jit():
    conv = Conv2D(np.ones((2, 2, 1, 2), int), np.ones(2, int), (3, 3, 1))
    pool = EarliestPool2D(conv.output_shape, window=(2, 1), strides=(1, 1))
    dense = Dense(np.ones((2, 4), int), np.ones(2, int), (2, 1))
    network = IntegerNetwork((conv, pool, dense), num_steps=4)
    weights = simulate.device_weights(network)
    for layer, arrays in zip(network.layers, weights, strict=True):
        total = jax.jit(
            jax.grad(
                lambda spikes, layer=layer, arrays=arrays: simulate.potentials(
                    layer, arrays, spikes
                ).sum()
            )
        )
        gradient = total(jnp.ones((4, layer.num_inputs)))
        assert (gradient > 0).any()
