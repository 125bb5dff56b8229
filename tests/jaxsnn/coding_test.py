import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import coding


def test_latency_of_a_table_worked_by_hand():
    # floor((4 - x) * 5 / 4) for x = 0 .. 4: 5, 3.75, 2.5, 1.25, 0.
    steps = coding.latency(np.arange(5, dtype=np.uint8), num_steps=6, max_value=4)
    assert steps.tolist() == [5, 3, 2, 1, 0]
    assert steps.dtype == np.int32


@pytest.mark.parametrize("num_steps", [2, 5, 16, 64, 256, 1000])
def test_latency_is_exact_in_numpy_and_jax(num_steps):
    pixels = np.arange(256, dtype=np.uint8)
    expected = [(255 - x) * (num_steps - 1) // 255 for x in range(256)]
    assert coding.latency(pixels, num_steps).tolist() == expected
    jitted = jax.jit(lambda x: coding.latency(x, num_steps))
    assert jitted(jnp.asarray(pixels)).tolist() == expected


@settings(deadline=None, max_examples=50)
@given(data=st.data(), max_value=st.integers(1, 40))
def test_pixel_window_is_the_exact_image_of_the_ball(data, max_value):
    num_steps = data.draw(st.integers(2, max_value + 1))
    radius = data.draw(st.integers(0, max_value))
    pixels = np.arange(max_value + 1)
    first, last = coding.pixel_window(pixels, radius / max_value, num_steps, max_value)
    for x in range(max_value + 1):
        ball = np.arange(max(0, x - radius), min(max_value, x + radius) + 1)
        reached = set(coding.latency(ball, num_steps, max_value).tolist())
        assert reached == set(range(first[x], last[x] + 1))


def test_eps_between_two_levels_rounds_down():
    pixels = np.array([10])
    below = coding.pixel_window(pixels, 2.9 / 16, num_steps=17, max_value=16)
    exact = coding.pixel_window(pixels, 2 / 16, num_steps=17, max_value=16)
    assert below[0] == exact[0] == 4
    assert below[1] == exact[1] == 8


def test_even_rate_counts_and_spacing():
    pixels = np.arange(17)
    spikes = coding.even_rate(pixels, num_steps=8, max_value=16)
    assert spikes.shape == (8, 17)
    assert spikes.sum(axis=0).tolist() == [8 * x // 16 for x in range(17)]
    traced = jax.jit(lambda x: coding.even_rate(x, 8, 16))(jnp.asarray(pixels))
    assert np.array_equal(traced, spikes)


def test_bernoulli_rate_is_a_function_of_its_key():
    pixels = jnp.full((3, 3), 100)
    one, again, other = (
        coding.bernoulli_rate(jax.random.key(seed), pixels, 20) for seed in (0, 0, 1)
    )
    assert one.shape == (20, 3, 3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_bernoulli_rate_has_the_right_mean_and_exact_ends():
    pixels = jnp.array([0, 64, 255])
    spikes = coding.bernoulli_rate(jax.random.key(1), pixels, num_steps=4000)
    mean = np.asarray(spikes).mean(axis=0)
    assert mean[0] == 0
    assert mean[2] == 1
    # Five standard deviations of a mean of 4000 draws.
    assert abs(mean[1] - 64 / 255) < 5 * np.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coding.latency(np.zeros(3), 8), "float64"),
        (lambda: coding.latency(np.array([256]), 8), "256"),
        (lambda: coding.latency(np.array([-1]), 8), "-1"),
        (lambda: coding.latency(np.array([1]), 1), "num_steps=1"),
        (lambda: coding.latency(np.array([1]), 8, 0), "max_value=0"),
        (lambda: coding.latency(np.array([1]), 2**24), "32-bit"),
        (lambda: coding.latency(np.array([1]), 4.5), "num_steps=4.5 must be a whole"),
        (lambda: coding.pixel_window(np.array([1]), -0.1, 8), "eps=-0.1"),
        (lambda: coding.pixel_window(np.array([1]), 0.1, 257), "num_steps=257"),
        (lambda: coding.even_rate(np.array([1]), 0), "num_steps=0"),
        (lambda: coding.even_rate(np.array([0.5]), 8), "float64"),
        (lambda: coding.even_rate(np.array([17]), 8, 16), "17"),
        (
            lambda: coding.bernoulli_rate(jax.random.key(0), jnp.array([0.5]), 8),
            "float32",
        ),
        (
            lambda: coding.bernoulli_rate(jax.random.key(0), jnp.array([1]), 8, 0),
            "max_value=0",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
