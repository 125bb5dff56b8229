"""Failing inputs, and requirements beyond robustness, against enumeration."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.sat import backends, intervals, replay
from jaxsnn.sat.backends import Status
from jaxsnn.sat.check import intervals as check_intervals_module
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.intervals import Claim, check_decided, check_intervals
from jaxsnn.sat.encode import encode
from jaxsnn.sat.query import Query, Verdict, window_ball
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Robust, Tie
from jaxsnn.sat.solve import solve
from jaxsnn.sat.spec import Dense, IntegerNetwork
from tests.jaxsnn import small_networks


def admits_by_definition(query, point):
    """Whether some choice of failed inputs explains the point."""
    inputs = range(len(point))
    silent = query.silent_step
    for failed in itertools.chain.from_iterable(
        itertools.combinations(inputs, size) for size in range(len(point) + 1)
    ):
        lost = [i for i in failed if query.spike_steps[i] != silent]
        come = [i for i in failed if query.spike_steps[i] == silent]
        held = [i for i in inputs if i not in failed]
        shift = [abs(point[i] - query.spike_steps[i]) for i in held]
        if (
            len(lost) <= query.max_dropped
            and all(point[i] == silent for i in lost)
            and len(come) <= query.max_inserted
            and all(query.low[i] <= point[i] <= query.high[i] for i in held)
            and sum(shift)
            <= (query.max_total_shift or 0) + (query.max_total_shift is None) * 1000
            and sum(s > 0 for s in shift)
            <= (query.max_changed or 0) + (query.max_changed is None) * 1000
        ):
            return True
    return False


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_admits_what_some_choice_of_failures_explains(data):
    network = data.draw(small_networks.networks(max_steps=4))
    for query in data.draw(small_networks.questions(network, "failures"))[-1:]:
        everything = itertools.product(
            range(network.num_steps), repeat=network.num_inputs
        )
        for point in map(np.array, everything):
            assert query.admits(point) == admits_by_definition(query, point)


@pytest.mark.parametrize("what", ["failures", "requirement", "both"])
@pytest.mark.parametrize("backend", sorted(backends.BACKENDS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_backend_equals_enumeration(backend, what, data):
    if backend not in backends.installed():
        pytest.skip(f"{backend} is not installed")
    network = data.draw(small_networks.networks(max_steps=5))
    queries = data.draw(small_networks.questions(network, what))
    encoding = encode(network, queries)
    session = backends.BACKENDS[backend](encoding.problem)
    for index in data.draw(st.permutations(range(len(queries)))):
        answer = session.solve(encoding.assumptions[index], seconds=10.0)
        expected = small_networks.is_robust(network, queries[index])
        assert (answer.status is Status.UNSATISFIABLE) == expected
        if not expected:
            found = encoding.decode(index, answer.model)
            assert replay.falsifies(network, queries[index], found)
    session.close()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_intervals_hold_and_prove_only_what_is_true(data):
    network = data.draw(small_networks.networks(max_steps=5))
    what = data.draw(st.sampled_from(["failures", "requirement", "both"]))
    for query in data.draw(small_networks.questions(network, what)):
        levels = intervals.propagate(network, query)
        runs = [
            replay.spike_steps(network, point)
            for point in small_networks.admissible(query)
        ]
        for depth, interval in enumerate(levels):
            steps = np.array([run[depth] for run in runs])
            assert (interval.low <= steps.min(axis=0)).all()
            assert (steps.max(axis=0) <= interval.high).all()
        if intervals.proves(network, query):
            assert small_networks.is_robust(network, query)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_delayed_synapses_equal_enumeration_and_are_certified(data):
    network = data.draw(small_networks.delayed_networks())
    query = data.draw(small_networks.questions(network))[-1]
    expected = small_networks.is_robust(network, query)
    (result,) = solve(network, [query], seconds=10.0)
    assert (result.verdict is Verdict.ROBUST) == expected
    for levels, each in zip(
        intervals.runs(network, query), _networks(network, query), strict=True
    ):
        check_intervals(each, query, [Claim(*level) for level in levels[1:]])
    assert expected or not intervals.proves(network, query)


def _networks(network, query):
    if isinstance(query.requires, Alike):
        return network, query.requires.other
    return (network,)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_potentials_of_failing_inputs_are_attained(data):
    network = data.draw(small_networks.networks(max_steps=5))
    (query, *_) = data.draw(small_networks.questions(network, "failures"))
    query = dataclasses.replace(query, max_total_shift=None, max_changed=None)
    layer, num_steps = network.layers[0], network.num_steps
    lowest, highest = intervals.input_potentials(layer, query, num_steps)
    points = small_networks.admissible(query)
    seen = np.array([replay.potentials(layer, p, num_steps) for p in points])
    told = slice(0, num_steps - 1 - layer.delay)  # later crossings tell nothing
    np.testing.assert_array_equal(lowest[:, told], seen.min(axis=0)[:, told])
    np.testing.assert_array_equal(highest[:, told], seen.max(axis=0)[:, told])


def test_a_lost_spike_jumps_over_the_steps_between():
    # The output needs input 0 before step 4; a loss can only silence it altogether.
    network = IntegerNetwork((Dense(np.array([[1, 0], [0, 1]]), np.array([0, 0])),), 8)
    steps = np.array([1, 5])
    query = Query(steps, steps, steps, 0, max_dropped=1, silent_step=7)
    assert query.admits(np.array([7, 5]))
    assert query.admits(np.array([1, 7]))
    assert not query.admits(np.array([4, 5]))
    assert not query.admits(np.array([7, 7]))
    assert replay.falsifies(network, query, np.array([7, 5]))


@pytest.mark.parametrize("budget", [None, "max_total_shift", "max_changed"])
@pytest.mark.parametrize("requires", [Robust(), Latency(3), Monotone(0, 0)])
def test_failures_within_windows_and_budgets_equal_enumeration(requires, budget):
    """Many more networks than hypothesis has the time for, few values of each."""
    rng = np.random.default_rng(5)
    seen = []
    for _ in range(40):
        network = IntegerNetwork(
            (
                Dense(rng.integers(-2, 4, (3, 3)), rng.integers(0, 3, 3)),
                Dense(rng.integers(-2, 4, (2, 3)), rng.integers(0, 2, 2)),
            ),
            num_steps=5,
        )
        steps = rng.choice([0, 1, 2, 4, 4], 3)
        low, high = window_ball(steps, int(rng.integers(0, 3)), 5)
        query = Query(
            steps,
            low,
            high,
            replay.prediction(replay.spike_steps(network, steps)[-1]),
            tie=Tie.S4NN,
            max_dropped=int(rng.integers(0, 3)),
            max_inserted=int(rng.integers(0, 3)),
            silent_step=4,
            requires=requires,
            **({budget: int(rng.integers(0, 3))} if budget else {}),
        )
        expected = small_networks.is_robust(network, query)
        (result,) = solve(network, [query], seconds=10.0)
        assert (result.verdict is Verdict.ROBUST) == expected
        levels = intervals.propagate(network, query)
        check_intervals(network, query, [Claim(*level) for level in levels[1:]])
        assert expected or not intervals.decided(levels[-1:], query)
        seen.append(expected)
    assert 0 < sum(seen) < 40


@pytest.mark.parametrize("tie", list(Tie))
def test_ties_between_networks_equal_enumeration(tie):
    """Few inputs, steps and values of weights: outputs tie nearly always."""
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(40):
        network, other = (
            IntegerNetwork(
                (Dense(rng.integers(0, 3, (3, 2)), rng.integers(0, 3, 3)),), 5
            )
            for _ in range(2)
        )
        steps = rng.integers(0, 5, 2)
        for radius in (0, 1):
            low, high = window_ball(steps, radius, 5)
            query = Query(steps, low, high, 0, tie=tie, requires=Alike(other))
            expected = small_networks.is_robust(network, query)
            (result,) = solve(network, [query], seconds=10.0)
            assert (result.verdict is Verdict.ROBUST) == expected
            outputs = [levels[-1] for levels in intervals.runs(network, query)]
            proved = intervals.decided(outputs, query)
            assert expected or not proved
            if radius == 0 and tie is not Tie.ADVERSARIAL:  # nothing is uncertain
                assert proved == expected
            assert proved == _checks(query, outputs)
            seen.add((expected, proved))
    assert len(seen) == 3


def _checks(query, outputs):
    try:
        check_decided(query, [Claim(*each) for each in outputs])
    except ProofError:
        return False
    return True


def test_wrong_questions_are_refused():
    steps = np.array([1, 5])
    with pytest.raises(ValueError, match="silent_step"):
        Query(steps, steps, steps, 0, max_dropped=1)
    with pytest.raises(ValueError, match="after silent_step"):
        Query(steps, steps, steps, 0, silent_step=4)
    with pytest.raises(ValueError, match="max_inserted=-1"):
        Query(steps, steps, steps, 0, max_inserted=-1, silent_step=7)
    with pytest.raises(ValueError, match="only robustness"):
        Query(steps, steps, steps, 0, target=1, requires=Latency(3))
    with pytest.raises(ValueError, match="-1"):
        Latency(-1)
    with pytest.raises(ValueError, match="indices"):
        Monotone(-1, 0)
    network = IntegerNetwork((Dense(np.ones((2, 2), int), np.zeros(2, int)),), 8)
    longer = IntegerNetwork(network.layers, 9)
    with pytest.raises(ValueError, match="num_steps"):
        encode(network, [Query(steps, steps, steps, 0, requires=Alike(longer))])


@settings(max_examples=30, deadline=None)
@given(data=st.data(), large=st.integers(1, 3))
def test_large_budgets_are_relaxed_soundly_and_alike(data, large):
    network = data.draw(small_networks.networks(max_steps=5))
    query = data.draw(small_networks.nested_queries(network))[-1]
    levels = _with_large_budgets_from(large, network, query)
    for point in small_networks.admissible(query):
        for level, steps in zip(
            levels, replay.spike_steps(network, point), strict=True
        ):
            assert (level.low <= steps).all()
            assert (steps <= level.high).all()


def test_a_move_beyond_a_large_budget_is_not_made_in_part():
    # The first input reaches step 1 within the budget, and not step 0.
    network = IntegerNetwork((Dense(np.array([[9, 1]]), np.array([5])),), 5)
    steps = np.array([3, 2])
    query = Query(steps, steps * 0, steps * 0 + 4, 0, max_total_shift=2)
    _, output = _with_large_budgets_from(1, network, query)
    assert output.low == 2  # a step after the potential crosses


def _with_large_budgets_from(large, network, query):
    """Intervals, checked, where budgets above `large` are relaxed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "MAX_EXACT_BUDGET", large)
        patch.setattr(check_intervals_module, "LARGE_BUDGET", large)
        levels = intervals.propagate(network, query)
        check_intervals(network, query, [Claim(*level) for level in levels[1:]])
    return levels


def test_a_budget_beyond_everything_is_no_limit():
    rng = np.random.default_rng(1)
    network = IntegerNetwork((Dense(rng.integers(-3, 5, (3, 5)), np.ones(3, int)),), 9)
    steps = rng.integers(0, 9, 5)
    free = Query(steps, steps * 0, steps * 0 + 8, 0)
    for change in ({"max_total_shift": 10**12}, {"max_changed": 10**12}):
        limited = dataclasses.replace(free, **change)
        for level, same in zip(
            intervals.propagate(network, limited),
            intervals.propagate(network, free),
            strict=True,
        ):
            np.testing.assert_array_equal(level, same)
        (result,) = solve(network, [limited], seconds=10.0)
        (expected,) = solve(network, [free], seconds=10.0)
        assert result.verdict is expected.verdict
