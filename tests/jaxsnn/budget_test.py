"""Sums within a budget against enumeration of everything affordable."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysat.solvers import Cadical195

from jaxsnn.sat.budget import Budget, Flip, relevant
from jaxsnn.sat.cnf import to_cnf
from jaxsnn.sat.pseudo_boolean import FALSE, TRUE, Problem

FIRST = 2  # variable 1 is the constant true


@st.composite
def sums(draw):
    """Weights, bound and a budget over as many variables."""
    count = draw(st.integers(2, 6))
    weights = draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count))
    signs = draw(st.lists(st.sampled_from([1, -1]), min_size=count, max_size=count))
    costs = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    flips = {
        variable: Flip(sign * variable, cost, input=variable)
        for variable, sign, cost in zip(
            itertools.count(FIRST), signs, costs, strict=False
        )
    }
    bound = draw(st.integers(-12, 20))
    return weights, bound, Budget(draw(st.integers(0, 4)), flips)


def affordable(budget):
    """Every assignment, as true literals, whose flips the budget pays for."""
    for flipped in itertools.product([False, True], repeat=len(budget.flips)):
        pairs = list(zip(flipped, budget.flips.values(), strict=True))
        if sum(flip.cost for moved, flip in pairs if moved) <= budget.limit:
            yield [flip.literal if moved else -flip.literal for moved, flip in pairs]


@pytest.mark.parametrize("max_nodes", [3000, 0], ids=["diagram", "without"])
@settings(max_examples=80, deadline=None)
@given(drawn=sums())
def test_head_equals_the_sum_within_the_budget(max_nodes, drawn):
    weights, bound, budget = drawn
    problem = Problem()
    variables = [problem.new_variable() for _ in weights]
    head = problem.at_least(zip(weights, variables, strict=True), bound, budget)
    with Cadical195(bootstrap_with=to_cnf(problem, max_nodes).clauses) as solver:
        for fixed in affordable(budget):
            total = sum(
                w for w, v in zip(weights, variables, strict=True) if v in fixed
            )
            assert solver.solve(assumptions=[*fixed, head]) == (total >= bound)
            assert solver.solve(assumptions=[*fixed, -head]) == (total < bound)


@settings(max_examples=40, deadline=None)
@given(drawn=sums())
def test_what_is_too_expensive_constrains_nothing(drawn):
    """The clauses define auxiliary variables; they must never exclude an input."""
    weights, bound, budget = drawn
    problem = Problem()
    variables = [problem.new_variable() for _ in weights]
    problem.at_least(zip(weights, variables, strict=True), bound, budget)
    with Cadical195(bootstrap_with=to_cnf(problem).clauses) as solver:
        for values in itertools.product([1, -1], repeat=len(variables)):
            fixed = [s * v for s, v in zip(values, variables, strict=True)]
            assert solver.solve(assumptions=fixed)


def test_terms_that_need_more_help_than_the_budget_buys_are_left_out():
    flips = {v: Flip(v, cost, input=v) for v, cost in ((2, 1), (3, 1), (4, 1), (5, 2))}
    budget = Budget(2, flips)
    # 5 + 3 reaches 8; 5 + 1 does not, and 6 at twice the price stands alone.
    assert relevant((6, 5, 3, 1), (5, 2, 3, 4), 8, budget) == [False, True, True, False]
    # The harm of one is no matter where the others need the whole budget.
    flips[4] = Flip(-4, 1, input=4)
    assert relevant((5, 4, 3), (2, 4, 3), 12, budget) == [True, False, True]


def test_flips_of_one_input_are_left_alone():
    flips = {2: Flip(2, 1, input=7), 3: Flip(3, 2, input=7)}
    assert relevant((1, 1), (2, 3), 2, Budget(1, flips)) == [True, True]


def test_a_sum_out_of_reach_is_a_constant():
    problem = Problem()
    a, b = problem.new_variable(), problem.new_variable()
    budget = Budget(1, {v: Flip(v, 1, input=v) for v in (a, b)})
    assert problem.at_least([(2, a), (3, b)], 6, budget) == FALSE
    assert problem.at_least([(-2, a), (-3, b)], -3, budget) == TRUE
    assert problem.at_least([(2, a), (3, b)], 3, budget) == b
