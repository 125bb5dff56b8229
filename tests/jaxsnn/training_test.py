import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import events, low_precision, network, s4nn, temporal_margin, training


@pytest.mark.parametrize(
    ("steps", "label", "correct", "among_first", "tied", "silent", "margin"),
    [
        ([2, 5, 7], 0, True, True, False, False, 3),
        ([2, 5, 7], 1, False, False, False, False, -3),
        ([5, 2, 2], 1, True, True, True, False, 0),
        ([5, 2, 2], 2, False, True, True, False, 0),
        ([7, 7, 7], 0, True, False, True, True, 0),
        ([5, 2, 7], 2, False, False, False, False, -5),
    ],
)
def test_outcomes_of_a_table_worked_by_hand(
    steps, label, correct, among_first, tied, silent, margin
):
    judged = training.outcome(jnp.array(steps), jnp.array(label), num_steps=8)
    assert judged.correct == correct
    assert judged.among_first == among_first
    assert judged.tied == tied
    assert judged.silent == silent
    assert judged.margin == margin


def test_jitter_stays_within_radius_and_time():
    steps = jnp.tile(jnp.arange(10), (200, 1))
    moved = np.asarray(training.jitter(jax.random.key(0), steps, 2, 10))
    moves = moved - np.asarray(steps)
    assert set(np.unique(moves[:, 5])) == {-2, -1, 0, 1, 2}
    assert moved.min() == 0
    assert moved.max() == 9


def test_mirror_turns_about_half_of_the_images_around():
    image = np.arange(12)
    images = jnp.tile(jnp.asarray(image), (300, 1))
    moved = np.asarray(training.mirror(jax.random.key(0), images, (3, 4)))
    turned = image.reshape(3, 4)[:, ::-1].ravel()
    is_turned = (moved == turned).all(axis=1)
    assert (is_turned | (moved == image).all(axis=1)).all()
    assert 100 < is_turned.sum() < 200


def test_brighten_scales_the_time_to_the_end_of_each_example():
    steps = jnp.tile(jnp.array([[199, 150, 100, 40]]), (300, 1))
    moved = np.asarray(training.brighten(jax.random.key(0), steps, 0.4, 200))
    assert (moved[:, 0] == 199).all()
    assert moved.min() == 0
    # The earliest input loses what does not fit; the others keep their proportion.
    factors = (199 - moved[:, 1]) / 49
    assert factors.min() == pytest.approx(np.exp(-0.4), abs=0.03)
    assert factors.max() == pytest.approx(np.exp(0.4), abs=0.03)
    np.testing.assert_allclose((199 - moved[:, 2]) / 99, factors, atol=0.02)
    np.testing.assert_allclose(
        199 - moved[:, 3], np.minimum(159 * factors, 199), atol=2.5
    )
    assert np.unique(factors).size > 20


def test_shift_moves_whole_images_and_lets_silence_in():
    image = jnp.arange(12, dtype=jnp.int32)
    moved = np.asarray(
        training.shift(jax.random.key(0), jnp.tile(image, (300, 1)), (3, 4), 1, 99)
    )
    padded = np.pad(np.asarray(image).reshape(3, 4), 1, constant_values=98)
    expected = {
        tuple(padded[row : row + 3, column : column + 4].ravel())
        for row in range(3)
        for column in range(3)
    }
    assert {tuple(one) for one in moved} == expected


def test_channels_of_an_image_move_together():
    image = np.arange(12 * 3)
    steps = jnp.tile(jnp.asarray(image), (100, 1))
    for moved, names in (
        (training.mirror(jax.random.key(0), steps, (3, 4, 3)), 2),
        (training.shift(jax.random.key(0), steps, (3, 4, 3), 1, 99), 9),
    ):
        images = np.asarray(moved).reshape(100, 3, 4, 3)
        inside = images[..., 0] != 98  # what enters is silent
        for channel in (1, 2):
            later = images[..., 0] + channel
            np.testing.assert_array_equal(images[..., channel][inside], later[inside])
        assert len({tuple(one.ravel()) for one in images}) == names
    for shape in ((3, 4), (36,), (9, 4, 3)):
        for augment in (
            lambda shape: training.mirror(jax.random.key(0), steps, shape),
            lambda shape: training.shift(jax.random.key(0), steps, shape, 1, 99),
        ):
            with pytest.raises(ValueError, match="are not images of shape"):
                augment(shape)


CONFIG = network.NetworkConfig((4,), (network.Dense(3),), num_steps=8)


