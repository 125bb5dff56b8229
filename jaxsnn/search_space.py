"""How many inputs a perturbation budget allows: spike times against spike counts.

Exact numbers, as Python integers of any size, beside the estimates of arXiv 2408.10900
that compare a temporal with a rate code. NumPy alone.

Where does the rate space become the larger one, if the budget is a fraction of the
`n T` places of the spike trains? By the estimates, for small fractions, from `T = 8` on
(above `e^2`, about 7.4). Counted exactly, from `T = 3` on: there are about
`(n T)^k / k!` ways to flip `k` spikes, and `(2 n)^k / k!` ways to move `k` spike times
by a step, so that two steps are even and three are not. Only with budgets of about half
of all places or more does the crossing come later, at 4 and at last 5.
"""

import math
from collections.abc import Sequence

import numpy as np


def temporal_l1(num_inputs: int, budget: int) -> int:
    """Returns the number of spike-time vectors within an L1 budget, time unbounded.

    Choose `k` inputs that move, a direction for each, and how to spread at most
    `budget` steps over them so that each moves: the sum over `k` of
    `C(n, k) C(budget, k) 2^k`.

    Args:
      num_inputs: `n`.
      budget: largest total shift, in steps.

    Raises:
      ValueError: a negative number.

    >>> temporal_l1(num_inputs=784, budget=2)
    1230881
    """
    _check(num_inputs=num_inputs, budget=budget)
    return sum(
        math.comb(num_inputs, moved) * math.comb(budget, moved) * 2**moved
        for moved in range(min(num_inputs, budget) + 1)
    )


def temporal_l1_within(steps: Sequence[int], num_steps: int, budget: int) -> int:
    """Returns the number of spike-time vectors within an L1 budget, in `0 .. T-1`.

    Args:
      steps: `[D]` spike times that the budget is counted from.
      num_steps: `T`.
      budget: largest total shift, in steps.

    Raises:
      ValueError: a negative budget, or times outside `0 .. T-1`.

    >>> temporal_l1_within([0, 1], num_steps=3, budget=2)
    7
    """
    _check(budget=budget)
    # ways[d]: number of settings of the inputs so far whose total shift is d.
    ways = [1] + [0] * budget
    for step in _times(steps, num_steps):
        shifts = [abs(other - step) for other in range(num_steps)]
        counts = np.bincount(shifts, minlength=budget + 1).tolist()
        ways = [
            sum(ways[total - shift] * counts[shift] for shift in range(total + 1))
            for total in range(budget + 1)
        ]
    return sum(ways)


def temporal_linf_within(steps: Sequence[int], num_steps: int, radius: int) -> int:
    """Returns the number of spike-time vectors in `0 .. T-1`, each within `radius`.

    Args:
      steps: `[D]` spike times.
      num_steps: `T`.
      radius: largest shift of each, in steps.

    Raises:
      ValueError: a negative radius, or times outside `0 .. T-1`.

    >>> temporal_linf_within([0, 1], num_steps=3, radius=1)
    6
    """
    _check(radius=radius)
    return math.prod(
        min(step + radius, num_steps - 1) - max(step - radius, 0) + 1
        for step in _times(steps, num_steps)
    )


def rate_hamming(num_inputs: int, num_steps: int, budget: int) -> int:
    """Returns the number of spike trains that differ in at most `budget` places.

    Args:
      num_inputs: `n`; each has a spike or none at each step.
      num_steps: `T`.
      budget: largest number of spikes added or removed.

    Raises:
      ValueError: a negative number.

    >>> rate_hamming(num_inputs=784, num_steps=5, budget=1)
    3921
    """
    _check(num_inputs=num_inputs, num_steps=num_steps, budget=budget)
    places = num_inputs * num_steps
    return sum(math.comb(places, k) for k in range(min(places, budget) + 1))


def log_temporal_estimate(num_inputs: int, budget: int) -> float:
    """Returns the logarithm of the paper's estimate of the temporal space.

    `n^budget / budget! (1 + 2 budget / n)^n`, meant as a bound. For budgets small
    against `n` it overcounts many times (compare `temporal_l1`), for others it is none:
    one input and a budget of 2 have 5 settings, and it says 2.5.

    >>> round(math.exp(log_temporal_estimate(784, 2)) / 1e7, 2)
    1.66
    """
    _check(least=1, num_inputs=num_inputs)
    _check(budget=budget)
    return (
        budget * math.log(num_inputs)
        - math.lgamma(budget + 1)
        + num_inputs * math.log1p(2 * budget / num_inputs)
    )


def log_rate_estimate(num_inputs: int, num_steps: int, budget: int) -> float:
    """Returns the logarithm of the paper's estimate of the rate space.

    `(n T)^budget / budget!`, for budgets small against `n T`.

    >>> round(math.exp(log_rate_estimate(784, 5, 1)))
    3920
    """
    _check(least=1, num_inputs=num_inputs, num_steps=num_steps)
    _check(budget=budget)
    return budget * math.log(num_inputs * num_steps) - math.lgamma(budget + 1)


def crossing(num_inputs: int, fraction: float, most_steps: int = 256) -> int | None:
    """Returns from how many steps on the rate space is the larger one.

    The budget is the same in both and grows with the size of the input, as
    `fraction * n * T` rounded up. Both spaces are counted exactly, time unbounded.

    Args:
      num_inputs: `n`.
      fraction: of the `n T` places, in `(0, 1]`.
      most_steps: where to stop looking.

    Returns:
      The smallest `T >= 2` from which on, up to `most_steps`, the rate space is larger;
      None if it is smaller at `most_steps`.

    Raises:
      ValueError: a fraction outside `(0, 1]`.

    >>> crossing(num_inputs=20, fraction=0.01, most_steps=20)
    3
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"{fraction=} must lie in (0, 1]")
    found = None
    for num_steps in range(most_steps, 1, -1):
        budget = math.ceil(fraction * num_inputs * num_steps)
        rate = rate_hamming(num_inputs, num_steps, budget)
        if rate <= temporal_l1(num_inputs, budget):
            break
        found = num_steps
    return found


def crossing_estimate(fraction: float, most_steps: int = 256) -> int | None:
    """Returns from how many steps on the rate space is larger by the paper's estimates.

    Their ratio is `(T^(f T) / (1 + 2 f T))^n` for a budget of `f n T`, so that the
    crossing is the same for all sizes.

    Args:
      fraction: `f`, in `(0, 1]`.
      most_steps: where to stop looking.

    Returns:
      As `crossing`.

    Raises:
      ValueError: a fraction outside `(0, 1]`.

    >>> crossing_estimate(0.001), crossing(100, 0.001, most_steps=12)
    (8, 3)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"{fraction=} must lie in (0, 1]")
    found = None
    for num_steps in range(most_steps, 1, -1):
        budget = fraction * num_steps
        if budget * math.log(num_steps) <= math.log1p(2 * budget):
            break
        found = num_steps
    return found


def _check(least: int = 0, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            reason = f"be at least {least}" if least else "not be negative"
            raise ValueError(f"{name}={value} must {reason}")


def _times(steps: Sequence[int], num_steps: int) -> list[int]:
    times = [int(step) for step in steps]
    if times and not 0 <= min(times) <= max(times) < num_steps:
        raise ValueError(
            f"spike times from {min(times)} to {max(times)}; they must lie in "
            f"0 .. {num_steps - 1}"
        )
    return times
