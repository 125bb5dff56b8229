"""Certificates: exact error rates by enumeration, coverage by simulation."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import stats

from jaxprune import certify


def correctness(n, lost, gained, both=0):
    """Correctness of two models that differ on `lost + gained` examples."""
    base = np.arange(n) < lost + both
    pruned = (np.arange(n) >= lost) & (np.arange(n) < lost + both + gained)
    return base, pruned


def multinomial(n, lost, gained, p_lost, p_gained):
    return stats.multinomial.pmf(
        [lost, gained, n - lost - gained], n, [p_lost, p_gained, 1 - p_lost - p_gained]
    )


@pytest.mark.parametrize(
    ("n", "p_lost", "p_gained"),
    [(1, 0.3, 0.2), (7, 0.5, 0.5), (12, 0.1, 0.0), (12, 0.05, 0.3), (9, 0.0, 0.0)],
)
def test_distribution_of_the_difference(n, p_lost, p_gained):
    for drop in range(-n - 1, n + 2):
        exact = sum(
            multinomial(n, lost, gained, p_lost, p_gained)
            for lost in range(n + 1)
            for gained in range(n + 1 - lost)
            if lost - gained <= drop
        )
        ours = certify._difference_cdf(drop, n, p_lost, p_gained)
        assert ours == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize(("tolerance", "alpha"), [(0.05, 0.1), (0.2, 0.05), (0.0, 0.1)])
def test_exact_error_rate_is_at_most_alpha(tolerance, alpha):
    """The error at every true drop above the tolerance, with no simulation at all."""
    n = 40
    passing = [
        (lost, gained)
        for lost in range(n + 1)
        for gained in range(n + 1 - lost)
        if certify._rejects(lost, gained, n, tolerance, alpha)
    ]
    assert passing
    lost, gained = np.array(passing).T
    counts = np.stack([lost, gained, n - lost - gained], axis=1)
    worst = 0.0
    for drop in (tolerance, tolerance + 0.02):
        for rate in np.linspace(max(drop, 1e-9), 1, 60):
            p_lost, p_gained = (rate + drop) / 2, (rate - drop) / 2
            rest = max(0.0, 1 - p_lost - p_gained)
            chance = stats.multinomial.pmf(counts, n, [p_lost, p_gained, rest]).sum()
            worst = max(worst, chance)
    assert worst <= alpha
    # and the test is not needlessly timid.
    assert worst >= alpha / 4


@pytest.mark.parametrize(
    ("n", "tolerance", "discordance"), [(1000, 0.01, 0.04), (300, 0.03, 0.1)]
)
def test_coverage_over_ten_thousand_simulated_runs(n, tolerance, discordance):
    rng = np.random.default_rng(0)
    p_lost, p_gained = (discordance + tolerance) / 2, (discordance - tolerance) / 2
    runs = rng.multinomial(n, [p_lost, p_gained, 1 - discordance], size=10_000)
    passed = sum(
        certify._rejects(int(lost), int(gained), n, tolerance, 0.05)
        for lost, gained, _ in runs
    )
    assert 0.01 <= passed / len(runs) <= 0.05


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    n=st.integers(1, 300),
    lost=st.integers(0, 30),
    gained=st.integers(0, 30),
    tolerance=st.floats(0, 0.5),
    confidence=st.floats(0.5, 0.999),
)
def test_laws(n, lost, gained, tolerance, confidence):
    n += lost + gained
    result = certify.accuracy_drop_certificate(
        *correctness(n, lost, gained), tolerance, confidence
    )
    assert result.accuracy_drop == pytest.approx((lost - gained) / n)
    bound = result.accuracy_drop_upper_bound
    assert max(0, result.accuracy_drop) <= bound <= 1
    assert result.passed == (bound <= tolerance)
    # More confidence, or one more lost example, never tightens the bound.
    surer = certify.accuracy_drop_certificate(
        *correctness(n, lost, gained), tolerance, (1 + confidence) / 2
    )
    assert surer.accuracy_drop_upper_bound >= bound - 2e-4
    worse = certify.accuracy_drop_certificate(
        *correctness(n + 1, lost + 1, gained), tolerance, confidence
    )
    assert worse.accuracy_drop_upper_bound >= bound - 1e-3


def test_only_discordant_examples_matter():
    a = certify.accuracy_drop_certificate(*correctness(500, 9, 4, both=0), 0.05)
    b = certify.accuracy_drop_certificate(*correctness(500, 9, 4, both=400), 0.05)
    assert a == b
    assert (a.num_lost, a.num_gained, a.num_examples) == (9, 4, 500)


def test_pairing_beats_unpaired_intervals():
    # 4 % discordance at n=1000: unpaired, two proportions of about 0.9 have a margin
    # of 1.645 * sqrt(2 * 0.09 / 1000) = 2.2 points.
    result = certify.accuracy_drop_certificate(*correctness(1000, 20, 20, 880), 0.02)
    assert result.passed
    assert 0.0104 < result.accuracy_drop_upper_bound < 0.014


def test_identical_models():
    result = certify.accuracy_drop_certificate(*correctness(1000, 0, 0, 900), 0.01)
    # Without any discordance the bound cannot beat 1 - alpha^(1/n).
    assert 1 - 0.05 ** (1 / 1000) <= result.accuracy_drop_upper_bound < 0.0045
    assert result.passed


def test_much_better_model_has_a_bound_of_zero():
    result = certify.accuracy_drop_certificate(*correctness(500, 0, 60), 0.0)
    assert result.accuracy_drop_upper_bound == 0
    assert result.passed


def test_fixed_sequence_stops_at_the_first_failure():
    base, _ = correctness(1000, 0, 0, both=900)
    candidates = [np.arange(1000) < 900 - lost for lost in (0, 4, 200, 0)]
    outcome = certify.fixed_sequence(base, candidates, 0.02, 0.95)
    assert outcome.selected == 1
    assert [c.passed for c in outcome.certificates] == [True, True, False]
    assert [c.accuracy_drop_upper_bound for c in outcome.certificates[:2]] == [0.02] * 2
    assert certify.fixed_sequence(base, candidates[2:], 0.02).selected is None


def test_fixed_sequence_error_rate_over_many_candidates():
    """All candidates too bad: the chance that any passes stays below alpha."""
    rng = np.random.default_rng(1)
    n, tolerance, false_passes, runs = 400, 0.02, 0, 200
    for _ in range(runs):
        base = rng.random(n) < 0.9
        candidates = [
            np.where(rng.random(n) < 0.05, False, base)
            | (~base & (rng.random(n) < 0.2))
            for _ in range(4)
        ]
        # The true drop is 0.9 * 0.05 - 0.1 * 0.2 = 0.025.
        outcome = certify.fixed_sequence(base, candidates, tolerance, 0.9)
        false_passes += outcome.selected is not None
    assert false_passes / runs <= 0.1


@pytest.mark.parametrize("true_drop", [0.0, 0.01])
def test_power_is_a_close_lower_bound(true_drop):
    n, tolerance, discordance = 200, 0.05, 0.06
    p_lost, p_gained = (discordance + true_drop) / 2, (discordance - true_drop) / 2
    exact = sum(
        multinomial(n, lost, gained, p_lost, p_gained)
        for lost, gained in itertools.product(range(30), range(30))
        if certify._rejects(lost, gained, n, tolerance, 0.05)
    )
    ours = certify.power(n, tolerance, 0.95, discordance, true_drop)
    assert exact - 0.08 <= ours <= exact + 1e-9


@pytest.mark.parametrize("case", [(0.02, 0.95, 0.04), (0.05, 0.9, 0.1, 0.01)])
def test_examples_needed_reaches_the_power(case):
    needed = certify.examples_needed(*case)
    tolerance, confidence, discordance, *drop = case
    true_drop = drop[0] if drop else 0.0
    assert certify.power(needed, tolerance, confidence, discordance, true_drop) >= 0.8
    fewer = int(0.9 * needed)
    assert certify.power(fewer, tolerance, confidence, discordance, true_drop) < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3), np.ones(3), 0.1), "base_correct is float64"),
        ((np.ones((3, 1), bool), np.ones(3, bool), 0.1), "base_correct"),
        ((np.ones(3, bool), np.ones(4, bool), 0.1), "same examples"),
        ((np.ones(0, bool), np.ones(0, bool), 0.1), "at least one"),
        ((np.ones(3, bool), np.ones(3, bool), 2), r"tolerance=2 is not in \[0, 1\]"),
        ((np.ones(3, bool), np.ones(3, bool), 0.1, 1.0), "confidence=1.0"),
        ((np.ones(3, bool), np.ones(3, bool), 0.1, float("nan")), "confidence=nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        certify.accuracy_drop_certificate(*arguments)


def test_bad_power_arguments():
    with pytest.raises(ValueError, match="num_examples=0"):
        certify.power(0, 0.1, 0.95, 0.1)
    with pytest.raises(ValueError, match=r"discordance=0\.01 is not between"):
        certify.power(10, 0.1, 0.95, 0.01, true_drop=0.02)
    with pytest.raises(ValueError, match="no number of examples suffices"):
        certify.examples_needed(0.01, 0.95, 0.1, true_drop=0.01)
    with pytest.raises(ValueError, match="target_power=1"):
        certify.examples_needed(0.01, 0.95, 0.1, target_power=1)
    with pytest.raises(ValueError, match="nothing to test"):
        certify.fixed_sequence(np.ones(3, bool), [], 0.1)
