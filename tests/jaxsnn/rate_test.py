"""Rate-coded networks: the recurrence, bounds, and every backend by enumeration."""

import fractions
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.sat import backends, rate, rate_encode, rate_solve
from jaxsnn.sat.backends import Status
from jaxsnn.sat.query import Stage, Verdict
from jaxsnn.sat.rate import LIF, Leak, RateNetwork, RateQuery
from jaxsnn.sat.requirement import Tie


@st.composite
def networks(draw):
    widths = draw(st.sampled_from([(2, 3, 2), (3, 2, 2), (3, 3), (2, 2, 2, 2)]))
    leak = draw(st.sampled_from([Leak(1, 0), Leak(0, 0), Leak(1, 1), Leak(3, 2)]))
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        count = inputs * outputs
        weights = draw(st.lists(st.integers(-3, 4), min_size=count, max_size=count))
        thresholds = draw(
            st.lists(st.integers(1, 4), min_size=outputs, max_size=outputs)
        )
        layers.append(LIF(np.reshape(weights, (outputs, inputs)), np.array(thresholds)))
    return RateNetwork(tuple(layers), num_steps=draw(st.integers(1, 3)), leak=leak)


@st.composite
def nested_queries(draw, network):
    places = network.num_steps * network.num_inputs
    spikes = draw(st.lists(st.booleans(), min_size=places, max_size=places))
    spikes = np.reshape(spikes, (network.num_steps, network.num_inputs))
    label = rate.prediction(rate.spike_trains(network, spikes)[-1])
    tie = draw(st.sampled_from(list(Tie)))
    budgets = draw(st.sets(st.integers(0, 4), min_size=1, max_size=3))
    return [RateQuery(spikes, label, budget, tie) for budget in sorted(budgets)]


def admissible(query):
    shape = query.spikes.shape
    trains = itertools.product((False, True), repeat=query.spikes.size)
    points = (np.reshape(train, shape) for train in trains)
    return [point for point in points if query.admits(point)]


