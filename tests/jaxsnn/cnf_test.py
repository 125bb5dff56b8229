"""Clauses against direct evaluation of the pseudo-Boolean constraints."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysat.solvers import Cadical195, Solver

from jaxsnn.sat.backends import COUNTING_SOLVERS
from jaxsnn.sat.cardinality import to_cardinalities
from jaxsnn.sat.cnf import to_cnf
from jaxsnn.sat.pseudo_boolean import FALSE, TRUE, Problem

TERMS = st.lists(st.tuples(st.integers(-7, 7), st.integers(2, 6)), max_size=7)


def evaluate(terms, bound, assignment):
    total = sum(w * ((lit > 0) == assignment[abs(lit)]) for w, lit in terms)
    return total >= bound


@pytest.mark.parametrize("max_nodes", [3000, 0], ids=["diagram", "adder"])
@settings(max_examples=60, deadline=None)
@given(
    terms=TERMS,
    signs=st.lists(st.booleans(), min_size=7, max_size=7),
    bound=st.integers(-8, 15),
)
def test_head_equals_the_sum_on_every_assignment(max_nodes, terms, signs, bound):
    problem = Problem()
    variables = [problem.new_variable() for _ in range(5)]
    terms = [(w, v if s else -v) for (w, v), s in zip(terms, signs, strict=False)]
    head = problem.at_least(terms, bound)
    cnf = to_cnf(problem, max_nodes)
    with Cadical195(bootstrap_with=cnf.clauses) as solver:
        for values in itertools.product([False, True], repeat=5):
            assignment = dict(zip(variables, values, strict=True))
            fixed = [v if value else -v for v, value in assignment.items()]
            expected = evaluate(terms, bound, assignment)
            assert solver.solve(assumptions=[*fixed, head]) == expected
            assert solver.solve(assumptions=[*fixed, -head]) != expected


@pytest.mark.parametrize("name", COUNTING_SOLVERS)
@settings(max_examples=60, deadline=None)
@given(
    weight=st.integers(1, 3),
    signs=st.lists(st.sampled_from([-1, 1]), min_size=5, max_size=5),
    bounds=st.lists(st.integers(-8, 15), min_size=1, max_size=2),
)
def test_counted_heads_equal_the_sum_on_every_assignment(name, weight, signs, bounds):
    problem = Problem()
    variables = [problem.new_variable() for _ in range(5)]
    terms = [(weight * s, v) for s, v in zip(signs, variables, strict=True)]
    heads = [problem.at_least(terms, bound) for bound in bounds]
    clauses, at_most = to_cardinalities(problem)
    with Solver(name=name, bootstrap_with=clauses.clauses) as solver:
        for lits, bound in at_most:
            solver.add_atmost(list(lits), bound)
        for values in itertools.product([False, True], repeat=5):
            assignment = dict(zip(variables, values, strict=True))
            fixed = [v if value else -v for v, value in assignment.items()]
            for head, bound in zip(heads, bounds, strict=True):
                expected = evaluate(terms, bound, assignment)
                assert solver.solve(assumptions=[*fixed, head]) == expected
                assert solver.solve(assumptions=[*fixed, -head]) != expected


def test_only_counts_are_counted():
    problem = Problem()
    lits = [problem.new_variable() for _ in range(4)]
    problem.at_least([(1, lit) for lit in lits], 2)
    problem.at_least([(3, lit) for lit in lits[:3]], 5)  # two of three
    problem.at_least([(2, lits[0]), (1, lits[1]), (1, lits[2])], 3)
    problem.at_least([(1, lit) for lit in lits], 1)
    clauses, at_most = to_cardinalities(problem)
    assert [len(count.lits) for count in at_most] == [4 + 2, 4 + 3, 3 + 2, 3 + 2]
    assert len(clauses.clauses) < len(to_cnf(problem).clauses)


def test_constants_are_recognised():
    problem = Problem()
    a = problem.new_variable()
    assert problem.at_least([(3, a)], 0) == TRUE
    assert problem.at_least([(3, a)], 4) == FALSE
    assert problem.at_least([(3, a), (-3, a)], 1) == FALSE
    assert problem.at_least([(2, a), (5, -a)], 3) == -a
    assert problem.at_least([(1, TRUE), (1, a)], 2) == a
    assert problem.reified == []


def test_equal_constraints_share_a_literal():
    problem = Problem()
    a, b, c = (problem.new_variable() for _ in range(3))
    first = problem.at_least([(2, a), (2, b), (4, c)], 4)
    assert problem.at_least([(1, b), (1, a), (2, c)], 2) == first
    assert len(problem.reified) == 1


def test_a_chain_of_unit_weights_stays_small():
    # at least k of n: n * k nodes, not 2^n.
    problem = Problem()
    lits = [problem.new_variable() for _ in range(60)]
    problem.at_least([(1, lit) for lit in lits], 5)
    cnf = to_cnf(problem)
    assert cnf.num_variables - problem.num_variables <= 60 * 5
