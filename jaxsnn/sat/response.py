"""Responses: what one spike adds to a potential in the steps after its arrival.

A response `kappa(0), kappa(1), ...` of integers keeps its last value for ever. Since
every input spikes once, a potential is `sum_i w[n, i] kappa(t - s_i - d[n, i])`, and
that is a sum of delayed steps of weight `w (kappa(u) - kappa(u - 1))`, one for each
`u` at which the response changes: still linear in "input i has spiked by step t".

The fixed point of a response is its peak: leak and alpha peak at `2^bits`. Thresholds
scale along, so that a spike of weight `w` lifts a potential by at most `w` thresholds'
units whatever the response (`jaxsnn.low_precision`).
"""

import math
from collections.abc import Sequence

import numpy as np

Response = tuple[int, ...]

# Integers up to this are exact in bfloat16. Some accelerators multiply float32 in
# pieces of that size, and drop the smallest products of numbers that need several.
_LARGEST = 256

# Time constants up to this keep responses short enough to write down.
_LONGEST = 4096

# A spike adds its weight, for ever.
STEP: Response = (1,)


def leak(time_constant: float, bits: int = 4) -> Response:
    """Returns an exponential decay, `round(2^bits exp(-u / time_constant))`.

    Args:
      time_constant: steps in which the response falls by a factor of e.
      bits: fractional bits; the response starts at `2^bits` and ends at exactly 0.

    Raises:
      ValueError: a time constant that is not in 0 to 4096, or negative bits.

    >>> leak(2.0)
    (16, 10, 6, 4, 2, 1, 1, 0)
    """
    _check(time_constant, bits)
    # Beyond this many steps everything rounds to zero.
    steps = math.ceil(time_constant * (bits + 1) * math.log(2)) + 1
    values = np.exp(-np.arange(steps + 1) / time_constant)
    return canonical(np.rint(2**bits * values).astype(int).tolist())


def ramp(duration: int) -> Response:
    """Returns a rise by one a step, `1, 2, ..., duration`, that then stays.

    Args:
      duration: steps until it is full.

    Raises:
      ValueError: a duration below 1 or above 256.

    >>> ramp(4)
    (1, 2, 3, 4)
    """
    if not 1 <= duration <= _LARGEST:
        raise ValueError(f"{duration=} must be 1 to {_LARGEST} steps")
    return tuple(range(1, duration + 1))


def alpha(time_constant: float, bits: int = 4) -> Response:
    """Returns a rise and decay, `round(2^bits x exp(1 - x))`, `x = (u + 1) / tau`.

    Sampled at the end of each step, so that a spike counts in the step it arrives.

    Args:
      time_constant: `tau`, the steps until the peak.
      bits: fractional bits; the peak is near `2^bits`.

    Raises:
      ValueError: a time constant that is not in 0 to 4096, or negative bits.

    >>> alpha(2.0)
    (13, 16, 15, 12, 9, 6, 5, 3, 2, 1, 1, 1, 0)
    """
    _check(time_constant, bits)
    x = np.arange(1, math.ceil(time_constant * (bits + 8)) + 2) / time_constant
    return canonical(np.rint(2**bits * x * np.exp(1 - x)).astype(int).tolist())


def canonical(response: Sequence[int]) -> Response:
    """Returns a response as integers without the repetitions at its end.

    Raises:
      ValueError: no values, values that are not integers, zeros alone, or a magnitude
        above 256.

    >>> canonical([2, 1, 1, 1])
    (2, 1)
    """
    values = np.asarray(response)
    if values.ndim != 1 or values.dtype.kind not in "iu" or not values.any():
        raise ValueError(
            f"response {response} must be integers kappa(0), kappa(1), ..., not all 0"
        )
    if np.abs(values).max() > _LARGEST:
        raise ValueError(
            f"response {response} exceeds {_LARGEST}, beyond which products are not "
            "exact on every accelerator; use fewer fractional bits"
        )
    kept = len(values)
    while kept > 1 and values[kept - 2] == values[kept - 1]:
        kept -= 1
    return tuple(values[:kept].tolist())


def peak(response: Response) -> int:
    """Returns the largest magnitude of a response, its fixed point."""
    return max(map(abs, response))


def changes(response: Response) -> list[tuple[int, int]]:
    """Returns `(lag, change)` wherever the response changes, from 0 before the spike.

    >>> changes((2, 2, 0))
    [(0, 2), (2, -2)]
    """
    differences = np.diff(response, prepend=0).tolist()
    return [(lag, change) for lag, change in enumerate(differences) if change]


def matrix(response: Response, num_steps: int) -> np.ndarray:
    """Returns `[T, T]` float32: what a spike sent by step `h` changes at step `t`.

    >>> matrix((2, 1), 3)
    array([[ 2.,  0.,  0.],
           [-1.,  2.,  0.],
           [ 0., -1.,  2.]], dtype=float32)
    """
    total = np.zeros((num_steps, num_steps), np.float32)
    for lag, change in changes(response):
        total += change * np.eye(num_steps, k=-lag, dtype=np.float32)
    return total


def by_age(response: Response, num_steps: int) -> np.ndarray:
    """Returns `[2 T]` float32: `kappa(u)` for `u` from `-T` to `T - 1`.

    >>> by_age((2, 1), 2)
    array([0., 0., 2., 1.], dtype=float32)
    """
    index = np.minimum(np.arange(num_steps), len(response) - 1)
    after = np.array(response, np.float32)[index]
    return np.concatenate([np.zeros(num_steps, np.float32), after])


def _check(time_constant: float, bits: int) -> None:
    if not 0 < time_constant <= _LONGEST:
        raise ValueError(f"{time_constant=} must be positive, at most {_LONGEST} steps")
    if bits < 0:
        raise ValueError(f"{bits=} must not be negative")
