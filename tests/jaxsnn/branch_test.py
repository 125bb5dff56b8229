"""Branching over windows against exhaustive enumeration, and its checker."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxsnn import integer
from jaxsnn.sat import branch, intervals, linear_bounds, proof, replay
from jaxsnn.sat.check.branch import check_branches
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.folder import confirm
from jaxsnn.sat.check.intervals import Claim
from jaxsnn.sat.check.manifest import Method
from jaxsnn.sat.query import Query, Tie, Verdict, linf_query, window_ball
from jaxsnn.sat.solve import BRANCH, solve, solve_each
from tests.jaxsnn import small_networks


def _network(seed, sizes=(5, 6, 3), num_steps=6):
    rng = np.random.default_rng(seed)
    return small_networks.drawn(rng, sizes, num_steps, (-4, 6), (0, 6))


@st.composite
def _questions(draw):
    """Unequal windows, all readings of ties, targets."""
    network = _network(draw(st.integers(0, 2**20)), num_steps=draw(st.integers(3, 7)))
    steps = np.array(draw(st.lists(st.integers(0, 2), min_size=5, max_size=5)))
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    low, high = window_ball(steps, draw(st.integers(1, 2)), network.num_steps)
    high = np.maximum(steps, high - draw(st.integers(0, 1)) * (np.arange(5) % 2))
    others = [None, *(o for o in range(3) if o != label)]
    return network, Query(
        steps,
        low,
        high,
        label,
        tie=draw(st.sampled_from(list(Tie))),
        target=draw(st.sampled_from(others)),
    )


def _claims(network, query):
    return [Claim(*level) for level in intervals.propagate(network, query)[1:]]


@settings(max_examples=150, deadline=None)
@given(_questions())
def test_what_is_found_equals_enumeration(case):
    network, query = case
    branching = branch.Branching(network, query)
    branching.run(seconds=60.0)
    assert branching.ended
    points = small_networks.admissible(query)
    outputs = np.array([replay.spike_steps(network, point)[-1] for point in points])
    assert (branching.earliest <= outputs.min(axis=0)).all()
    if branching.proved:
        assert small_networks.is_robust(network, query)
        trees = branch.to_json(branching.trees)
        check_branches(network, query, _claims(network, query), trees)
    if branching.counterexample is not None:
        assert replay.falsifies(network, query, branching.counterexample)


@settings(max_examples=60, deadline=None)
@given(_questions())
def test_together_with_a_solver_every_query_is_decided(case):
    network, query = case
    (result,) = solve(network, [query], 60.0, (BRANCH, "clingo"))
    robust = small_networks.is_robust(network, query)
    assert result.verdict is (Verdict.ROBUST if robust else Verdict.FALSIFIED)


@settings(max_examples=60, deadline=None)
@given(_questions(), st.integers(0, 2**20), st.data())
def test_bounds_and_lines_hold_in_every_box(case, seed, data):
    network, query = case
    hidden = intervals.propagate(network, query)[1]
    spike = data.draw(st.integers(2, network.num_steps - 1))
    output = linear_bounds.Output(network, query, hidden, 1, spike)
    assume(len(output.inputs))
    rng = np.random.default_rng(seed)
    low, high = output.low[None].repeat(8, 0), output.high[None].repeat(8, 0)
    low = rng.integers(low, high + 1)
    high = rng.integers(low, high + 1)
    bounds = output.bound(low, high)
    for box in range(len(low)):
        windows = zip(low[box], high[box], strict=True)
        points = np.array(
            list(itertools.product(*(range(a, b + 1) for a, b in windows)))
        )
        values = output.values(points)
        assert values.max() <= bounds.upper[box] + 1e-6
        assert (low[box] <= bounds.best[box]).all()
        assert (bounds.best[box] <= high[box]).all()
        if (low[box] == high[box]).all():
            assert values.max() == pytest.approx(bounds.upper[box])
    exact = [replay.spike_steps(network, p) for p in small_networks.admissible(query)]
    crosses = [
        (network.layers[1].weights[1] * (levels[1] <= spike - 1)).sum()
        for levels in exact
    ]
    root = output.bound(output.low[None], output.high[None])
    assert max(crosses) <= root.upper[0] + 1e-6


def test_it_goes_on_where_it_stopped():
    network, query = _branched()
    whole, parts = (branch.Branching(network, query) for _ in range(2))
    whole.run(60.0)
    for _ in range(10_000):
        parts.run(1e-9)
        parts.run(1e-3)
    assert parts.ended
    assert parts.proved
    assert parts.earliest.tolist() == whole.earliest.tolist()
    claims = _claims(network, query)
    for each in (whole, parts):
        assert check_branches(network, query, claims, branch.to_json(each.trees)) > 3


def _branched():
    """A query that intervals leave open and that takes several splits."""
    for seed in range(1000):
        network = _network(seed, (8, 12, 3), 7)
        steps = np.random.default_rng(seed).integers(0, 3, 8)
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        query = linf_query(steps, label, 1, 7)
        branching = branch.Branching(network, query)
        branching.run(10.0)
        if branching.proved and max(len(t.splits) for t in branching.trees) > 3:
            return network, query
    raise AssertionError("no such query among so many")


def test_altered_trees_are_refused():
    network, query = _branched()
    branching = branch.Branching(network, query)
    branching.run(60.0)
    claims = _claims(network, query)
    text = branch.to_json(branching.trees)
    trees = json.loads(text)
    assert check_branches(network, query, claims, text)
    first = max(range(len(trees)), key=lambda k: len(trees[k][2]))
    output, spike, splits = trees[first]

    def with_tree(tree):
        return json.dumps([*trees[:first], tree, *trees[first + 1 :]])

    def with_split(split):
        return with_tree([output, spike, [split, *splits[1:]]])

    node, index, at = splits[0]
    for wrong, reason in [
        ("[]", "may spike"),
        (text[:-1], "no JSON"),
        (json.dumps(trees[:-1]), "may spike"),
        (json.dumps({"trees": trees}), "no tree"),
        (with_tree([output, spike, []]), "above the threshold"),
        (with_tree([output, spike, splits[:1]]), "above the threshold"),
        (with_tree([output, spike + 1, splits]), "earliest"),
        (with_tree([99, spike, splits]), "no output"),
        (with_tree([True, spike, splits]), "no output"),
        (with_split([node + 1, index, at]), "cannot be split"),
        (with_split([node, 99, at]), "too late"),
        (with_split([node, index, at + 99]), "cannot be split at"),
        (with_split([node, index, float(at)]), "no split"),
        (with_tree([output, spike, [*splits, splits[0]]]), "cannot be split"),
    ]:
        with pytest.raises(ProofError, match=reason):
            check_branches(network, query, claims, wrong)


def test_a_proof_is_none_of_a_query_that_can_be_broken():
    network, query = _branched()
    branching = branch.Branching(network, query)
    branching.run(60.0)
    text = branch.to_json(branching.trees)
    for radius in range(2, 7):
        wider = linf_query(query.spike_steps, query.label, radius, 7)
        if not small_networks_falsified(network, wider):
            continue
        with pytest.raises(ProofError):
            check_branches(network, wider, _claims(network, wider), text)
        return
    raise AssertionError("every ball is robust")


def small_networks_falsified(network, query):
    (result,) = solve_each(network, [query], 30.0, ("clingo",))
    return result.verdict is Verdict.FALSIFIED


def test_lines_that_are_too_low_are_refused(monkeypatch):
    network, query = _branched()
    branching = branch.Branching(network, query)
    branching.run(60.0)
    honest = linear_bounds.Output.lines

    def lower(self, low, high):
        lines = honest(self, low, high)
        return lines._replace(constants=lines.constants - 1e-3)

    monkeypatch.setattr(linear_bounds.Output, "lines", lower)
    with pytest.raises(ProofError, match="too low"):
        check_branches(
            network, query, _claims(network, query), branch.to_json(branching.trees)
        )


def test_proofs_are_trees_where_intervals_do_not_decide(tmp_path):
    network, query = _branched()
    found = proof.prove(network, query, 10.0)
    assert found.method is Method.BRANCH
    file = tmp_path / "network.npz"
    integer.save(file, network)
    name = proof.write(tmp_path, "one", network, file, query, found, {})
    assert confirm(tmp_path / name, integer.load).num_steps > 3


def test_it_applies_to_two_dense_layers_and_windows_alone():
    network, query = _branched()
    assert branch.applies(network, query)
    assert not branch.applies(_network(0, (5, 4, 4, 3)), query)
    budgeted = dataclasses.replace(query, max_total_shift=3)
    assert not branch.applies(network, budgeted)
    (result,) = solve(network, [budgeted], 10.0, (BRANCH,))
    assert result.verdict is Verdict.UNKNOWN


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 2))
def test_a_solver_agrees_where_nobody_can_enumerate(seed, radius):
    rng = np.random.default_rng(seed)
    network = small_networks.drawn(rng, (30, 24, 4), 9, (-40, 60), (20, 300))
    steps = rng.integers(0, 3, 30)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    ball = linf_query(steps, label, radius, 9)
    moves = rng.random(30) < 0.4 * rng.random()
    query = dataclasses.replace(
        ball,
        low=np.where(moves, ball.low, steps),
        high=np.where(moves, ball.high, steps),
    )
    branching = branch.Branching(network, query)
    branching.run(seconds=1.0)
    (result,) = solve(network, [query], 60.0, ("clingo",))
    if branching.proved:
        assert result.verdict is Verdict.ROBUST
        trees = branch.to_json(branching.trees)
        check_branches(network, query, _claims(network, query), trees)
    if branching.counterexample is not None:
        assert result.verdict is Verdict.FALSIFIED
