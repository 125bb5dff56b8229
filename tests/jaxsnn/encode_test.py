"""Encodings, intervals and every backend against exhaustive enumeration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.sat import backends, intervals, replay
from jaxsnn.sat.backends import Status
from jaxsnn.sat.encode import encode
from jaxsnn.sat.pseudo_boolean import Problem
from jaxsnn.sat.query import Query, l1_query, linf_query
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork
from tests.jaxsnn import small_networks


@pytest.mark.parametrize("backend", sorted(backends.BACKENDS))
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_backend_equals_enumeration_incrementally(backend, data):
    if backend not in backends.installed():
        pytest.skip(f"{backend} is not installed")
    network = data.draw(small_networks.networks())
    queries = data.draw(small_networks.nested_queries(network))
    encoding = encode(network, queries)
    session = backends.BACKENDS[backend](encoding.problem)
    # Any order of calls on one solver must give the same answers.
    order = data.draw(st.permutations(range(len(queries))))
    for index in order:
        answer = session.solve(encoding.assumptions[index], seconds=10.0)
        expected = small_networks.is_robust(network, queries[index])
        assert (answer.status is Status.UNSATISFIABLE) == expected
        if not expected:
            assert answer.status is Status.SATISFIABLE
            steps = encoding.decode(index, answer.model)
            assert queries[index].admits(steps)
            outputs = replay.spike_steps(network, steps)[-1]
            assert queries[index].violated_by(outputs)
    session.close()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_intervals_contain_every_admissible_run(data):
    network = data.draw(small_networks.networks())
    for query in data.draw(small_networks.nested_queries(network)):
        levels = intervals.propagate(network, query)
        points = small_networks.admissible(query)
        runs = [replay.spike_steps(network, point) for point in points]
        for depth, interval in enumerate(levels):
            steps = np.array([run[depth] for run in runs])
            assert (interval.low <= steps.min(axis=0)).all()
            assert (steps.max(axis=0) <= interval.high).all()
        if intervals.decided([levels[-1]], query):
            assert small_networks.is_robust(network, query)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bounds_of_input_potentials_are_attained(data):
    network = data.draw(small_networks.networks())
    layer, num_steps = network.layers[0], network.num_steps
    query = data.draw(small_networks.nested_queries(network))[-1]
    lowest, highest = intervals.input_potentials(layer, query, num_steps)
    seen = np.array(
        [
            replay.potentials(layer, point, num_steps)
            for point in small_networks.admissible(query)
        ]
    )
    assert (lowest <= seen.min(axis=0)).all()
    assert (seen.max(axis=0) <= highest).all()
    # Two budgets at once are relaxed one at a time.
    if query.max_changed is None or query.max_total_shift is None:
        told = slice(0, num_steps - 1 - layer.delay)  # later crossings tell nothing
        np.testing.assert_array_equal(lowest[:, told], seen.min(axis=0)[:, told])
        np.testing.assert_array_equal(highest[:, told], seen.max(axis=0)[:, told])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), radius=st.integers(1, 2))
def test_convolution_and_pooling_equal_enumeration(seed, radius):
    rng = np.random.default_rng(seed)
    conv = Conv2D(
        rng.integers(-2, 4, (2, 2, 1, 2)),
        rng.integers(0, 4, 2),
        input_shape=(3, 2, 1),
        padding=((0, 1), (0, 1)),
    )
    pool = EarliestPool2D(conv.output_shape, window=(2, 1), strides=(1, 1))
    dense = Dense(rng.integers(-3, 4, (3, pool.num_outputs)), rng.integers(0, 6, 3))
    network = IntegerNetwork((conv, pool, dense), num_steps=5)
    steps = rng.integers(0, 5, 6)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    query = linf_query(steps, label, radius, 5)
    encoding = encode(network, [query])
    session = backends.PysatSession(encoding.problem)
    answer = session.solve(encoding.assumptions[0], seconds=10.0)
    expected = small_networks.is_robust(network, query)
    assert (answer.status is Status.UNSATISFIABLE) == expected


def test_a_latch_by_hand():
    # The potential peaks at step 1 (2 > 1) and falls back at step 2: the neuron
    # must still fire at 2, so the output order stands.
    hidden = Dense(np.array([[2, -2]]), np.array([1]))
    outputs = Dense(np.array([[1], [0]]), np.array([0, 0]))
    network = IntegerNetwork((hidden, outputs), num_steps=6)
    steps = np.array([1, 2])
    assert [s.tolist() for s in replay.spike_steps(network, steps)] == [
        [1, 2],
        [2],
        [3, 5],
    ]
    still = encode(network, [linf_query(steps, 0, 0, 6)])
    moved = encode(network, [linf_query(steps, 0, 1, 6)])
    for encoding, expected in (
        (still, Status.UNSATISFIABLE),
        (moved, Status.SATISFIABLE),  # both at one step: never above the threshold
    ):
        session = backends.PysatSession(encoding.problem)
        assert session.solve(encoding.assumptions[0], 5.0).status is expected


def test_queries_must_be_nested():
    network = IntegerNetwork((Dense(np.ones((2, 2), int), np.zeros(2, int)),), 5)
    steps = np.array([2, 2])
    with pytest.raises(ValueError, match="admit the last"):
        encode(network, [linf_query(steps, 0, 2, 5), linf_query(steps, 0, 1, 5)])
    with pytest.raises(ValueError, match="admit the last"):
        encode(network, [linf_query(steps, 0, 1, 5), l1_query(steps, 0, 1, 5)])
    with pytest.raises(ValueError, match="at least one"):
        encode(network, [])


def test_a_deep_latch_does_not_recurse():
    network = IntegerNetwork(
        (
            Dense(np.array([[1, -1], [1, 1]]), np.array([0, 1])),
            Dense(np.array([[1, -1], [-1, 1]]), np.array([0, 0])),
        ),
        num_steps=2000,
    )
    query = Query(np.array([5, 9]), np.zeros(2, int), np.full(2, 1999), 0)
    assert encode(network, [query]).problem.num_variables > 2000


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    kind=st.sampled_from([l1_query, linf_query]),
    ternary=st.booleans(),
)
def test_backends_agree_where_nobody_can_enumerate(seed, kind, ternary):
    rng = np.random.default_rng(seed)

    def weights(*shape):
        if ternary:
            return 30 * rng.integers(-1, 2, shape)
        return rng.integers(-40, 60, shape)

    network = IntegerNetwork(
        (
            Dense(weights(12, 20), rng.integers(20, 200, 12)),
            Dense(weights(4, 12), rng.integers(20, 200, 4)),
        ),
        num_steps=10,
    )
    steps = rng.integers(0, 10, 20)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    queries = [kind(steps, label, radius, 10) for radius in (1, 2)]
    encoding = encode(network, queries)
    for assumptions in encoding.assumptions:
        found = {
            name: backends.BACKENDS[name](encoding.problem).solve(assumptions, 60.0)
            for name in backends.installed()
        }
        assert len({answer.status for answer in found.values()}) == 1, found.keys()


def test_solvers_that_ignore_assumptions_are_refused():
    with pytest.raises(ValueError, match="kissat"):
        backends.PysatSession(Problem(), "kissat404")
