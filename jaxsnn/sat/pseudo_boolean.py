"""The intermediate form: clauses and reified pseudo-Boolean constraints.

Variables are positive integers, literals are signed as in DIMACS. One constraint
`lit <=> sum of weights * lits >= bound` serves every backend: clauses for PySAT,
weight rules for clingo, linear constraints for cutting planes and CP-SAT.
"""

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from jaxsnn.sat.budget import Budget, relevant

# The literal of the constant true; every problem defines it with a unit clause.
TRUE = 1
FALSE = -1


class Reified(NamedTuple):
    """`head <=> sum_k weights[k] * lits[k] >= bound`, weights and bound positive."""

    head: int
    lits: tuple[int, ...]
    weights: tuple[int, ...]
    bound: int


class Problem:
    """A growing set of variables, clauses and reified constraints.

    A builder, not a value: encoders fill it, backends read it. Equal constraints share
    one literal.

    >>> problem = Problem()
    >>> a, b = problem.new_variable(), problem.new_variable()
    >>> head = problem.at_least([(2, a), (-1, b)], 1)
    >>> problem.reified
    [Reified(head=4, lits=(2, -3), weights=(2, 1), bound=2)]
    """

    def __init__(self) -> None:
        self.num_variables = 1
        self.clauses: list[tuple[int, ...]] = [(TRUE,)]
        self.reified: list[Reified] = []
        # Heads that need to equal their sums only within a budget.
        self.budgets: dict[int, Budget] = {}
        self._heads: dict[tuple[Hashable, ...], int] = {}

    def new_variable(self) -> int:
        """Returns a fresh variable."""
        self.num_variables += 1
        return self.num_variables

    def add_clause(self, *lits: int) -> None:
        """Adds a disjunction; one that holds already is dropped."""
        if TRUE not in lits:
            self.clauses.append(tuple(lit for lit in lits if lit != FALSE) or (FALSE,))

    def disjunction(self, lits: Iterable[int]) -> int:
        """Returns a literal that is equivalent to the disjunction."""
        return self.at_least([(1, lit) for lit in lits], 1)

    def at_least(
        self,
        terms: Iterable[tuple[int, int]],
        bound: int,
        within: Budget | None = None,
    ) -> int:
        """Returns a literal that is equivalent to `sum weight * lit >= bound`.

        Args:
          terms: `(weight, literal)`; weights of both signs, literals of any kind,
            repeated ones are merged.
          bound: any integer.
          within: a budget that every model of interest keeps; where it is exceeded
            the literal may differ from the sum.

        Returns:
          A literal: `TRUE`, `FALSE`, one of the terms', or the head of a constraint
          in normal form (positive weights, none above the bound, no common divisor).
        """
        coefficients: dict[int, int] = {}
        for weight, lit in terms:
            if lit < 0:  # w * not v = w - w * v
                bound -= weight
                weight = -weight
            variable = abs(lit)
            coefficients[variable] = coefficients.get(variable, 0) + weight
        bound -= coefficients.pop(TRUE, 0)
        positive = []
        for variable, weight in coefficients.items():
            if weight > 0:
                positive.append((weight, variable))
            elif weight < 0:
                positive.append((-weight, -variable))
                bound -= weight
        if within is not None and positive:
            positive, bound = _tipping(positive, bound, within)
        if bound <= 0:
            return TRUE
        total = sum(weight for weight, _ in positive)
        if total < bound:
            return FALSE
        divisor = math.gcd(*(weight for weight, _ in positive))
        bound = -(-bound // divisor)
        normal = sorted(
            ((min(weight // divisor, bound), lit) for weight, lit in positive),
            key=lambda term: (-term[0], term[1]),
        )
        if len(normal) == 1:
            return normal[0][1]
        weights, lits = zip(*normal, strict=True)
        key = (lits, weights, bound, within is None)
        if key not in self._heads:
            head = self.new_variable()
            self._heads[key] = head
            self.reified.append(Reified(head, lits, weights, bound))
            if within is not None:
                self.budgets[head] = within
        return self._heads[key]


def _tipping(
    terms: list[tuple[int, int]], bound: int, within: Budget
) -> tuple[list[tuple[int, int]], int]:
    """Leaves out terms that cannot matter, at their unperturbed values."""
    weights, lits = zip(*terms, strict=True)
    kept = []
    matters = relevant(weights, lits, bound, within)
    for (weight, lit), keep in zip(terms, matters, strict=True):
        if keep:
            kept.append((weight, lit))
        elif within.flips[abs(lit)].literal != lit:
            bound -= weight
    return kept, bound
