import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import events, network
from jaxsnn.network import Conv2D, Dense, EarliestPool2D, NetworkConfig, Neurons, Params
from jaxsnn.sat import replay, spec

CONV = NetworkConfig(
    (6, 5, 2),
    (Conv2D(3, (3, 2), (1, 2)), EarliestPool2D((2, 2), (1, 1)), Dense(4)),
    num_steps=7,
)
CONV_WEIGHTS = ((3, 12), (4, 9))

apply = jax.jit(network.apply, static_argnums=0)
output_steps = jax.jit(events.output_steps, static_argnums=0)
by_events = jax.jit(events.by_events, static_argnums=3)
by_steps = jax.jit(events.by_steps, static_argnums=(3, 4))
by_example = jax.jit(
    jax.vmap(network.spike_steps, (None, 0, None, None)), static_argnums=3
)


def test_spike_steps_of_a_table_worked_by_hand():
    # Spikes at 0, 2, 3. Potentials: 1 1 -1 1; 0 0 2 2; 1 1 2 5; -1 -1 -1 -1.
    weights = jnp.array([[1.0, -2, 2], [0, 2, 0], [1, 1, 3], [-1, 0, 0]])
    steps = jnp.array([0, 2, 3])
    fired = network.spike_steps(weights, steps, jnp.float32(1), num_steps=6)
    # The first exceeds 1 never (strictly), the third at 2 although 1 is reached at 0.
    assert fired.tolist() == [5, 3, 3, 5]


def test_layers_of_lists_are_layers_of_tuples_and_other_things_are_refused():
    config = NetworkConfig([4], [Dense(3, [2, 1, 1])], num_steps=6)
    assert config == NetworkConfig((4,), (Dense(3, (2, 1)),), num_steps=6)
    assert hash(config) == hash(NetworkConfig((4,), (Dense(3, (2, 1)),), num_steps=6))
    with pytest.raises(ValueError, match=r"ndarray must be static: Delays\.of"):
        Dense(3, delays=np.zeros((3, 4), int))
    for layer in (Conv2D, EarliestPool2D):
        with pytest.raises(ValueError, match=r"window=5 must be \(rows, columns\)"):
            layer(window=5) if layer is EarliestPool2D else layer(2, 5)


def test_a_negative_threshold_is_crossed_before_any_spike():
    steps = jnp.array([[0], [3], [7]])
    for weight, first in ((1.0, 1), (-2.0, 7)):
        weights = jnp.array([[weight]])
        for simulate in (by_events, by_steps):
            fired = simulate(weights, steps, jnp.float32(-1), 8)
            assert fired[:, 0].tolist() == [first, 1, 1]


def test_a_potential_that_falls_again_has_still_spiked():
    weights = jnp.array([[2.0, -5.0]])
    fired = network.spike_steps(weights, jnp.array([0, 1]), jnp.float32(1), 6)
    assert fired.tolist() == [1]


def test_shapes_and_numbers_of_weights():
    assert CONV.shapes == ((6, 5, 2), (4, 2, 3), (3, 1, 3), (4,))
    weights = network.init(jax.random.key(0), CONV).weights
    assert tuple(w.shape for w in weights) == CONV_WEIGHTS


def integer_form(config, neurons):
    """The same network in the terms of the reference simulator."""
    layers, remaining = [], iter(neurons)
    for layer, shape in zip(config.layers, config.shapes, strict=False):
        if isinstance(layer, EarliestPool2D):
            layers.append(spec.EarliestPool2D(shape, layer.window, layer.strides))
            continue
        weights, threshold = next(remaining)
        weights = np.asarray(weights).astype(int)
        thresholds = np.full(len(weights), int(threshold))
        if isinstance(layer, Dense):
            layers.append(spec.Dense(weights, thresholds))
        else:
            kernel = weights.reshape(len(weights), *layer.window, shape[2])
            kernel = kernel.transpose(1, 2, 3, 0)
            layers.append(spec.Conv2D(kernel, thresholds, shape, layer.strides))
    return spec.IntegerNetwork(tuple(layers), config.num_steps)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), spread=st.integers(1, 5))
def test_apply_and_batches_equal_the_reference_with_whole_weights(seed, spread):
    rng = np.random.default_rng(seed)
    weights = tuple(
        jnp.asarray(rng.integers(-spread, spread + 1, shape), jnp.float32)
        for shape in CONV_WEIGHTS
    )
    steps = rng.integers(0, CONV.num_steps, (3, 60))
    neurons = [Neurons(w, jnp.float32(CONV.threshold)) for w in weights]
    reference = integer_form(CONV, neurons)
    batched = np.asarray(output_steps(CONV, neurons, jnp.asarray(steps)))
    for one, outputs in zip(steps, batched, strict=True):
        expected = replay.spike_steps(reference, one)
        levels = apply(CONV, Params(weights), jnp.asarray(one))
        for level, of_reference in zip(levels, expected, strict=True):
            assert np.array_equal(level, of_reference)
        assert np.array_equal(outputs, expected[-1])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_events_and_steps_give_the_same_numbers(seed):
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.integers(-3, 4, (5, 30)), jnp.float32)
    steps = jnp.asarray(rng.integers(0, 12, (4, 30)))
    threshold = jnp.float32(rng.integers(0, 8))
    events_first = by_events(weights, steps, threshold, 12)
    for at_once in (1, 3, 16):
        steps_first = by_steps(weights, steps, threshold, 12, at_once)
        assert np.array_equal(events_first, steps_first)
    assert np.array_equal(events_first, by_example(weights, steps, threshold, 12))


def test_order_and_padding_of_a_batch_do_not_matter():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.integers(-3, 4, (5, 30)), jnp.float32)
    steps = rng.integers(0, 12, (8, 30))

    def fire(steps):
        return np.asarray(by_events(weights, jnp.asarray(steps), jnp.float32(4), 12))

    whole = fire(steps)
    order = rng.permutation(8)
    assert np.array_equal(fire(steps[order]), whole[order])
    padded = np.full_like(steps, 11)
    padded[:3] = steps[:3]
    assert np.array_equal(fire(padded)[:3], whole[:3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4,), (), 8), "Dense"),
        (((4, 4, 1), (Dense(3), EarliestPool2D()), 8), "must end with a Dense"),
        (((4,), (Conv2D(2), Dense(3)), 8), "(4,)"),
        (((4, 4, 1), (Conv2D(2, (5, 5)), Dense(3)), 8), "leaves nothing"),
        (((4,), (Dense(0), Dense(3)), 8), "at least one neuron"),
        (((4,), (Dense(3), Dense(3)), 3), "num_steps=3"),
        (((4,), (Dense(3),), 2**15 + 1), "at most 32768"),
        (((4,), (Dense(3),), 8, 0.0), "threshold=0.0"),
        (((4,), (Dense(3),), 8, float("nan")), "threshold=nan"),
    ],
)
def test_wrong_networks_are_refused(arguments, message):
    with pytest.raises(
        ValueError, match=message.replace("(", r"\(").replace(")", r"\)")
    ):
        NetworkConfig(*arguments)


def test_inputs_of_another_size_are_refused():
    config = NetworkConfig((4,), (Dense(3),), 8)
    params = network.init(jax.random.key(0), config)
    with pytest.raises(AssertionError):
        network.apply(config, params, jnp.zeros(5, int))
