import itertools
import math

import pytest

from jaxsnn import search_space


@pytest.mark.parametrize("num_inputs", [1, 2, 3])
@pytest.mark.parametrize("budget", range(5))
def test_unbounded_ball_equals_enumeration(num_inputs, budget):
    shifts = range(-budget, budget + 1)
    expected = sum(
        sum(map(abs, moves)) <= budget
        for moves in itertools.product(shifts, repeat=num_inputs)
    )
    assert search_space.temporal_l1(num_inputs, budget) == expected


@pytest.mark.parametrize("steps", [(0, 0, 0), (0, 2, 4), (3, 1, 4)])
@pytest.mark.parametrize("size", range(7))
def test_balls_in_bounded_time_equal_enumeration(steps, size):
    inside = [
        [abs(a - b) for a, b in zip(times, steps, strict=True)]
        for times in itertools.product(range(5), repeat=3)
    ]
    within = search_space.temporal_l1_within(steps, 5, size)
    assert within == sum(sum(moves) <= size for moves in inside)
    box = search_space.temporal_linf_within(steps, 5, size)
    assert box == sum(max(moves) <= size for moves in inside)


@pytest.mark.parametrize("budget", range(7))
def test_spike_trains_equal_enumeration(budget):
    trains = itertools.product((0, 1), repeat=6)
    expected = sum(sum(train) <= budget for train in trains)
    assert search_space.rate_hamming(2, 3, budget) == expected


def test_the_papers_example_and_how_far_its_estimate_overcounts():
    assert search_space.temporal_l1(784, 2) == 1_230_881
    assert search_space.temporal_l1(784, 3) == 643_751_809
    assert math.exp(search_space.log_temporal_estimate(784, 2)) == pytest.approx(
        1.66e7, rel=0.01
    )
    assert math.exp(search_space.log_temporal_estimate(784, 3)) == pytest.approx(
        3.2e10, rel=0.02
    )


def test_the_papers_estimate_overcounts_small_budgets_only():
    for budget in (1, 2, 3, 10):
        exact = math.log(search_space.temporal_l1(784, budget))
        assert exact < search_space.log_temporal_estimate(784, budget)
    exact = math.log(search_space.temporal_l1(1, 2))
    assert exact > search_space.log_temporal_estimate(1, 2)


@pytest.mark.parametrize("fraction", [0.01, 0.1])
def test_crossing_is_where_the_exact_sizes_cross(fraction):
    found = search_space.crossing(30, fraction, most_steps=12)

    def rate_is_larger(num_steps):
        budget = math.ceil(fraction * 30 * num_steps)
        rate = search_space.rate_hamming(30, num_steps, budget)
        return rate > search_space.temporal_l1(30, budget)

    assert all(rate_is_larger(t) for t in range(found, 13))
    assert found == 2 or not rate_is_larger(found - 1)


def lattice_points(num_inputs, budget):
    """The L1 ball by a recurrence: a point, or one nearer along the last axis."""
    row = [1] * (budget + 1)
    for _ in range(num_inputs):
        new = [1]
        for size in range(1, budget + 1):
            new.append(row[size] + row[size - 1] + new[size - 1])
        row = new
    return row[budget]


@pytest.mark.parametrize(
    ("fraction", "exact", "estimate"),
    [(0.001, 3, 8), (0.05, 3, 6), (0.2, 3, 4), (0.5, 4, 3), (1.0, 5, 3)],
)
def test_crossings_of_exact_counts_and_of_estimates(fraction, exact, estimate):
    assert search_space.crossing(100, fraction, most_steps=12) == exact
    assert search_space.crossing_estimate(fraction) == estimate

    def rate_is_larger(num_steps):
        budget = math.ceil(fraction * 100 * num_steps)
        places = 100 * num_steps
        rate = sum(math.comb(places, k) for k in range(budget + 1))
        return rate > lattice_points(100, budget)

    assert rate_is_larger(exact)
    assert not rate_is_larger(exact - 1)

    def estimated(num_steps):
        budget = fraction * 10**4 * num_steps
        return search_space.log_rate_estimate(
            10**4, num_steps, int(budget)
        ) > search_space.log_temporal_estimate(10**4, int(budget))

    assert estimated(estimate)
    assert not estimated(estimate - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: search_space.temporal_l1(3, -1), "budget=-1"),
        (lambda: search_space.temporal_l1_within([5], 5, 1), "0 .. 4"),
        (lambda: search_space.temporal_linf_within([0], 5, -1), "radius=-1"),
        (lambda: search_space.rate_hamming(-1, 5, 1), "num_inputs=-1"),
        (lambda: search_space.log_temporal_estimate(0, 1), "num_inputs=0 must be at"),
        (lambda: search_space.log_rate_estimate(3, 0, 1), "num_steps=0 must be at"),
        (lambda: search_space.crossing(3, 0.0), "fraction=0.0"),
        (lambda: search_space.crossing_estimate(1.5), "fraction=1.5"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
