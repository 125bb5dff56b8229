"""Linear constraints over 0/1 variables, and what follows from one or two of them.

`sum of coefficients * variables >= bound`, coefficients of both signs, in NumPy int64,
and in Python's integers where these might overflow.
"""

from typing import NamedTuple

import numpy as np

from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.formula import Constraint

# Sums of magnitudes in int64 stay below this.
_LIMIT = 2**62

# Constraints of more terms wait aside in propagation.
LONG = 32


class Sum(NamedTuple):
    """A constraint as it is kept."""

    variables: np.ndarray  # [K] int32, no two the same
    coefficients: np.ndarray  # [K] int64, none of them zero
    bound: int

    @property
    def degree(self) -> int:
        """The bound when written over literals with positive weights."""
        return self.bound - int(np.minimum(self.coefficients, 0).sum())

    def over_literals(self) -> list[tuple[int, int]]:
        """Returns positive weights and literals, the heaviest first."""
        literals = np.where(self.coefficients > 0, self.variables, -self.variables)
        weights = np.abs(self.coefficients)
        return sorted(zip(weights.tolist(), literals.tolist(), strict=True))[::-1]

    def negated(self) -> "Sum":
        """`sum < bound`, that is `-sum >= 1 - bound`."""
        return Sum(self.variables, -self.coefficients, 1 - self.bound)

    def is_impossible(self) -> bool:
        """Whether not even all literals together reach the degree."""
        return int(np.abs(self.coefficients).sum()) < self.degree


