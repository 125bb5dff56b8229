"""Clauses beside cardinalities that a solver counts natively.

A sum whose weights are all alike, as in ternary networks and in budgets, is a count of
literals. Solvers that know "at most `k` of these" need no clauses for it: a count is
one constraint and one pass over its literals, where a diagram has a node for each
literal and count (Liffiton and Maglalang, "A Cardinality Solver: More Expressive
Constraints for Free", SAT 2012).
"""

from typing import NamedTuple

from jaxsnn.sat.cnf import Cnf, encode
from jaxsnn.sat.pseudo_boolean import Problem, Reified


class AtMost(NamedTuple):
    """No more than `bound` of these literals, which are of different variables."""

    lits: tuple[int, ...]
    bound: int


def to_cardinalities(problem: Problem) -> tuple[Cnf, list[AtMost]]:
    """Writes counts as cardinalities and everything else as clauses.

    The models, restricted to the problem's variables, are exactly the problem's.

    >>> problem = Problem()
    >>> lits = [problem.new_variable() for _ in range(3)]
    >>> head = problem.at_least([(1, lit) for lit in lits], 2)
    >>> clauses, at_most = to_cardinalities(problem)
    >>> clauses.clauses
    [[1], [-6, 5], [6, -5]]
    >>> at_most
    [AtMost(lits=(-2, -3, -4, 5, 6), bound=3), AtMost(lits=(2, 3, 4, -5, -6), bound=3)]
    """
    cnf = Cnf(problem.num_variables, problem.clauses)
    at_most: list[AtMost] = []
    for constraint in problem.reified:
        if _counts(constraint):
            at_most += _count(cnf, constraint)
        else:
            encode(cnf, problem, constraint)
    return cnf, at_most


def _counts(constraint: Reified) -> bool:
    """Whether all weights are one, and it takes more than a few plain clauses."""
    number, bound = len(constraint.lits), constraint.bound
    return max(constraint.weights) == 1 and 1 < bound < number


def _count(cnf: Cnf, constraint: Reified) -> list[AtMost]:
    """`head <=> at least b of n`, the head counted often enough to switch it off.

    With the head at most `n - b` are false, and without it at most `b - 1` are true; as
    an element of the count it is there as often as that is below `n`. No solver
    promises to count a repeated literal twice, so that its copies are variables.
    """
    head, lits, _, bound = constraint
    fails = len(lits) - bound + 1
    copies = [head]
    while len(copies) < max(bound, fails):
        copy = cnf.new_variable()
        cnf.clauses += [[-copy, head], [copy, -head]]
        copies.append(copy)
    false, unless = tuple(-lit for lit in lits), tuple(-copy for copy in copies)
    return [
        AtMost(false + tuple(copies[:bound]), len(lits)),
        AtMost(lits + unless[:fails], len(lits)),
    ]
