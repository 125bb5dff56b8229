"""Checks refutations of linear constraints over 0/1 variables by cutting planes.

Proofs are text of VeriPB's version 1.1 (Gocht and Nordstrom, "Certifying Parity
Reasoning Efficiently Using Pseudo-Boolean Proofs", AAAI 2021), of which these rules
are known, each adding the next constraint:

    l N          the N-th constraint of the formula
    pol ...      reverse Polish: constraints, literals as axioms, + * d (divide) s
                 (saturate); the sum, multiple, division or saturation follows
    rup C        its negation propagates to a conflict
    c N          the N-th constraint holds for no assignment: the end
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.formula import Constraint

_T = TypeVar("_T")
# Variable, coefficient and bound of a constraint over one variable.
_Axiom = tuple[int, int, int]

HEADER = "pseudo-Boolean proof version 1.1"
RULES = frozenset({"l", "pol", "rup", "c"})


class _Sum:
    """`sum of coefficients[v] * v >= bound` over variables, of both signs."""

    __slots__ = ("bound", "coefficients")

    def __init__(self, coefficients: dict[int, int], bound: int) -> None:
        self.coefficients = coefficients
        self.bound = bound

    @classmethod
    def of(cls, constraint: Constraint) -> "_Sum":
        total = cls({}, constraint[2])
        for lit, weight in zip(*constraint[:2], strict=True):
            if lit > 0:
                total.add_axiom(lit, weight, 0)
            else:  # w * not v = w - w * v
                total.add_axiom(-lit, -weight, -weight)
        return total

    @property
    def degree(self) -> int:
        """The bound when written over literals with positive weights."""
        return self.bound - sum(c for c in self.coefficients.values() if c < 0)

    def copy(self) -> "_Sum":
        return _Sum(self.coefficients.copy(), self.bound)

    def add_axiom(self, variable: int, coefficient: int, bound: int) -> None:
        total = self.coefficients.get(variable, 0) + coefficient
        if total:
            self.coefficients[variable] = total
        else:
            self.coefficients.pop(variable, None)
        self.bound += bound

    def add(self, other: "_Sum") -> None:
        for variable, coefficient in other.coefficients.items():
            self.add_axiom(variable, coefficient, 0)
        self.bound += other.bound

    def multiply(self, factor: int) -> None:
        for variable in self.coefficients:
            self.coefficients[variable] *= factor
        self.bound *= factor

    def divide(self, divisor: int) -> None:
        """Divides over literals and rounds up; sound as literals are 0 or 1."""
        self._replace(
            {
                v: -(-c // divisor) if c > 0 else c // divisor
                for v, c in self.coefficients.items()
            },
            -(-self.degree // divisor),
        )

    def saturate(self) -> None:
        """Cuts weights to the degree; more of one literal helps nobody."""
        most = self.degree
        if most <= 0:
            self.coefficients, self.bound = {}, 0
            return
        for variable, coefficient in self.coefficients.items():
            if coefficient > most:
                self.coefficients[variable] = most
            elif coefficient < -most:
                self.coefficients[variable] = -most
                self.bound -= coefficient + most

    def _replace(self, coefficients: dict[int, int], degree: int) -> None:
        self.coefficients = coefficients
        self.bound = degree + sum(c for c in coefficients.values() if c < 0)

    def over_literals(self) -> list[tuple[int, int]]:
        """Returns positive weights and literals, the heaviest first."""
        terms = ((abs(c), v if c > 0 else -v) for v, c in self.coefficients.items())
        return sorted(terms, reverse=True)

    def negated(self) -> "_Sum":
        """`sum < bound`, that is `-sum >= 1 - bound`."""
        return _Sum({v: -c for v, c in self.coefficients.items()}, 1 - self.bound)


def check_refutation(formula: Sequence[Constraint], proof: Iterable[str]) -> int:
    """Confirms that no 0/1 assignment satisfies the constraints.

    Args:
      formula: the constraints.
      proof: the lines of the proof.

    Returns:
      The number of derived constraints that were checked.

    Raises:
      ProofError: a step that does not follow or is not understood (the line is
        named), or an end without a contradiction.

    >>> formula = [((1, 2), (1, 1), 1), ((-1, -2), (2, 2), 3)]
    >>> steps = ["l 1", "l 2", "pol 1 2 2 d +", "c 3"]
    >>> check_refutation(formula, [HEADER, *steps])
    1
    """
    num_variables = max((abs(lit) for lits, _, _ in formula for lit in lits), default=0)
    axioms = _axioms(num_variables)
    known: list[_Sum] = []
    propagator = _Propagator(num_variables)
    checked = 0
    for number, line in enumerate(proof, start=1):
        if number == 1:
            if line != HEADER:
                raise ProofError(f"proof does not begin with {HEADER!r}")
            continue
        rule, _, rest = line.partition(" ")
        try:
            match rule:
                case "l":
                    known.append(_Sum.of(_numbered(formula, int(rest))))
                case "pol":
                    known.append(_evaluate(rest.split(), known, axioms))
                    checked += 1
                case "rup":
                    lemma = _parse(rest.split(), axioms)
                    propagator.catch_up(known)
                    if not propagator.refutes(lemma.negated()):
                        raise ProofError("does not follow by propagation")
                    known.append(lemma)
                    checked += 1
                case "c":
                    last = _numbered(known, int(rest))
                    if sum(w for w, _ in last.over_literals()) >= last.degree:
                        raise ProofError("claims a contradiction where there is none")
                    return checked
                case _:
                    raise ProofError(f"has the unknown rule {rule!r:.20}")
        except (ValueError, IndexError) as error:
            reason = str(error) if isinstance(error, ProofError) else "is malformed"
            raise ProofError(f"proof line {number} {reason}") from None
    raise ProofError("the proof ends without a contradiction")


def _numbered(items: Sequence[_T], number: int) -> _T:
    if not 1 <= number <= len(items):
        raise ProofError(f"names constraint {number} of {len(items)}")
    return items[number - 1]


def _parse(words: Sequence[str], axioms: Mapping[str, _Axiom]) -> _Sum:
    """Reads `+2 x1 +3 ~x2 >= 4 ;`."""
    *terms, relation, bound, end = words
    if (relation, end) != (">=", ";") or len(terms) % 2:
        raise ProofError("is malformed")
    total = _Sum({}, int(bound))
    for weight, literal in zip(map(int, terms[::2]), terms[1::2], strict=True):
        if literal not in axioms:
            raise ProofError(f"names {literal!r:.20}, which the formula does not")
        variable, sign, constant = axioms[literal]
        total.add_axiom(variable, weight * sign, weight * constant)
    return total


def _axioms(num_variables: int) -> dict[str, _Axiom]:
    """The words for literals: `x >= 0`, and `not x >= 0`, which is `-x >= -1`."""
    axioms = {}
    for variable in range(1, num_variables + 1):
        axioms[f"x{variable}"] = (variable, 1, 0)
        axioms[f"~x{variable}"] = (variable, -1, -1)
    return axioms


def _evaluate(
    words: Sequence[str], known: Sequence[_Sum], axioms: Mapping[str, _Axiom]
) -> _Sum:
    """Evaluates an expression in reverse Polish notation."""
    # Numbers stay numbers until it shows whether they name a constraint, and axioms
    # stay triples: most operands are one or the other.
    stack: list[int | _Axiom | _Sum] = []

    def pop_sum() -> _Sum:
        """The constraint on top, free to be changed."""
        top = stack.pop()
        if isinstance(top, int):
            return _numbered(known, top).copy()
        if isinstance(top, tuple):
            return _Sum({top[0]: top[1]}, top[2])
        return top

    def pop_number() -> int:
        top = stack.pop()
        if not isinstance(top, int) or top < 1:
            raise ProofError("multiplies or divides by no positive number")
        return top

    for word in words:
        if word in axioms:
            stack.append(axioms[word])
        elif word == "+":
            right = stack.pop()
            left = pop_sum()
            if isinstance(right, tuple):
                left.add_axiom(*right)
            else:
                left.add(_numbered(known, right) if isinstance(right, int) else right)
            stack.append(left)
        elif word == "*":
            factor = pop_number()
            if isinstance(axiom := stack[-1], tuple):
                stack[-1] = (axiom[0], axiom[1] * factor, axiom[2] * factor)
            else:
                scaled = pop_sum()
                scaled.multiply(factor)
                stack.append(scaled)
        elif word == "d":
            divisor = pop_number()
            divided = pop_sum()
            divided.divide(divisor)
            stack.append(divided)
        elif word == "s":
            saturated = pop_sum()
            saturated.saturate()
            stack.append(saturated)
        elif word.isdecimal():
            stack.append(int(word))
        else:
            raise ProofError(f"names {word!r:.20}, which the formula does not")
    result = pop_sum()
    if stack:
        raise ProofError("leaves operands behind")
    return result


class _Propagator:
    """Unit propagation by slack: how much a constraint can lose before it breaks."""

    def __init__(self, num_variables: int) -> None:
        # Indexed by literal; negative ones count from the end.
        self._values = [0] * (2 * num_variables + 1)
        self._occurrences: list[list[tuple[int, int]]] = [[] for _ in self._values]
        self._terms: list[list[tuple[int, int]]] = []
        self._slack: list[int] = []
        self._trail: list[int] = []
        self._num_known = 0
        self._refuted = False

    def catch_up(self, known: Sequence[_Sum]) -> None:
        """Adds the constraints that are new since the last call."""
        for constraint in known[self._num_known :]:
            self._refuted |= not self._propagate([self._add(constraint)])
        self._num_known = len(known)

    def refutes(self, assumption: _Sum) -> bool:
        """Whether adding a constraint propagates to a conflict; it is then removed."""
        if self._refuted:
            return True
        root = len(self._trail)
        conflict = not self._propagate([self._add(assumption)])
        for lit in self._trail[root:]:
            self._values[lit] = self._values[-lit] = 0
            for index, weight in self._occurrences[-lit]:
                self._slack[index] += weight
        del self._trail[root:]
        for _, lit in self._terms.pop():
            self._occurrences[lit].pop()
        self._slack.pop()
        return conflict

    def _add(self, constraint: _Sum) -> int:
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
