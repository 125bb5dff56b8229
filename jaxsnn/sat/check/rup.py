"""Checks refutations of clauses by reverse unit propagation (RUP).

A lemma follows if assuming its negation and propagating units ends in a conflict
(Goldberg and Novikov, "Verification of proofs of unsatisfiability for CNF formulas",
DATE 2003). Proofs are DRUP text: a lemma a line, `d` before one that is no longer
needed. Lemmas that are only DRAT (that preserve satisfiability without following)
are refused; CaDiCaL as we run it writes none.
"""

from collections.abc import Iterable, Sequence

from jaxsnn.sat.check.errors import ProofError


def check_refutation(clauses: Iterable[Sequence[int]], proof: Iterable[str]) -> int:
    """Confirms that the clauses have no model.

    Args:
      clauses: literals as in DIMACS.
      proof: the lines of a DRUP proof.

    Returns:
      The number of lemmas that were checked.

    Raises:
      ProofError: a lemma that does not follow (the line is named), a clause to delete
        that is not there, or an end without the empty clause.

    >>> check_refutation([[1, 2], [-1, 2], [1, -2], [-1, -2]], ["2 0", "0"])
    1
    """
    database = _Clauses()
    for clause in clauses:
        database.add(clause)
    checked = 0
    for number, line in enumerate(proof, start=1):
        if database.refuted:
            return checked
        deletes = line.startswith("d")
        lemma = _literals(line.removeprefix("d"), number)
        if deletes:
            if not database.delete(lemma):
                raise ProofError(f"proof line {number} deletes a clause not there")
            continue
        if not database.follows(lemma):
            raise ProofError(f"proof line {number} does not follow by propagation")
        database.add(lemma)
        checked += 1
    if not database.refuted:
        raise ProofError("the proof ends without the empty clause")
    return checked


def _literals(text: str, number: int) -> list[int]:
    try:
        *lits, end = [int(word) for word in text.split()]
    except ValueError:
        raise ProofError(f"proof line {number} is no clause: {text!r:.60}") from None
    if end != 0 or 0 in lits:
        raise ProofError(f"proof line {number} does not end with its only 0")
    return lits


class _Clauses:
    """Clauses with two watched literals each, and a trail of what they imply."""

    def __init__(self) -> None:
        self.refuted = False
        # Indexed by literal; negative ones count from the end.
        self._values: list[int] = [0]
        self._watches: list[list[list[int]]] = [[]]
        self._num_variables = 0
        self._trail: list[int] = []
        self._by_key: dict[tuple[int, ...], list[list[int]]] = {}

    def add(self, literals: Sequence[int]) -> None:
        """Adds a clause and whatever units follow."""
        clause = sorted(set(literals))
        self._by_key.setdefault(tuple(clause), []).append(clause)
        self._grow(max((abs(lit) for lit in clause), default=0))
        # What is assigned here is so for good: false literals go last.
        clause.sort(key=lambda lit: self._values[lit] < 0)
        if not clause or self._values[clause[0]] < 0:
            self.refuted = True
        elif len(clause) == 1 or self._values[clause[1]] < 0:
            self.refuted |= not self._propagate([clause[0]])
        else:
            self._watches[clause[0]].append(clause)
            self._watches[clause[1]].append(clause)

    def delete(self, literals: Sequence[int]) -> bool:
        """Forgets a clause; units that it implied are kept, for they were implied."""
        key = tuple(sorted(set(literals)))
        known = self._by_key.get(key)
        if not known:
            return False
        known.pop().clear()
        return True

    def follows(self, literals: Sequence[int]) -> bool:
        """Whether the negation of the literals propagates to a conflict."""
        self._grow(max((abs(lit) for lit in literals), default=0))
        root = len(self._trail)
        conflict = not self._propagate([-lit for lit in literals])
        for lit in self._trail[root:]:
            self._values[lit] = self._values[-lit] = 0
        del self._trail[root:]
        return conflict

    def _grow(self, num_variables: int) -> None:
        """Makes room for variables; negative indices move with the end."""
        if num_variables <= self._num_variables:
            return
        room = max(num_variables, 2 * self._num_variables)
        missing, middle = room - self._num_variables, self._num_variables + 1
        self._values[middle:middle] = [0] * (2 * missing)
        self._watches[middle:middle] = [[] for _ in range(2 * missing)]
        self._num_variables = room

    def _propagate(self, assumed: Sequence[int]) -> bool:
        """Assigns literals and all that follows; False on a conflict."""
        values, watches, trail = self._values, self._watches, self._trail
        head = len(trail)
        for lit in assumed:
            if values[lit] < 0:
                return False
            if values[lit] == 0:
                values[lit], values[-lit] = 1, -1
                trail.append(lit)
        while head < len(trail):
            false = -trail[head]
            head += 1
            watching, kept = watches[false], []
            for position, clause in enumerate(watching):
                if not clause:  # deleted
                    continue
                if clause[0] == false:
                    clause[0], clause[1] = clause[1], false
                first = clause[0]
                if values[first] > 0:
                    kept.append(clause)
                    continue
                for index in range(2, len(clause)):
                    lit = clause[index]
                    if values[lit] >= 0:
                        clause[1], clause[index] = lit, false
                        watches[lit].append(clause)
                        break
                else:
                    kept.append(clause)
                    if values[first] < 0:
                        kept.extend(watching[position + 1 :])
                        watches[false] = kept
                        return False
                    values[first], values[-first] = 1, -1
                    trail.append(first)
            watches[false] = kept
        return True
