"""Splitting of L1 balls against exhaustive enumeration."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import integer
from jaxsnn.sat import intervals, proof, replay, split
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.folder import confirm
from jaxsnn.sat.check.manifest import Method
from jaxsnn.sat.check.split import check_split
from jaxsnn.sat.query import l1_query, window_ball
from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.verify import parts
from tests.jaxsnn import small_networks


@st.composite
def _l1_queries(draw):
    network = draw(small_networks.networks())
    (query, *_) = draw(small_networks.nested_queries(network))
    low, high = window_ball(query.spike_steps, network.num_steps, network.num_steps)
    # Unequal windows, too.
    low = np.minimum(query.spike_steps, low + draw(st.integers(0, 2)))
    budget = draw(st.integers(0, 4))
    query = dataclasses.replace(
        query, low=low, high=high, max_total_shift=budget, max_changed=None
    )
    return network, query


@settings(max_examples=60, deadline=None)
@given(_l1_queries())
def test_decisions_equal_enumeration(case):
    network, query = case
    found = split.decide(network, query, max_parts=10_000)
    if small_networks.is_robust(network, query):
        assert found.split is not None
        assert found.counterexample is None
    else:
        assert found.split is None
        assert replay.falsifies(network, query, found.counterexample)


@settings(max_examples=40, deadline=None)
@given(_l1_queries(), st.integers(1, 6))
def test_an_early_end_claims_nothing_wrong(case, max_parts):
    network, query = case
    found = split.decide(network, query, max_parts)
    assert found.num_parts <= max_parts
    if found.split is not None:
        assert small_networks.is_robust(network, query)
    if found.counterexample is not None:
        assert replay.falsifies(network, query, found.counterexample)


@settings(max_examples=40, deadline=None)
@given(_l1_queries(), st.data())
def test_a_move_made_and_not_made_cover_the_ball(case, data):
    _, query = case
    movable = [
        split.Move(i, direction)
        for i in range(len(query.low))
        for direction in (-1, 1)
        if query.low[i] <= query.spike_steps[i] + direction <= query.high[i]
    ]
    if not movable or not query.max_total_shift:
        return
    move = data.draw(st.sampled_from(movable))
    made, not_made = split.part(query, move), split.without(query, [move])
    for point in small_networks.admissible(query):
        assert made.admits(point) != not_made.admits(point)


def test_batches_find_the_same_splits():
    """The tree does not depend on how many balls are bounded at a time, or where."""
    rng = np.random.default_rng(5)
    proved = 0
    prover = None
    for number in range(40):
        network = small_networks.drawn(rng, (6, 5, 3), 7)
        steps = rng.integers(0, 5, 6)
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        query = l1_query(steps, label, 1 + number % 3, 7)
        alone = split.decide(network, query, 10_000)
        together = split.decide(network, query, 10_000, batch=16)
        assert together.split == alone.split
        assert (together.counterexample is None) == (alone.counterexample is None)
        if alone.split is None or not alone.split.moves:
            continue
        proved += 1
        if proved < 3:  # each compiles
            prover = parts.PartProver(network, 8, 3, rows=16)
            found = split.decide(network, query, 10_000, prover, 16)
            assert found.split == alone.split
            assert found.num_parts == together.num_parts
    assert proved > 3
    wide = IntegerNetwork((Dense(np.zeros((5, 9), int), np.zeros(5, int)),), 7)
    with pytest.raises(ValueError, match="width=8"):
        prover(wide, [query])


def _split_query():
    """A query that intervals leave open and a split proves, and the split."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        network = small_networks.drawn(rng, (4, 4, 3), 7)
        steps = rng.integers(0, 5, 4)
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        query = l1_query(steps, label, 2, 7)
        found = split.decide(network, query)
        if found.split is not None and found.split.moves:
            return network, query, found.split
    raise AssertionError("no such query among so many")


def test_the_checker_follows_a_split():
    network, query, tree = _split_query()
    assert not intervals.proves(network, query)
    assert check_split(network, query, split.to_json(tree)) > len(tree.moves)


def test_altered_splits_are_refused():
    network, query, tree = _split_query()
    text = split.to_json(tree)
    moves = json.loads(text)
    index, direction, below = moves[0]
    altered = [
        ("[]", "may spike"),
        (text[:-1], "no JSON"),
        (json.dumps({"moves": moves}), "list of moves"),
        (json.dumps([[index, direction]]), "no move"),
        (json.dumps([[99, direction, below]]), "no input"),
        (json.dumps([[True, direction, below]]), "no input"),
        (json.dumps([[index, 2, below]]), "no direction"),
        (json.dumps([[index, 1.0, below]]), "no direction"),
        # Deeper than the budget.
        (json.dumps([[index, 1, [[index, 1, [[index, 1, []]]]]]]), "cannot move"),
    ]
    for wrong, reason in altered:
        with pytest.raises(ProofError, match=reason):
            check_split(network, query, wrong)


def test_a_split_is_no_proof_of_a_wider_ball():
    network, query, tree = _split_query()
    for budget in range(3, 20):
        wider = l1_query(query.spike_steps, query.label, budget, 7)
        if not small_networks.is_robust(network, wider):
            with pytest.raises(ProofError):
                check_split(network, wider, split.to_json(tree))
            return
    raise AssertionError("every ball is robust")


def test_proofs_are_splits_where_intervals_do_not_decide(tmp_path):
    network, query, _ = _split_query()
    found = proof.prove(network, query, 10.0)
    assert found.method is Method.SPLIT
    file = tmp_path / "network.npz"
    integer.save(file, network)
    name = proof.write(tmp_path, "one", network, file, query, found, {})
    confirmed = confirm(tmp_path / name, integer.load)
    assert confirmed.num_steps > 1
