"""An exact statistical bound on the accuracy that pruning costs.

Base and pruned model see the same examples, so only *discordant* ones tell them
apart: with `lost` examples that only the base model gets right and `gained` ones that
only the pruned model gets right, the observed drop is `(lost - gained) / n`. Let
`p_lost` and `p_gained` be the probabilities of the two. The hypothesis "the drop is at
least epsilon", `p_lost - p_gained >= epsilon`, leaves the rate of discordance
`r = p_lost + p_gained` free; it is bounded with a small part of the error probability
(Berger and Boos) and the remaining supremum is bounded from above by interval
refinement, never approximated from below. Nothing is asymptotic.

The examples must not have been used for anything else: neither to calibrate, to choose
among plans, nor to train.

References:
    Berger and Boos, 1994, https://doi.org/10.1080/01621459.1994.10476836
    Angelopoulos et al., 2021, Learn then Test, https://arxiv.org/abs/2110.01052
    Laufer-Goldshtein et al., 2022, Pareto Testing, https://arxiv.org/abs/2210.07913
"""

import dataclasses
import functools
import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

METHOD = "paired exact test, supremum over the discordance rate (Berger-Boos)"
SEQUENCE_METHOD = f"{METHOD}, fixed sequence (Learn then Test)"

# The part of the error probability spent on bounding the rate of discordance; near the
# optimum for rates of 1 % to 10 % and any number of examples.
_NUISANCE_SHARE = 0.1
# Intervals of the rate to refine before an undecided test counts as not passed.
_MAX_CELLS = 100
# Bounds are reported to this precision, rounded up: a hundredth of a point.
_RESOLUTION = 1e-4
# Probability neglected when tails are summed; it is added to the bound.
_SLACK = 1e-12


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was shown about a pruned model.

    Attributes:
        confidence: `1 - alpha`; over repetitions of the whole experiment, a
            certificate passes for a model whose true drop exceeds the tolerance with
            probability at most alpha.
        num_examples: n, examples used for this alone.
        accuracy_drop: observed, base minus pruned; may be negative.
        accuracy_drop_upper_bound: the true drop is below it with this confidence.
        passed: whether the bound is at most the tolerance.
        method: how the bound was computed.
        tolerance: the largest drop accepted.
        num_lost: examples that only the base model gets right.
        num_gained: examples that only the pruned model gets right.
    """

    confidence: float
    num_examples: int
    accuracy_drop: float
    accuracy_drop_upper_bound: float
    passed: bool
    method: str
    tolerance: float
    num_lost: int
    num_gained: int


def _check_level(tolerance: float, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=} is not in (0, 1), such as 0.95")
    if not 0 <= tolerance <= 1:
        raise ValueError(
            f"{tolerance=} is not in [0, 1]: a fraction, such as 0.01 for 1 point"
        )


def _counts(base_correct: ArrayLike, pruned_correct: ArrayLike) -> tuple[int, int, int]:
    base, pruned = np.asarray(base_correct), np.asarray(pruned_correct)
    for name, values in (("base_correct", base), ("pruned_correct", pruned)):
        if values.dtype != bool or values.ndim != 1:
            raise ValueError(
                f"{name} is {values.dtype} of shape {values.shape}, expected boolean "
                "[n]: whether each example is classified correctly"
            )
    if base.shape != pruned.shape or not base.size:
        raise ValueError(
            f"base_correct {base.shape} and pruned_correct {pruned.shape} must tell of "
            "the same examples, at least one"
        )
    lost, gained = int(np.sum(base & ~pruned)), int(np.sum(pruned & ~base))
    return lost, gained, base.size


def _difference_cdf(drop: int, n: int, p_lost: float, p_gained: float) -> float:
    """Returns an upper bound, within `_SLACK` and n eps, of `P(lost - gained <= drop)`.

    The distribution of the difference is the Fourier transform of the n-th power of
    one example's characteristic function, taken on a period that holds all but
    `_SLACK` of the mass (Bernstein's inequality).
    """
    mean, variance = n * (p_lost - p_gained), n * (p_lost + p_gained)
    log_slack = math.log(2 / _SLACK)
    width = 2 * log_slack / 3 + math.sqrt(2 * log_slack * variance) + log_slack
    period = 2 ** math.ceil(math.log2(2 * width + 2))
    lowest = math.floor(mean - period / 2)
    angle = 2 * np.pi / period * np.arange(period // 2 + 1)
    one = 1 - p_lost - p_gained + p_lost * np.exp(-1j * angle)
    one += p_gained * np.exp(1j * angle)
    mass = np.fft.irfft(one**n, period)
    below = np.arange(lowest, min(drop, lowest + period - 1) + 1) % period
    error = _SLACK + 8 * n * float(np.finfo(float).eps)
    return float(np.sum(mass[below])) + error


@functools.lru_cache(maxsize=4096)
def _max_discordance(discordant: int, n: int, alpha: float) -> float:
    """Returns the Clopper-Pearson upper bound of the rate of discordance."""
    if discordant == n:
        return 1.0
    return float(special.betaincinv(discordant + 1, n - discordant, 1 - alpha))


@functools.lru_cache(maxsize=65536)
def _rejects(lost: int, gained: int, n: int, epsilon: float, alpha: float) -> bool:
    """Whether "the drop is at least epsilon" is rejected with error at most alpha.

    In an interval [a, b] of rates of discordance the observed drop is stochastically
    smallest for the smallest p_lost, `(a + epsilon) / 2`, and the largest p_gained,
    `(b - epsilon) / 2`; that bounds the whole interval. The interval with the largest
    bound is split until all bounds are below the level or a rate is found at which the
    probability is above it. For larger epsilon every probability is smaller, so all
    larger drops are rejected as well.
    """
    drop, level = lost - gained, alpha * (1 - _NUISANCE_SHARE)
    max_rate = _max_discordance(lost + gained, n, alpha * _NUISANCE_SHARE)
    if epsilon >= max_rate:
        return True

    def bound(a: float, b: float) -> float:
        return _difference_cdf(drop, n, (a + epsilon) / 2, (b - epsilon) / 2)

    if bound(max_rate, max_rate) > level or bound(epsilon, epsilon) > level:
        return False
    intervals = [(-bound(epsilon, max_rate), epsilon, max_rate)]
    for _ in range(_MAX_CELLS):
        largest, a, b = intervals[0]
        if -largest <= level:
            return True
        middle = (a + b) / 2
        if bound(middle, middle) > level:
            return False
        heapq.heapreplace(intervals, (-bound(a, middle), a, middle))
        heapq.heappush(intervals, (-bound(middle, b), middle, b))
    return False


def _certificate(
    lost: int, gained: int, n: int, tolerance: float, confidence: float, method: str
) -> Certificate:
    alpha = 1 - confidence
    passed = _rejects(lost, gained, n, tolerance, alpha)
    low, high = (0.0, tolerance) if passed else (tolerance, 1.0)
    if passed and _rejects(lost, gained, n, 0.0, alpha):
        high = 0.0
    while high - low > _RESOLUTION:
        middle = (low + high) / 2
        if _rejects(lost, gained, n, middle, alpha):
            high = middle
        else:
            low = middle
    return Certificate(
        confidence=confidence,
        num_examples=n,
        accuracy_drop=(lost - gained) / n,
        accuracy_drop_upper_bound=high,
        passed=passed,
        method=method,
        tolerance=tolerance,
        num_lost=lost,
        num_gained=gained,
    )


def accuracy_drop_certificate(
    base_correct: ArrayLike,
    pruned_correct: ArrayLike,
    tolerance: float,
    confidence: float = 0.95,
) -> Certificate:
    """Returns the certificate of one pruned model, chosen without these examples.

    Args:
        base_correct: `[n]` boolean, whether the base model classifies each example
            correctly.
        pruned_correct: `[n]` boolean, the same of the pruned model.
        tolerance: largest acceptable drop of accuracy, a fraction in [0, 1].
        confidence: in (0, 1).

    Guarantees:
        If the examples are independent draws and were used for nothing else, the true
        drop exceeds `accuracy_drop_upper_bound` with probability at most
        `1 - confidence`; so it exceeds the tolerance although `passed`. The bound is
        never reported below zero.

    Raises:
        ValueError: if the arrays are not boolean of one length, or a level is outside
            its range.

    >>> base = np.arange(1000) < 900
    >>> pruned = np.arange(1000) < 895
    >>> certificate = accuracy_drop_certificate(base, pruned, tolerance=0.02)
    >>> certificate.accuracy_drop, certificate.passed
    (0.005, True)
    """
    _check_level(tolerance, confidence)
    lost, gained, n = _counts(base_correct, pruned_correct)
    return _certificate(lost, gained, n, tolerance, confidence, METHOD)


@dataclasses.dataclass(frozen=True)
class FixedSequence:
    """The outcome of testing candidates in an order fixed beforehand.

    Attributes:
        selected: index of the last candidate that passed; None if the first failed.
        certificates: of the candidates that were tested: those that passed, whose
            bound is the tolerance (what holds for all of them together), and the
            first that failed, if any, of which nothing is claimed.
    """

    selected: int | None
    certificates: tuple[Certificate, ...]


def fixed_sequence(
    base_correct: ArrayLike,
    candidates_correct: Sequence[ArrayLike],
    tolerance: float,
    confidence: float = 0.95,
) -> FixedSequence:
    """Tests candidates from the safest to the boldest until one fails.

    Each test runs at the full error probability, and yet the probability that *any*
    of those that pass exceeds the tolerance is at most `1 - confidence`: to reach a
    wrong pass, the first candidate beyond the tolerance must pass its own test. The
    order must not depend on these examples; it may come from a selection split.

    Args:
        base_correct: `[n]` boolean.
        candidates_correct: `[n]` boolean for each candidate, in order.
        tolerance: largest acceptable drop of accuracy, a fraction in [0, 1].
        confidence: in (0, 1), of all claims together.

    Raises:
        ValueError: without candidates, and as `accuracy_drop_certificate`.

    References:
        Learn then Test, section 3.2 (fixed sequence testing); Pareto Testing.

    >>> base = np.arange(1000) < 900
    >>> candidates = [np.arange(1000) < 900 - lost for lost in (2, 5, 60, 3)]
    >>> fixed_sequence(base, candidates, tolerance=0.02).selected
    1
    """
    _check_level(tolerance, confidence)
    if not candidates_correct:
        raise ValueError("candidates_correct is empty: nothing to test")
    certificates: list[Certificate] = []
    for correct in candidates_correct:
        certificate = _certificate(
            *_counts(base_correct, correct), tolerance, confidence, SEQUENCE_METHOD
        )
        if not certificate.passed:
            certificates.append(certificate)
            break
        certificates.append(
            dataclasses.replace(certificate, accuracy_drop_upper_bound=tolerance)
        )
    num_passed = sum(certificate.passed for certificate in certificates)
    return FixedSequence(num_passed - 1 if num_passed else None, tuple(certificates))


def power(
    num_examples: int,
    tolerance: float,
    confidence: float,
    discordance: float,
    true_drop: float = 0.0,
) -> float:
    """Returns the probability that a certificate passes (a lower bound, close to it).

    Args:
        num_examples: n.
        tolerance: largest acceptable drop of accuracy.
        confidence: of the certificate.
        discordance: the rate of examples that only one of the models gets right.
        true_drop: of accuracy, at most the discordance in size.

    Raises:
        ValueError: if an argument is outside its range.

    >>> power(2000, tolerance=0.02, confidence=0.95, discordance=0.03) > 0.9
    True
    """
    _check_level(tolerance, confidence)
    if num_examples < 1:
        raise ValueError(f"{num_examples=} must be at least 1")
    if not abs(true_drop) <= discordance <= 1:
        raise ValueError(
            f"{discordance=} is not between |true_drop|={abs(true_drop)} and 1"
        )
    alpha = 1 - confidence

    def passes(discordant: int, lost: int) -> bool:
        return lost < 0 or (
            lost <= discordant
            and _rejects(lost, discordant - lost, num_examples, tolerance, alpha)
        )

    # With more discordant examples fewer net losses pass, so what passes at a node
    # also passes between it and the node before.
    levels = [1e-6, *np.linspace(0.05, 0.95, 10), 1 - 1e-6]
    nodes = sorted(set(stats.binom.ppf(levels, num_examples, discordance).astype(int)))
    p_lost = (1 + true_drop / discordance) / 2 if discordance else 0.5
    passed, before = 0.0, -1
    for node in nodes:
        # The most lost examples that pass, found outwards from a normal guess.
        margin = stats.norm.isf(alpha) * math.sqrt(node + 1)
        lost = round((node + num_examples * tolerance - margin) / 2)
        step = max(1, round(margin / 8))
        direction = 1 if passes(node, lost) else -1
        while passes(node, lost + direction * step) == (direction == 1):
            lost += direction * step
        low, high = sorted((lost, lost + direction * step))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if passes(node, middle) else (low, middle)
        discordant = np.arange(before + 1, node + 1)
        most_lost = np.floor((discordant + 2 * low - node) / 2)
        chance = stats.binom.cdf(np.maximum(most_lost, 0), discordant, p_lost)
        mass = stats.binom.pmf(discordant, num_examples, discordance)
        passed += float(mass @ np.where(most_lost < 0, 0.0, chance))
        before = node
    return passed


def examples_needed(
    tolerance: float,
    confidence: float,
    discordance: float,
    true_drop: float = 0.0,
    target_power: float = 0.8,
) -> int:
    """Returns how many untouched examples a claim needs, before they are spent.

    Args:
        tolerance: largest acceptable drop of accuracy, above `true_drop`.
        confidence: of the certificate.
        discordance: the rate of examples that only one of the models gets right, as
            seen on a selection split.
        true_drop: of accuracy, as hoped for.
        target_power: the probability with which the certificate shall pass.

    Returns:
        The smallest number to within 2 % for which `power` reaches the target.

    Raises:
        ValueError: if an argument is outside its range, or the true drop is not below
            the tolerance, for which no number suffices.

    >>> examples_needed(0.02, 0.95, discordance=0.04)
    947
    """
    _check_level(tolerance, confidence)
    if not true_drop < tolerance:
        raise ValueError(
            f"{true_drop=} is not below {tolerance=}: no number of examples suffices"
        )
    if not 0 < target_power < 1:
        raise ValueError(f"{target_power=} is not in (0, 1), such as 0.8")

    def suffices(n: int) -> bool:
        return power(n, tolerance, confidence, discordance, true_drop) >= target_power

    # The normal approximation is a start, usually below the answer.
    z = stats.norm.isf(1 - confidence) + stats.norm.isf(1 - target_power)
    variance = discordance - true_drop**2
    high = max(4, math.ceil(max(z, 0.0) ** 2 * variance / (tolerance - true_drop) ** 2))
    low = 0
    while not suffices(high):
        low, high = high, math.ceil(1.2 * high)
    while high - low > max(1, 0.02 * high):
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
