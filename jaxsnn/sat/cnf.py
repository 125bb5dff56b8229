"""From the pseudo-Boolean form to clauses.

Sums that matter only within a small budget become diagrams of the affordable changes
(`budget_diagram`). Other small constraints become reduced decision diagrams, which
propagate as strongly as the constraint itself (Abio et al., "A New Look at BDDs for
Pseudo-Boolean Constraints", JAIR 2012); those whose diagram would be too large go to
PySAT's encoders: binary merging, and adders where that would be huge.
"""

from collections.abc import Sequence

from pysat.pb import EncType, PBEnc

from jaxsnn.sat.budget import Budget
from jaxsnn.sat.budget_diagram import diagram
from jaxsnn.sat.pseudo_boolean import Problem, Reified

MAX_DIAGRAM_NODES = 3000
MAX_COUNTING_NODES = 50_000
# Merging decides the published queries several times sooner than adding.
MAX_MERGED_TERMS = 256
# The largest budget whose affordable flips are worth telling apart.
MAX_DIAGRAM_BUDGET = 8


class Cnf:
    """Clauses over the variables of a problem and auxiliary ones above them."""

    def __init__(self, num_variables: int, clauses: Sequence[Sequence[int]]) -> None:
        self.num_variables = num_variables
        self.clauses: list[list[int]] = [list(clause) for clause in clauses]

    def new_variable(self) -> int:
        """Returns a fresh variable."""
        self.num_variables += 1
        return self.num_variables


def to_cnf(problem: Problem, max_nodes: int = MAX_DIAGRAM_NODES) -> Cnf:
    """Writes every constraint of a problem as clauses, equivalent in both directions.

    Args:
      problem: the clauses and reified constraints.
      max_nodes: largest decision diagram; above it, binary sums are used.

    Returns:
      The clauses. Their models, restricted to the problem's variables, are exactly
      the problem's models.

    >>> problem = Problem()
    >>> a, b = problem.new_variable(), problem.new_variable()
    >>> _ = problem.at_least([(1, a), (1, b)], 1)
    >>> to_cnf(problem).clauses
    [[1], [-4, 2, 3], [4, -2], [4, -3]]
    """
    cnf = Cnf(problem.num_variables, problem.clauses)
    for constraint in problem.reified:
        encode(cnf, problem, constraint, max_nodes)
    return cnf


def encode(
    cnf: Cnf, problem: Problem, constraint: Reified, max_nodes: int = MAX_DIAGRAM_NODES
) -> None:
    """Adds one constraint of a problem to its clauses; see `to_cnf`."""
    budget = problem.budgets.get(constraint.head)
    if budget is None or not _encode_within(cnf, constraint, budget, max_nodes):
        _encode(cnf, constraint, max_nodes)


def _encode_within(
    cnf: Cnf, constraint: Reified, budget: Budget, max_nodes: int
) -> bool:
    """Adds a diagram for a small budget, or returns False if there is none."""
    flips = budget.of(constraint.lits)
    if flips is None or budget.limit > MAX_DIAGRAM_BUDGET:
        return False
    found = diagram(constraint, flips, budget.limit, cnf.num_variables + 1, max_nodes)
    if found is None:
        return False
    clauses, created = found
    cnf.num_variables += created
    cnf.clauses.extend(clauses)
    return True


def _encode(cnf: Cnf, constraint: Reified, max_nodes: int) -> None:
    head, lits, weights, bound = constraint
    # Counting up to a small bound needs no more than one node a term and count.
    if bound * len(lits) <= MAX_COUNTING_NODES:
        max_nodes = max(max_nodes, bound * len(lits))
    if min(weights) >= bound:  # any one suffices
        cnf.clauses.append([-head, *lits])
        cnf.clauses.extend([head, -lit] for lit in lits)
    elif sum(weights) - min(weights) < bound:  # all are needed
        cnf.clauses.append([head, *(-lit for lit in lits)])
        cnf.clauses.extend([-head, lit] for lit in lits)
    elif not _encode_diagram(cnf, constraint, max_nodes):
        _encode_binary(cnf, constraint)


def _encode_diagram(cnf: Cnf, constraint: Reified, max_nodes: int) -> bool:
    """Adds a reduced decision diagram, or returns False if it would be too large.

    The node `(i, k)` says "the terms from `i` on sum to at least `k`"; residues with
    no attainable sum between them are one node.
    """
    head, lits, weights, bound = constraint
    attainable = [1]  # bit s is set if the terms from i on can sum to s
    for weight in reversed(weights):
        attainable.append(attainable[-1] | attainable[-1] << weight)
    attainable.reverse()

    def canonical(index: int, residue: int) -> int | None:
        """The least attainable sum of at least the residue, None without one."""
        if residue <= 0:
            return 0
        rest = attainable[index] >> residue
        return residue + (rest & -rest).bit_length() - 1 if rest else None

    clauses: list[list[int]] = []
    nodes = {canonical(0, bound): head}
    num_variables, created = cnf.num_variables, 0
    for index, (lit, weight) in enumerate(zip(lits, weights, strict=True)):
        below: dict[int | None, int] = {}
        for residue, node in nodes.items():
            assert residue is not None
            children = []
            for rest in (residue - weight, residue):
                key = canonical(index + 1, rest)
                if key is not None and key > 0 and key not in below:
                    created += 1
                    below[key] = num_variables + created
                children.append((key, below.get(key, 0)))
            clauses.extend(_node_clauses(node, lit, *children))
        if created > max_nodes:
            return False
        nodes = below
    cnf.num_variables += created
    cnf.clauses.extend(clauses)
    return True


def _node_clauses(
    node: int, lit: int, high: tuple[int | None, int], low: tuple[int | None, int]
) -> list[list[int]]:
    """Clauses of `node <=> (lit and high) or low`, where low implies high.

    A child is `(residue, variable)`; residue 0 is true and None is false.
    """
    clauses = []
    match high:
        case (None, _):
            clauses.append([-node])
        case (0, _):
            clauses.append([node, -lit])
        case (_, child):
            clauses += [[-node, child], [node, -lit, -child]]
    match low:
        case (None, _):
            clauses.append([-node, lit])
        case (0, _):
            clauses.append([node])
        case (_, child):
            clauses += [[-node, lit, child], [node, -child]]
    return clauses


def _encode_binary(cnf: Cnf, constraint: Reified) -> None:
    """Sums of binary digits through PySAT: merged by sorting, or added if many.

    Adders are small but weak in propagation.
    """
    lits, weights = list(constraint.lits), list(constraint.weights)
    encoding = EncType.binmerge if len(lits) <= MAX_MERGED_TERMS else EncType.adder
    for encode, bound, condition in (
        (PBEnc.geq, constraint.bound, constraint.head),
        (PBEnc.leq, constraint.bound - 1, -constraint.head),
    ):
        encoded = encode(
            lits=lits,
            weights=weights,
            bound=bound,
            top_id=cnf.num_variables,
            encoding=encoding,
            conditionals=[condition],
        )
        cnf.num_variables = max(cnf.num_variables, encoded.nv)
        cnf.clauses.extend(encoded.clauses)
