"""Checks refutations of linear constraints over 0/1 variables by cutting planes.

Proofs are text of VeriPB's version 1.1 (Gocht and Nordstrom, "Certifying Parity
Reasoning Efficiently Using Pseudo-Boolean Proofs", AAAI 2021), of which these rules
are known, each adding the next constraint:

    l N          the N-th constraint of the formula
    pol ...      reverse Polish: constraints, literals as axioms, + * d (divide) s
                 (saturate); the sum, multiple, division or saturation follows
    rup C        its negation propagates to a conflict
    c N          the N-th constraint holds for no assignment: the end

Solvers log all that they learn, and the contradiction rests on part of it. Only that
part is checked, and each constraint is forgotten after its last use. As `rup` does not
say what it rests on, this may be too little; then short constraints are derived as
well, and if that is not enough, everything is.
"""

import array
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.formula import Constraint
from jaxsnn.sat.check.linear import LONG, Propagator, Sum, Total

HEADER = "pseudo-Boolean proof version 1.1"
RULES = frozenset({"l", "pol", "rup", "c"})

# Literals that are added one after the other, as most of a proof is; or one word.
_PARTS = re.compile(r"((?:~?x\d+ (?:\d+ \* )?\+(?: |$))+)|(\S+)")
# Numbers that are neither factors nor divisors name constraints.
_REFERENCES = re.compile(r" (\d{1,18})(?!\d| [*d])")

_MOST = np.iinfo(np.int64).max


class _Extent(enum.Enum):
    """Which lines are followed."""

    NEEDED = enum.auto()  # those that later ones name
    SHORT = enum.auto()  # others, too, as far as they are short and soon derived
    ALL = enum.auto()


class _ShortOfFacts(Exception):
    """A step does not follow from what was checked before it, and may from the rest."""


class _Outline(NamedTuple):
    """Which lines the end of a proof rests on."""

    last: int  # the line of the contradiction
    uses: Mapping[int, int]  # the last use of each constraint that is needed