@pytest.mark.parametrize(
    ("steps", "labels", "message"),
    [
        (np.zeros((2, 2, 2), int), [0, 1], r"must be \[B, 4\]"),
        (np.zeros((2, 5), int), [0, 1], r"must be \[B, 4\]"),
        (np.zeros((2, 4), int), [0, 1, 2], r"labels of shape \(3,\)"),
        (np.zeros((2, 4)), [0, 1], "steps of type float.* must be integers"),
        (np.zeros((2, 4), int), [0.0, 1.0], "labels of type float.* must be integers"),
    ],
)
def test_batches_of_another_kind_are_refused(steps, labels, message):
    labels = np.asarray(labels)
    params = network.init(jax.random.key(0), CONFIG)
    rules = (
        temporal_margin.gradient(CONFIG, temporal_margin.TemporalMargin()),
        s4nn.gradient(CONFIG, s4nn.Rule()),
    )
    for rule in rules:
        with pytest.raises(ValueError, match=message):
            rule(params, jnp.asarray(steps), jnp.asarray(labels), jnp.int32(0))
    with pytest.raises(ValueError, match=message):
        training.check_examples(CONFIG, steps, labels)


@pytest.mark.parametrize(
    ("steps", "labels", "message"),
    [
        ([[0, 1, 2, 8]], [0], "steps from 0 to 8 must lie in 0 .. 7"),
        ([[-1, 1, 2, 7]], [0], "steps from -1 to 7"),
        ([[0, 1, 2, 7]], [3], "labels from 3 to 3 must lie in 0 .. 2"),
        ([[0, 1, 2, 7]], [-1], "labels from -1"),
    ],
)
def test_values_without_a_meaning_are_refused(steps, labels, message):
    with pytest.raises(ValueError, match=message):
        training.check_examples(CONFIG, np.array(steps), np.array(labels))


def test_relative_steps_do_not_depend_on_the_scale_of_a_layer():
    optimizer = training.relative_adam(0.1, weight_decay=0.0)
    weights = jnp.array([[1.0, -2.0, 3.0]])
    moved = []
    for scale in (1.0, 1e-3):
        params = network.Params((weights * scale,))
        slope = network.Params((weights[:, ::-1],))
        with jax.numpy_dtype_promotion("standard"):  # as in `make_update`
            changes, _ = optimizer.update(slope, optimizer.init(params), params)
        moved.append(changes.weights[0] / scale)
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-4)
    length = np.sqrt(np.mean(np.square(weights)))
    np.testing.assert_allclose(np.abs(moved[0]), 0.1 * length, rtol=1e-4)


@pytest.mark.parametrize("bits", [0, 3])
def test_a_network_learns_to_tell_two_patterns_apart(bits):
    config = network.NetworkConfig((8,), (network.Dense(6), network.Dense(2)), 10)
    early = np.where(np.arange(8) < 4, 1, 7)
    patterns = np.stack([early, early[::-1]])
    labels = jnp.asarray(np.tile([0, 1], 16))
    noise = np.random.default_rng(0).integers(-1, 2, (16, 2, 8))
    steps = jnp.asarray((patterns + noise).reshape(32, 8))

    optimizer = optax.adam(0.02)
    objective = temporal_margin.TemporalMargin(weight_bits=bits)
    gradient = temporal_margin.gradient(config, objective)
    jitter = functools.partial(training.jitter, radius=1, num_steps=10)
    update = jax.jit(training.make_update(gradient, optimizer, jitter))
    state = training.initial_state(network.init(jax.random.key(1), config), optimizer)
    for key in jax.random.split(jax.random.key(2), 150):
        state, _ = update(state, key, steps, labels)
    neurons = low_precision.integer_neurons(config, state.params, bits)
    outputs = jax.jit(events.output_steps, static_argnums=0)(config, neurons, steps)
    judged = jax.vmap(training.outcome, (0, 0, None))(outputs, labels, 10)
    assert bool(judged.correct.all())
    assert not bool(judged.tied.any())


@pytest.mark.parametrize("rule", ["margin", "s4nn"])
def test_devices_that_share_a_batch_learn_what_one_does(rule):
    layers = network.Dense(7), network.Dense(3)
    config = network.NetworkConfig((9,), layers, num_steps=12)
    if rule == "margin":
        objective = temporal_margin.TemporalMargin()
        gradient, reduce = temporal_margin.gradient(config, objective), jax.lax.pmean
    else:
        gradient, reduce = s4nn.gradient(config, s4nn.Rule()), jax.lax.psum
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    assert mesh.size == 2
    shared = jax.jit(training.over_devices(gradient, mesh, reduce))
    rng = np.random.default_rng(0)
    params = s4nn.init(jax.random.key(0), config)
    steps = jnp.asarray(rng.integers(0, 12, (6, 9)))
    batch = steps, jnp.asarray(rng.integers(0, 3, 6)), jnp.int32(3)
    expected = gradient(params, *batch)
    assert any(bool(slope.any()) for slope in expected[1].weights)
    chex.assert_trees_all_close(shared(params, *batch), expected, rtol=1e-5)