def is_robust(network, query):
    return not any(
        query.violated_by(rate.spike_trains(network, point)[-1])
        for point in admissible(query)
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_integers_are_the_definition_in_fractions(data):
    network = data.draw(networks())
    query = data.draw(nested_queries(network))[0]
    beta = fractions.Fraction(network.leak.numerator, 2**network.leak.bits)
    level = query.spikes.astype(int).tolist()
    for layer, found in zip(
        network.layers, rate.spike_trains(network, query.spikes)[1:], strict=True
    ):
        potentials = [fractions.Fraction(0)] * len(layer.weights)
        fired = [0] * len(layer.weights)
        rows = []
        for row in level:
            for n, weights in enumerate(layer.weights.tolist()):
                current = sum(w * x for w, x in zip(weights, row, strict=True))
                reset = int(layer.thresholds[n]) * fired[n]
                potentials[n] = beta * potentials[n] + current - reset
            fired = [
                int(u > int(theta))
                for u, theta in zip(potentials, layer.thresholds, strict=True)
            ]
            rows.append(fired)
        assert found.astype(int).tolist() == rows
        level = rows


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bounds_contain_every_admissible_run(data):
    network = data.draw(networks())
    for query in data.draw(nested_queries(network)):
        levels = rate_encode.propagate(network, query)
        runs = [rate.spike_trains(network, point)[1:] for point in admissible(query)]
        for depth, known in enumerate(levels):
            seen = np.array([run[depth] for run in runs])
            assert (known.must <= seen.all(axis=0)).all()
            assert (seen.any(axis=0) <= known.may).all()
            if depth == 0:  # the first step knows no reset: exact for each neuron
                np.testing.assert_array_equal(known.must[0], seen.all(axis=0)[0])
                np.testing.assert_array_equal(known.may[0], seen.any(axis=0)[0])
        if rate_encode.decided(levels, query):
            assert is_robust(network, query)


@pytest.mark.parametrize("backend", sorted(backends.BACKENDS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_backend_equals_enumeration_incrementally(backend, data):
    if backend not in backends.installed():
        pytest.skip(f"{backend} is not installed")
    network = data.draw(networks())
    queries = data.draw(nested_queries(network))
    encoding = rate_encode.encode(network, queries)
    session = backends.BACKENDS[backend](encoding.problem)
    for index in data.draw(st.permutations(range(len(queries)))):
        answer = session.solve(encoding.assumptions[index], seconds=10.0)
        expected = is_robust(network, queries[index])
        assert (answer.status is Status.UNSATISFIABLE) == expected
        if not expected:
            spikes = encoding.decode(answer.model)
            assert queries[index].admits(spikes)
            assert queries[index].violated_by(rate.spike_trains(network, spikes)[-1])
    session.close()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_input_is_judged_as_the_simulator_judges_it(data):
    # Neurons that spike several times, so that resets decide, and outputs that let
    # every spike of theirs be seen.
    weights = data.draw(st.lists(st.integers(-2, 6), min_size=6, max_size=6))
    thresholds = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=2))
    layers = (
        LIF(np.reshape(weights, (2, 3)), np.array(thresholds)),
        LIF(np.array([[2, 0], [0, 2]]), np.array([1, 1])),
    )
    leak = data.draw(st.sampled_from([Leak(1, 0), Leak(1, 1), Leak(3, 2)]))
    network = RateNetwork(layers, num_steps=4, leak=leak)
    spikes = data.draw(st.lists(st.booleans(), min_size=12, max_size=12))
    clean, label = np.reshape(spikes, (4, 3)), data.draw(st.integers(0, 1))
    tie = data.draw(st.sampled_from(list(Tie)))
    query = RateQuery(clean, label, data.draw(st.integers(1, 2)), tie)
    encoding = rate_encode.encode(network, [query])
    session = backends.PysatSession(encoding.problem)
    for point in admissible(query):
        # Flips that cannot matter have no literal.
        flips = [
            lit if point[place] != clean[place] else -lit
            for place, lit in encoding.flips.items()
        ]
        answer = session.solve([*encoding.assumptions[0], *flips], seconds=10.0)
        broken = query.violated_by(rate.spike_trains(network, point)[-1])
        assert (answer.status is Status.SATISFIABLE) == broken
    session.close()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_verdicts_equal_enumeration(data):
    network = data.draw(networks())
    queries = data.draw(nested_queries(network))
    results = list(rate_solve.solve_each(network, queries, 10.0, ("clingo", "pysat")))
    for query, result in zip(queries, results, strict=True):
        robust = is_robust(network, query)
        assert result.verdict is (Verdict.ROBUST if robust else Verdict.FALSIFIED)
        if not robust:
            assert query.admits(result.counterexample)


def test_a_network_by_hand():
    # One input, weight 2, threshold 2, half of the potential is left: 2, 3 -> spike,
    # 3/2 + 2 - 2 = 3/2, 3/4 + 2 = 11/4 -> spike.
    layer = LIF(np.array([[2], [1]]), np.array([2, 9]))
    network = RateNetwork((layer,), num_steps=4, leak=Leak(1, 1))
    spikes = np.ones((4, 1), bool)
    scaled = rate.potentials(network, layer, spikes)[:, 0]
    assert (scaled / 2.0 ** np.arange(4)).tolist() == [2.0, 3.0, 1.5, 2.75]
    outputs = rate.spike_trains(network, spikes)[-1]
    assert outputs[:, 0].astype(int).tolist() == [0, 1, 0, 1]
    assert rate.prediction(outputs) == 0
    # Class 1 never spikes, so class 0 is ahead while it spikes at all. Any two input
    # spikes make it spike (2, 1, 1/2, 9/4 at the farthest); one does not.
    queries = [RateQuery(spikes, 0, budget) for budget in range(4)]
    results = list(rate_solve.solve_each(network, queries, 5.0))
    expected = [is_robust(network, query) for query in queries]
    assert [r.verdict is Verdict.ROBUST for r in results] == expected
    assert results[0].stage is Stage.BOUNDS
    assert expected == [True, True, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LIF(np.ones((2, 2)), np.ones(2, int)), "hold integers"),
        (lambda: LIF(np.ones((2, 2), int), np.ones(3, int)), r"\[N, D\] and \[N\]"),
        (lambda: LIF(np.ones((1, 1), int), np.zeros(1, int)), "must be positive"),
        (lambda: network_of(leak=Leak(5, 2)), "fraction in"),
        (lambda: network_of(leak=Leak(63, 6)), "layer 0, neuron 0.* 2\\^31"),
        (
            lambda: rate.spike_trains(network_of(), np.ones((8, 2), bool)),
            r"takes booleans \(8, 1\)",
        ),
        (lambda: RateQuery(np.ones((8, 1), bool), 0, -1), "max_flips=-1"),
        (lambda: RateQuery(np.ones((8, 1)), 0, 1), "booleans"),
        (lambda: rate_encode.encode(network_of(), []), "at least one"),
        (
            lambda: rate_encode.encode(
                network_of(),
                [RateQuery(np.ones((8, 1), bool), 0, b) for b in (2, 1)],
            ),
            "must not shrink",
        ),
        (
            lambda: list(rate_solve.solve_each(network_of(), [], 1.0, ("magic",))),
            "'magic'",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def network_of(leak=Leak(1, 1)):  # noqa: B008
    return RateNetwork((LIF(np.ones((1, 1), int), np.ones(1, int)),), 8, leak)
