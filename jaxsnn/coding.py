"""Input codes: grey levels to spike steps, pixel balls to windows of steps, rates.

All of it is integer arithmetic: a code is part of what a proof is about.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

IntegerArray = TypeVar("IntegerArray", np.ndarray, jax.Array)

# An `eps` this close below a whole number of grey levels counts as that number, so
# that 8 / 255 means eight levels whichever way the division rounded.
_LEVEL_TOLERANCE = 1e-9


def latency(pixels: IntegerArray, num_steps: int, max_value: int = 255) -> IntegerArray:
    """Returns the step at which each pixel spikes: the brighter, the earlier.

    A pixel `x` spikes at `floor((max_value - x) (T - 1) / max_value)`, the code of
    S4NN (arXiv 1910.09495) and of arXiv 2408.10900.

    Args:
      pixels: integers in `0 .. max_value`, of any shape; NumPy or JAX.
      num_steps: `T`.
      max_value: the grey level that spikes at step 0.

    Returns:
      int32 steps in `0 .. T-1`, of the same shape and library.

    Raises:
      ValueError: other types than integers, `num_steps < 2`, `max_value < 1`, or (for
        NumPy arrays, whose values are known) grey levels outside `0 .. max_value`.

    >>> latency(np.array([255, 128, 1, 0], np.uint8), num_steps=16)
    array([ 0,  7, 14, 15], dtype=int32)
    """
    _check_code(num_steps, max_value)
    _check_grey(pixels, max_value)
    darkness = max_value - pixels.astype(np.int32)
    return darkness * (num_steps - 1) // max_value


def pixel_window(
    pixels: np.ndarray, eps: float, num_steps: int, max_value: int = 255
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spike steps reachable when each pixel moves by at most `eps`.

    The image of the pixel ball `|x' - x| <= eps * max_value`, `x'` a grey level, under
    the latency code. It is a box, and an exact one: as long as there are no more steps
    than grey levels, every step between the two ends is the code of some `x'`.

    Args:
      pixels: integers in `0 .. max_value`, of any shape.
      eps: radius as a fraction of the grey scale, in `[0, 1]`.
      num_steps: `T`, at most `max_value + 1`.
      max_value: the grey level that spikes at step 0.

    Returns:
      The first and the last reachable step of each pixel, int32.

    Raises:
      ValueError: as `latency`, `eps` outside `[0, 1]`, or more steps than grey levels.

    >>> pixel_window(np.array([255, 128, 0]), eps=0.1, num_steps=16)
    (array([ 0,  6, 13], dtype=int32), array([ 1,  8, 15], dtype=int32))
    """
    if not 0 <= eps <= 1:
        raise ValueError(f"{eps=} must lie in [0, 1], a fraction of the grey scale")
    if num_steps > max_value + 1:
        raise ValueError(
            f"{num_steps=} exceeds the {max_value + 1} grey levels: some steps would "
            "be the code of none, and the window would not be exact"
        )
    levels = math.floor(eps * max_value + _LEVEL_TOLERANCE)
    grey = np.asarray(pixels)
    latency(grey, num_steps, max_value)  # Checks type and range.
    grey = grey.astype(np.int32)
    first = latency(np.minimum(grey + levels, max_value), num_steps, max_value)
    last = latency(np.maximum(grey - levels, 0), num_steps, max_value)
    return first, last


def bernoulli_rate(
    key: jax.Array, pixels: jax.Array, num_steps: int, max_value: int = 255
) -> jax.Array:
    """Returns independent spikes, `x / max_value` of the steps in expectation.

    Args:
      key: a PRNG key; consumed.
      pixels: `[...]` integers in `0 .. max_value`.
      num_steps: `T`.
      max_value: the grey level that spikes at every step.

    Returns:
      `[T, ...]` booleans.

    Raises:
      ValueError: as `latency`.

    >>> spikes = bernoulli_rate(jax.random.key(0), jnp.array([0, 255]), num_steps=5)
    >>> spikes.sum(axis=0).tolist()
    [0, 5]
    """
    _check_code(num_steps, max_value)
    _check_grey(pixels, max_value)
    # An integer draw in 0 .. max_value - 1: no rounding decides whether x spikes.
    draws = jax.random.randint(key, (num_steps, *pixels.shape), 0, max_value)
    return draws < pixels.astype(jnp.int32)[None]


def even_rate(
    pixels: IntegerArray, num_steps: int, max_value: int = 255
) -> IntegerArray:
    """Returns `floor(T x / max_value)` spikes per pixel, spaced evenly.

    Args:
      pixels: `[...]` integers in `0 .. max_value`.
      num_steps: `T`.
      max_value: the grey level that spikes at every step.

    Returns:
      `[T, ...]` booleans: a spike at `t` where `floor((t + 1) x / max_value)` exceeds
      `floor(t x / max_value)`.

    Raises:
      ValueError: as `latency`.

    >>> even_rate(np.array([0, 128, 255]), num_steps=4).astype(int).T.tolist()
    [[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]]
    """
    _check_code(num_steps, max_value)
    _check_grey(pixels, max_value)
    xp = np if isinstance(pixels, np.ndarray) else jnp
    steps = xp.arange(num_steps + 1, dtype=np.int32)
    steps = steps.reshape((-1,) + (1,) * pixels.ndim)
    counts = steps * pixels.astype(np.int32)[None] // max_value
    return counts[1:] > counts[:-1]


def _check_grey(pixels: np.ndarray | jax.Array, max_value: int) -> None:
    """Raises ValueError unless these are grey levels, as far as values are known."""
    if pixels.dtype.kind not in "iu":
        raise ValueError(
            f"pixels have type {pixels.dtype}; the code takes integer grey levels "
            "(multiply by max_value and round first)"
        )
    if isinstance(pixels, np.ndarray) and pixels.size:
        darkest, brightest = int(pixels.min()), int(pixels.max())
        if darkest < 0 or brightest > max_value:
            raise ValueError(
                f"grey levels from {darkest} to {brightest}; they must lie in "
                f"0 .. max_value = {max_value}"
            )


def _check_code(num_steps: int, max_value: int) -> None:
    for name, value in (("num_steps", num_steps), ("max_value", max_value)):
        if not isinstance(value, (int, np.integer)):
            raise ValueError(f"{name}={value!r} must be a whole number")
    if num_steps < 2:
        raise ValueError(f"{num_steps=} must be at least 2")
    if max_value < 1:
        raise ValueError(f"{max_value=} must be at least 1")
    if max_value * num_steps >= 2**31:
        raise ValueError(
            f"{num_steps=} times {max_value=} does not fit a 32-bit integer"
        )