def check_refutation(formula: Sequence[Constraint], proof: Iterable[str]) -> int:
    """Confirms that no 0/1 assignment satisfies the constraints.

    Args:
      formula: the constraints.
      proof: the lines of the proof; read twice to four times.

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
    outline = _outline(proof)
    for extent in (_Extent.NEEDED, _Extent.SHORT):
        try:
            return _Checker(formula, outline, extent).check(proof)
        except _ShortOfFacts:
            continue
    return _Checker(formula, outline, _Extent.ALL).check(proof)


def _outline(proof: Iterable[str]) -> _Outline:
    """Finds the contradiction and, backwards, what it rests on."""
    references, ends = array.array("q"), array.array("q")
    last, wanted = 0, ""
    for number, line in enumerate(proof, start=1):
        rule, _, rest = line.partition(" ")
        if number == 1:
            if line != HEADER:
                raise ProofError(f"proof does not begin with {HEADER!r}")
        elif rule not in RULES:
            raise ProofError(f"proof line {number} has the unknown rule {rule!r:.20}")
        elif rule == "c":
            last, wanted = number, rest.strip()
            break
        elif rule == "pol":
            references.extend(map(int, _REFERENCES.findall(line)))
        ends.append(len(references))
    if not last:
        raise ProofError("the proof ends without a contradiction")
    uses = {int(wanted) if wanted.isdecimal() else 0: last - 1}
    for index in range(last - 2, 0, -1):
        if index in uses:
            for used in references[ends[index - 1] : ends[index]]:
                uses.setdefault(used, index)
    return _Outline(last, uses)


class _Checker:
    """Follows a proof line by line; constraints have the number of their line."""

    def __init__(
        self, formula: Sequence[Constraint], outline: _Outline, extent: _Extent
    ) -> None:
        self._formula = formula
        self._outline = outline
        self._extent = extent
        self._num_variables = max(
            (abs(lit) for lits, _, _ in formula for lit in lits), default=0
        )
        self._known: dict[int, Sum] = {}
        self._propagator = Propagator(self._num_variables)
        self._unseen: list[Sum] = []  # by the propagator
        self._leaving: dict[int, list[int]] = {}
        for used, user in outline.uses.items():
            self._leaving.setdefault(user, []).append(used)

    def check(self, proof: Iterable[str]) -> int:
        checked = 0
        self._unseen = [self._given(constraint) for constraint in self._formula]
        for index, line in enumerate(proof):
            needed = self._is_needed(index)
            if index == 0 or not (needed or self._extent is _Extent.SHORT):
                continue
            rule, _, rest = line.partition(" ")
            try:
                if not needed:
                    checked += self._derive_if_short(rule, rest, index)
                    continue
                if rule == "c":
                    if not self._named(int(rest), index).is_impossible():
                        raise ProofError("claims a contradiction where there is none")
                    return checked
                self._known[index] = self._derive(rule, rest, index)
            except (ValueError, IndexError, OverflowError) as error:
                reason = str(error) if isinstance(error, ProofError) else "is malformed"
                raise ProofError(f"proof line {index + 1} {reason}") from None
            checked += rule != "l"
            if self._extent is not _Extent.ALL:
                for used in self._leaving.get(index, []):
                    self._known.pop(used, None)
        raise ProofError("the proof ends without a contradiction")

    def _is_needed(self, index: int) -> bool:
        if self._extent is _Extent.ALL:
            return True
        return index in self._outline.uses or index == self._outline.last - 1

    def _derive(self, rule: str, rest: str, index: int) -> Sum:
        if rule == "l":
            number = int(rest)
            if not 1 <= number <= len(self._formula):
                raise ProofError(f"names constraint {number} of {len(self._formula)}")
            return self._given(self._formula[number - 1])
        if rule == "pol":
            derived = self._evaluate(rest, index)
        else:
            derived = self._parse(rest)
            if not self._propagates(derived):
                if self._extent is not _Extent.ALL:
                    raise _ShortOfFacts
                raise ProofError("does not follow by propagation")
        self._unseen.append(derived)
        return derived

    def _derive_if_short(self, rule: str, rest: str, index: int) -> bool:
        """Derives a constraint that no needed line names, if that is little work."""
        if rule == "l":
            self._known[index] = self._derive(rule, rest, index)
            return False  # given, not derived
        if rule == "rup":
            derived = self._parse(rest)
            if not self._propagates(derived, with_waiting=False):
                return False
        elif rule == "pol" and all(
            int(number) in self._known for number in _REFERENCES.findall(f" {rest}")
        ):
            derived = self._evaluate(rest, index)
        else:
            return False
        if len(derived.variables) <= LONG:
            self._known[index] = derived
            self._unseen.append(derived)
        return True

    def _propagates(self, derived: Sum, with_waiting: bool = True) -> bool:
        for constraint in self._unseen:
            self._propagator.add(constraint)
        self._unseen.clear()
        return self._propagator.refutes(derived.negated(), with_waiting)

    def _given(self, constraint: Constraint) -> Sum:
        total = Total(self._num_variables)
        total.add_constraint(constraint)
        return total.finish()

    def _named(self, number: int, index: int) -> Sum:
        if number not in self._known:
            raise ProofError(f"names constraint {number} of {index - 1}")
        return self._known[number]

    def _evaluate(self, expression: str, index: int) -> Sum:
        """Evaluates an expression in reverse Polish notation."""
        # Numbers stay numbers until it shows whether they name a constraint.
        stack: list[int | Total] = []

        def pop_total() -> Total:
            top = stack.pop()
            if isinstance(top, Total):
                return top
            total = Total(self._num_variables)
            total.add(self._named(top, index))
            return total

        def pop_number() -> int:
            top = stack.pop()
            if not isinstance(top, int) or top < 1:
                raise ProofError("multiplies or divides by no positive number")
            return top

        for literals, word in _PARTS.findall(expression):
            if literals:
                top = pop_total()
                top.add_literals(*_weighted(literals))
            elif word == "+":
                right = stack.pop()
                top = pop_total()
                top.add(self._named(right, index) if isinstance(right, int) else right)
            elif word == "*":
                factor = pop_number()
                top = pop_total()
                top.multiply(factor)
            elif word == "d":
                divisor = pop_number()
                top = pop_total()
                top.divide(divisor)
            elif word == "s":
                top = pop_total()
                top.saturate()
            elif word.isdecimal():
                stack.append(int(word))
                continue
            else:
                top = Total(self._num_variables)
                top.add_literals(np.array([_literal(word)]), np.array([1]))
            stack.append(top)
        result = pop_total()
        if stack:
            raise ProofError("leaves operands behind")
        return result.finish()

    def _parse(self, text: str) -> Sum:
        """Reads `+2 x1 +3 ~x2 >= 4 ;`."""
        *terms, relation, bound, end = text.split()
        if (relation, end) != (">=", ";") or len(terms) % 2:
            raise ProofError("is malformed")
        weights = tuple(map(int, terms[::2]))
        return self._given((tuple(map(_literal, terms[1::2])), weights, int(bound)))


def _literal(word: str) -> int:
    """Reads `x5` or `~x5`.

    >>> _literal("~x5")
    -5
    """
    variable = word.removeprefix("~").removeprefix("x")
    if not (variable.isdecimal() and word in (f"x{variable}", f"~x{variable}")):
        raise ProofError(f"names {word!r:.20}, which the formula does not")
    return -int(variable) if word[0] == "~" else int(variable)


def _weighted(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads literals that are added, with their factors.

    >>> literals, weights = _weighted("~x5 3 * + x2 + ")
    >>> literals.tolist(), weights.tolist()
    ([-5, 2], [3, 1])
    """
    numbers = text.replace("~x", "-").replace("x", "")
    numbers = numbers.replace(" * +", "").replace("+", "1")
    pairs = np.fromstring(numbers, np.int64, sep=" ").reshape(-1, 2)
    if pairs.max() == _MOST:  # or more
        pairs = np.array([int(word) for word in numbers.split()], object)
        pairs = pairs.reshape(-1, 2)
        return pairs[:, 0].astype(np.int64), pairs[:, 1]
    return pairs[:, 0], pairs[:, 1]
