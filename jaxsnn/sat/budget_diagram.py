"""Decision diagrams of sums of which only few terms can change at once.

Where a budget allows a few flips, a diagram need not be right for the rest of the
assignments: the node `(i, k, b)` says "the terms from `i` on sum to at least `k`" as
long as their flips cost at most `b`. A term that costs more keeps its unperturbed
value. Such a diagram grows with the number of affordable sets of flips, where that of
the sum alone grows with the weights.
"""

from collections.abc import Sequence

from jaxsnn.sat.budget import Flip
from jaxsnn.sat.pseudo_boolean import FALSE, TRUE, Reified

# Index, sum that is missing, budget that is left.
_Node = tuple[int, int, int]


def diagram(
    constraint: Reified,
    flips: Sequence[Flip],
    limit: int,
    first_variable: int,
    max_nodes: int,
) -> tuple[list[list[int]], int] | None:
    """Returns clauses by which the head equals the sum as long as the budget holds.

    Args:
      constraint: the head and the sum.
      flips: of its terms, of one input each.
      limit: the budget.
      first_variable: the first that is free.
      max_nodes: the largest diagram.

    Returns:
      The clauses and the number of fresh variables in them; None if the diagram would
      be too large.
    """
    head, lits, weights, bound = constraint
    sums = _Sums(lits, weights, flips, limit)
    root = sums.node(0, bound, limit)
    if isinstance(root, bool):
        return [[head if root else -head]], 0
    levels: list[dict[_Node, int]] = [{} for _ in lits]
    levels[root[0]][root] = head
    clauses: list[list[int]] = []
    created = 0
    for level in levels:
        for (index, missing, left), variable in level.items():
            for holds in (True, False):
                child = sums.child(index, missing, left, holds)
                if isinstance(child, bool):
                    below = TRUE if child else FALSE
                elif child in levels[child[0]]:
                    below = levels[child[0]][child]
                else:
                    below = levels[child[0]][child] = first_variable + created
                    created += 1
                other = -lits[index] if holds else lits[index]
                if below != TRUE:
                    clauses.append([other, -variable, *_unless_false(below)])
                if below != FALSE:
                    clauses.append([other, variable, *_unless_false(-below)])
        if created > max_nodes:
            return None
    return clauses, created


def _unless_false(lit: int) -> list[int]:
    return [] if lit == FALSE else [lit]


class _Sums:
    """Which sums the last terms can have within each budget."""

    def __init__(
        self,
        lits: Sequence[int],
        weights: Sequence[int],
        flips: Sequence[Flip],
        limit: int,
    ) -> None:
        self._weights = weights
        self._costs = [flip.cost for flip in flips]
        self._flipped = [f.literal == lit for f, lit in zip(flips, lits, strict=True)]
        # Bit s of [i][b] says that the terms from i on can sum to s with budget b.
        self._attainable = [[1] * (limit + 1)]
        for weight, cost, comes in zip(
            reversed(weights),
            reversed(self._costs),
            reversed(self._flipped),
            strict=True,
        ):
            rest = self._attainable[-1]
            stays, moves = (0, weight) if comes else (weight, 0)
            self._attainable.append(
                [
                    rest[left] << stays
                    | (rest[left - cost] << moves if cost <= left else 0)
                    for left in range(limit + 1)
                ]
            )
        self._attainable.reverse()

    def node(self, index: int, missing: int, left: int) -> _Node | bool:
        """Returns the one node for all that decide alike, or what they decide."""
        while index < len(self._costs) and self._costs[index] > left:
            missing -= 0 if self._flipped[index] else self._weights[index]
            index += 1
        sums = self._attainable[index][left]
        if missing <= 0 or not sums & ((1 << missing) - 1):
            return True
        enough = sums >> missing
        if not enough:
            return False
        return index, missing + (enough & -enough).bit_length() - 1, left

    def child(self, index: int, missing: int, left: int, holds: bool) -> _Node | bool:
        """Returns what remains once the term of a node is known."""
        if holds == self._flipped[index]:
            left -= self._costs[index]
        return self.node(index + 1, missing - holds * self._weights[index], left)
