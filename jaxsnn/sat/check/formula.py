"""The formula that a refutation must refute: one query, nothing left to assume.

Maker and checker both derive it, from network and query, with the same encoder. It
is satisfiable if and only if the query has a counterexample.
"""

from collections.abc import Iterator, Sequence

from jaxsnn.sat.cnf import to_cnf
from jaxsnn.sat.encode import encode
from jaxsnn.sat.pseudo_boolean import Problem
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork

# `sum of weights * lits >= bound`, all weights positive.
Constraint = tuple[tuple[int, ...], tuple[int, ...], int]


def question(network: IntegerNetwork, query: Query) -> Problem:
    """Returns the problem whose models are the counterexamples to the query."""
    encoding = encode(network, [query])
    for lit in encoding.assumptions[0]:
        encoding.problem.add_clause(lit)
    return encoding.problem


def clauses(problem: Problem) -> list[list[int]]:
    """Returns the problem as clauses."""
    return to_cnf(problem).clauses


def constraints(problem: Problem) -> Iterator[Constraint]:
    """Yields the problem as linear constraints, by variable; two for each reified one.

    >>> problem = Problem()
    >>> a, b = problem.new_variable(), problem.new_variable()
    >>> _ = problem.at_least([(1, a), (1, b)], 2)
    >>> for constraint in constraints(problem):
    ...     print(constraint)
    ((1,), (1,), 1)
    ((2, 3, -4), (1, 1, 2), 2)
    ((-2, -3, 4), (1, 1, 1), 1)
    """
    for clause in problem.clauses:
        lits = tuple(dict.fromkeys(clause))
        yield _by_variable(lits, (1,) * len(lits), 1)
    for head, lits, weights, bound in problem.reified:
        fails = sum(weights) - bound + 1
        yield _by_variable((-head, *lits), (bound, *weights), bound)
        negated = (head, *(-lit for lit in lits))
        yield _by_variable(negated, (fails, *weights), fails)


def _by_variable(lits: Sequence[int], weights: Sequence[int], bound: int) -> Constraint:
    lits, weights = zip(
        *sorted(zip(lits, weights, strict=True), key=lambda term: abs(term[0])),
        strict=True,
    )
    return lits, weights, bound


def dimacs(clauses: Sequence[Sequence[int]]) -> str:
    """Returns clauses in DIMACS form.

    >>> print(dimacs([[1, -2], [2]]), end="")
    p cnf 2 2
    1 -2 0
    2 0
    """
    top = max((abs(lit) for clause in clauses for lit in clause), default=0)
    lines = [f"p cnf {top} {len(clauses)}"]
    lines.extend(" ".join(map(str, [*clause, 0])) for clause in clauses)
    return "\n".join(lines) + "\n"


def opb(constraints: Sequence[Constraint]) -> str:
    """Returns linear constraints in OPB form.

    >>> print(opb([((-1, 2), (2, 3), 4)]), end="")
    * #variable= 2 #constraint= 1
    +2 ~x1 +3 x2 >= 4 ;
    """
    top = max((abs(lit) for lits, _, _ in constraints for lit in lits), default=0)
    lines = [f"* #variable= {top} #constraint= {len(constraints)}"]
    for lits, weights, bound in constraints:
        terms = (
            f"+{weight} {'~' if lit < 0 else ''}x{abs(lit)}"
            for weight, lit in zip(weights, lits, strict=True)
        )
        lines.append(f"{' '.join(terms)} >= {bound} ;")
    return "\n".join(lines) + "\n"