class Total:
    """A constraint in the making, with a place for every variable."""

    def __init__(self, num_variables: int) -> None:
        """Begins with `0 >= 0`."""
        self._coefficients = np.zeros(num_variables + 1, np.int64)
        self._bound = 0
        self._size = 0  # at least the sum of all magnitudes

    def add_literals(self, literals: np.ndarray, weights: np.ndarray) -> None:
        """Adds `w * l >= 0` for each literal `l`, negative where it is a negation.

        Raises:
          ProofError: a literal of no variable, or a weight that is not positive.
        """
        variables = np.abs(literals)
        known = (variables > 0) & (variables < len(self._coefficients))
        if not known.all():
            wrong = int(literals[known.argmin()])
            name = f"{'~' if wrong < 0 else ''}x{abs(wrong)}"
            raise ProofError(f"names {name!r:.20}, which the formula does not")
        if weights.min() < 1:
            raise ProofError("multiplies or divides by no positive number")
        self._make_room(2 * int(weights.max()) * len(weights))
        weights = weights.astype(self._coefficients.dtype)
        # w * not v = w - w * v
        np.add.at(self._coefficients, variables, np.sign(literals) * weights)
        self._bound -= int(weights[literals < 0].sum())

    def add(self, other: "Sum | Total") -> None:
        """Adds another constraint."""
        if isinstance(other, Total):
            self._make_room(other._size)
            self._coefficients = self._coefficients + other._coefficients
            self._bound += other._bound
            return
        self._make_room(int(np.abs(other.coefficients).sum()) + abs(other.bound))
        self._coefficients[other.variables] += other.coefficients
        self._bound += other.bound

    def add_constraint(self, constraint: Constraint) -> None:
        """Adds a constraint over literals."""
        literals, weights = (np.array(part, np.int64) for part in constraint[:2])
        if len(literals):
            self.add_literals(literals, weights)
        self._make_room(abs(constraint[2]))
        self._bound += constraint[2]

    def multiply(self, factor: int) -> None:
        """Takes it so many times."""
        self._make_room(self._measured() * (factor - 1))
        if factor >= _LIMIT:
            self._coefficients = self._coefficients.astype(object)
        self._coefficients *= factor
        self._bound *= factor

    def divide(self, divisor: int) -> None:
        """Divides over literals and rounds up; sound as literals are 0 or 1."""
        if divisor >= _LIMIT:
            self._coefficients = self._coefficients.astype(object)
        magnitudes = -(-np.abs(self._coefficients) // divisor)
        self._replace(
            np.sign(self._coefficients) * magnitudes, -(-self._degree() // divisor)
        )

    def saturate(self) -> None:
        """Cuts weights to the degree; more of one literal helps nobody."""
        most = max(self._degree(), 0)
        if most < self._size:
            self._coefficients = np.clip(self._coefficients, -most, most)
        self._replace(self._coefficients, most)

    def finish(self) -> Sum:
        """Returns the constraint."""
        self._narrow()
        variables = np.flatnonzero(self._coefficients).astype(np.int32)
        return Sum(variables, self._coefficients[variables], self._bound)

    def _degree(self) -> int:
        return self._bound - int(np.minimum(self._coefficients, 0).sum())

    def _replace(self, coefficients: np.ndarray, degree: int) -> None:
        self._coefficients = coefficients
        self._bound = degree + int(np.minimum(coefficients, 0).sum())
        self._narrow()

    def _narrow(self) -> None:
        """Returns to 64 bits where they do."""
        self._size = self._measured()
        if self._size < _LIMIT:
            self._coefficients = self._coefficients.astype(np.int64, copy=False)

    def _measured(self) -> int:
        return int(np.abs(self._coefficients).sum()) + abs(self._bound)

    def _make_room(self, size: int) -> None:
        """Goes on with Python's integers before 64 bits overflow."""
        if self._size + size >= _LIMIT:
            self._size = self._measured()  # it may have been estimated too high
            if self._size + size >= _LIMIT:
                self._coefficients = self._coefficients.astype(object)
        self._size += size


class Propagator:
    """Unit propagation by slack: how much a constraint can lose before it breaks.

    Long constraints seldom matter. They wait aside, and come in for good when
    propagation without them has ended and they could go on.
    """

    def __init__(self, num_variables: int) -> None:
        """Begins with no constraints."""
        # Indexed by literal; negative ones count from the end.
        self._values = [0] * (2 * num_variables + 1)
        self._occurrences: list[list[tuple[int, int]]] = [[] for _ in self._values]
        self._terms: list[list[tuple[int, int]]] = []
        self._slack: list[int] = []
        self._trail: list[int] = []
        self._refuted = False
        self._waiting: list[Sum] = []

    def add(self, constraint: Sum) -> None:
        """Adds a constraint, for good."""
        if len(constraint.variables) > LONG:
            self._waiting.append(constraint)
        else:
            self._refuted |= not self._propagate([self._append(constraint)])

    def refutes(self, assumption: Sum, with_waiting: bool = True) -> bool:
        """Whether adding a constraint propagates to a conflict; it is then removed."""
        while not self._refuted:
            root = len(self._trail)
            conflict = not self._propagate([self._append(assumption)])
            active = self._active() if with_waiting and not conflict else []
            for lit in self._trail[root:]:
                self._values[lit] = self._values[-lit] = 0
                for index, weight in self._occurrences[-lit]:
                    self._slack[index] += weight
            del self._trail[root:]
            for _, lit in self._terms.pop():
                self._occurrences[lit].pop()
            self._slack.pop()
            if conflict or not active:
                return conflict
            for position in reversed(active):
                constraint = self._waiting.pop(position)
                self._refuted |= not self._propagate([self._append(constraint)])
        return True

    def _active(self) -> list[int]:
        """Which waiting constraints break or force a literal under what is assigned."""
        half = len(self._values) // 2
        values = np.array(self._values[: half + 1])
        can_be_one, is_one = values >= 0, values > 0
        active = []
        for position, (variables, coefficients, bound) in enumerate(self._waiting):
            counted = np.where(
                coefficients > 0, can_be_one[variables], is_one[variables]
            )
            slack = int((coefficients * counted).sum()) - bound
            free = np.abs(coefficients[values[variables] == 0])
            if slack < 0 or slack < free.max(initial=0):
                active.append(position)
        return active

    def _append(self, constraint: Sum) -> int:
        terms, index = constraint.over_literals(), len(self._terms)
        slack = -constraint.degree
        for weight, lit in terms:
            self._occurrences[lit].append((index, weight))
            if self._values[lit] >= 0:
                slack += weight
        self._terms.append(terms)
        self._slack.append(slack)
        return index

    def _propagate(self, queue: list[int]) -> bool:
        """Assigns what the queued constraints force, and so on; False on a conflict."""
        values, slack, terms = self._values, self._slack, self._terms
        for index in queue:  # grows
            if slack[index] < 0:
                return False
            for weight, lit in terms[index]:
                if weight <= slack[index]:
                    break
                if values[lit] == 0:
                    values[lit], values[-lit] = 1, -1
                    self._trail.append(lit)
                    for other, lost in self._occurrences[-lit]:
                        slack[other] -= lost
                        if slack[other] < terms[other][0][0]:
                            queue.append(other)
        return True
