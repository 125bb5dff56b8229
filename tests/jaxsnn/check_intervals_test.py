"""The checker of interval certificates, and the question that it stands for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysat.solvers import Cadical195

from jaxsnn.sat import intervals, replay
from jaxsnn.sat.check import formula
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.intervals import Claim, check_decided, check_intervals
from jaxsnn.sat.query import Query, linf_query
from jaxsnn.sat.requirement import Tie
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork
from tests.jaxsnn import small_networks

ASKED = (small_networks.nested_queries, small_networks.questions)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_propagated_intervals_pass_and_tighter_ones_than_attained_do_not(data):
    network = data.draw(small_networks.networks(max_steps=5))
    strategy = data.draw(st.sampled_from(ASKED))
    query = data.draw(strategy(network))[-1]
    levels = intervals.propagate(network, query)
    claims = [Claim(*level) for level in levels[1:]]
    check_intervals(network, query, claims)
    points = small_networks.admissible(query)
    depth = data.draw(st.integers(0, len(claims) - 1))
    steps = np.array([replay.spike_steps(network, p)[depth + 1] for p in points])
    neuron = data.draw(st.integers(0, steps.shape[1] - 1))
    earliest, latest = steps[:, neuron].min(), steps[:, neuron].max()
    for low, high in ((earliest + 1, latest), (earliest, latest - 1)):
        claim = Claim(claims[depth].low.copy(), claims[depth].high.copy())
        claim.low[neuron], claim.high[neuron] = low, high
        with pytest.raises(ProofError, match=f"layer {depth}, neuron {neuron}"):
            check_intervals(
                network, query, [*claims[:depth], claim, *claims[depth + 1 :]]
            )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_decided_agrees_and_is_true(data):
    network = data.draw(small_networks.networks())
    for query in data.draw(data.draw(st.sampled_from(ASKED))(network)):
        outputs = [levels[-1] for levels in intervals.runs(network, query)]
        try:
            check_decided(query, [Claim(*each) for each in outputs])
            decided = True
        except ProofError:
            decided = False
        assert decided == intervals.decided(outputs, query)
        assert not decided or small_networks.is_robust(network, query)


def test_convolution_and_pooling_intervals_pass():
    rng = np.random.default_rng(3)
    conv = Conv2D(
        rng.integers(-2, 4, (2, 2, 1, 2)),
        rng.integers(0, 4, 2),
        input_shape=(4, 4, 1),
        padding=((0, 1), (0, 1)),
    )
    pool = EarliestPool2D(conv.output_shape)
    dense = Dense(rng.integers(-3, 4, (3, pool.num_outputs)), rng.integers(0, 6, 3))
    network = IntegerNetwork((conv, pool, dense), num_steps=8)
    query = linf_query(rng.integers(0, 8, 16), 0, 1, 8)
    claims = [Claim(*level) for level in intervals.propagate(network, query)[1:]]
    check_intervals(network, query, claims)
    with pytest.raises(ProofError, match="2 layers for 3"):
        check_intervals(network, query, claims[:2])
    narrow = Claim(claims[1].low[1:], claims[1].high[1:])
    with pytest.raises(ProofError, match="another number of neurons"):
        check_intervals(network, query, [claims[0], narrow, claims[2]])


def test_ties_by_hand():
    # The label is 1, and may spike as late as the others spike early.
    outputs = Claim(np.array([3, 2, 3]), np.array([5, 3, 5]))
    steps = np.array([0])

    def query(tie, target=None):
        return Query(steps, steps, steps, 1, tie=tie, target=target)

    check_decided(query(Tie.S4NN), [outputs])
    check_decided(query(Tie.ARGMIN, target=2), [outputs])
    for tie, target in ((Tie.ADVERSARIAL, 2), (Tie.ARGMIN, None), (Tie.ARGMIN, 0)):
        with pytest.raises(ProofError, match="may spike at step 3"):
            check_decided(query(tie, target), [outputs])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_question_is_unsatisfiable_exactly_if_robust(data):
    """Encoder and emitters, which proofs rest on, against enumeration."""
    network = data.draw(small_networks.networks(max_steps=5))
    query = data.draw(data.draw(st.sampled_from(ASKED))(network))[-1]
    problem = formula.question(network, query)
    with Cadical195(bootstrap_with=formula.clauses(problem)) as solver:
        assert solver.solve() != small_networks.is_robust(network, query)
