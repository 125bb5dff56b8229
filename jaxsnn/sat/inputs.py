"""Order literals of the inputs: windows, failures and budgets of nested queries."""

import itertools
from collections.abc import Iterator, Set

import numpy as np

from jaxsnn.sat import intervals
from jaxsnn.sat.budget import Budget, Flip
from jaxsnn.sat.pseudo_boolean import FALSE, TRUE, Problem
from jaxsnn.sat.query import Query


class Inputs:
    """The spike steps of one input vector, encoded on demand.

    An input's chain holds the literals of `s <= t` from its earliest step on, as far
    as `t` is free and can be told apart. An input that can fail has a literal that
    says that it did; a spike that is lost leaves a hole between the end of its window
    and the silent step, which one literal spans.
    """

    def __init__(self, problem: Problem, widest: Query, horizon: int) -> None:
        """Encodes nothing yet.

        Args:
          problem: receives variables and clauses.
          widest: the query that contains all others.
          horizon: the last step at which a spike can be told from none.
        """
        self._problem = problem
        self._query = widest
        self._horizon = horizon
        self._low, self._high = widest.earliest, widest.latest
        self._can_drop, self._can_insert = widest.can_drop, widest.can_insert
        self._chains: dict[int, list[int]] = {}
        self._failed: dict[int, int] = {}
        self.budget = _budget(widest)

    def spiked(self, neuron: int, step: int) -> int:
        """Returns the literal of "this input spikes at `step` or before"."""
        if step < self._low[neuron]:
            return FALSE
        if step >= self._high[neuron]:
            return TRUE
        return self.chain(neuron)[step - int(self._low[neuron])]

    def chain(self, neuron: int) -> list[int]:
        """Returns the literals of an input, each implied by the one before."""
        if neuron not in self._chains:
            self._chains[neuron] = self._encode(neuron)
        return self._chains[neuron]

    def _encode(self, neuron: int) -> list[int]:
        problem, query = self._problem, self._query
        first, high = int(self._low[neuron]), int(query.high[neuron])
        last = min(int(self._high[neuron]) - 1, self._horizon)
        lost = bool(self._can_drop[neuron])
        free = min(last, high - 1) if lost else last
        chain = [problem.new_variable() for _ in range(first, free + 1)]
        for sooner, later in itertools.pairwise(chain):
            problem.add_clause(-sooner, later)
        if lost:
            failed = self._failed[neuron] = problem.new_variable()
            if chain:
                problem.add_clause(-failed, -chain[-1])
            chain += [-failed] * (last - free)
        elif self._can_insert[neuron]:
            self._failed[neuron] = problem.new_variable()
        if self.budget is not None:
            clean = int(query.spike_steps[neuron])
            for step, lit in enumerate(chain, start=first):
                flipped = -lit if step >= clean else lit
                distance = step + 1 - clean if step >= clean else clean - step
                cost = distance if query.max_total_shift is not None else 1
                self.budget.flips[lit] = Flip(flipped, cost, neuron)
        return chain

    def encoded(self) -> list[int]:
        """Returns the inputs that have literals; no other can matter."""
        return [neuron for neuron, _ in self._inputs()]

    def stays(self, neuron: int) -> list[int]:
        """Returns literals that together say that an input keeps its step.

        Steps after the last informative one are one and the same.
        """
        clean, first = int(self._query.spike_steps[neuron]), int(self._low[neuron])
        return [
            lit if step >= clean else -lit
            for step, lit in enumerate(self.chain(neuron), start=first)
        ]

    def restrict(self, query: Query, selected: int) -> None:
        """Keeps `query` when `selected` holds: its windows, failures and budgets."""
        problem, failures = self._problem, self._failures()
        for neuron, chain in self._inputs():
            low, high = int(query.low[neuron]), int(query.high[neuron])
            failed = failures.get(neuron, FALSE)
            step = int(self._low[neuron])
            if low > step and chain:
                before = chain[min(low - step, len(chain)) - 1]
                problem.add_clause(-selected, failed, -before)
            if step <= high < step + len(chain) and chain[high - step] != -failed:
                problem.add_clause(-selected, failed, chain[high - step])
        for exceeded in self._exceeded(query):
            problem.add_clause(-selected, -exceeded)

    def _exceeded(self, query: Query) -> list[int]:
        """Literals that say that a limit of the query is exceeded."""
        at_least = self._problem.at_least
        literals = []
        for can, limit in (
            (self._can_drop, query.max_dropped),
            (self._can_insert, query.max_inserted),
        ):
            failed = [(1, lit) for i, lit in self._failures().items() if can[i]]
            literals.append(at_least(failed, limit + 1))
        if query.max_total_shift is not None:
            shifts = [term for terms in self._moves() for term in terms]
            literals.append(at_least(shifts, query.max_total_shift + 1))
        if query.max_changed is not None:
            changed = [
                (1, self._problem.disjunction(lit for _, lit in terms))
                for terms in self._moves()
            ]
            literals.append(at_least(changed, query.max_changed + 1))
        return literals

    def _moves(self) -> Iterator[list[tuple[int, int]]]:
        """For each input, the steps it moved within its window: weights, literals."""
        query, horizon, failures = self._query, self._horizon, self._failures()
        for neuron, chain in self._inputs():
            clean = int(query.spike_steps[neuron])
            low, high = int(query.low[neuron]), int(query.high[neuron])
            terms = []
            for step, lit in enumerate(chain, start=int(self._low[neuron])):
                if not low <= step < high:
                    continue
                moved = -lit if step >= clean else lit
                if neuron in failures:
                    both = [(1, moved), (1, -failures[neuron])]
                    moved = self._problem.at_least(both, 2)
                # Steps that nothing can tell apart are crossed at once.
                terms.append((clean - horizon if step == horizon < clean else 1, moved))
            yield terms

    def decode(self, query: Query, true_literals: Set[int]) -> np.ndarray:
        """Returns the `[D]` spike steps of a model that keeps `query`.

        Inputs that the model leaves beyond the last informative step stay where they
        are, or move no further than that.
        """
        steps = query.spike_steps.copy()
        failures = self._failures()
        for neuron, chain in self._inputs():
            waited = sum(lit not in true_literals for lit in chain)
            step = int(self._low[neuron]) + waited
            if self._can_drop[neuron] and failures.get(neuron) in true_literals:
                assert query.silent_step is not None
                steps[neuron] = query.silent_step
            elif waited < len(chain) or steps[neuron] < step:
                steps[neuron] = step
        return steps

    def _inputs(self) -> Iterator[tuple[int, list[int]]]:
        """The inputs encoded so far and their chains."""
        yield from self._chains.items()

    def _failures(self) -> dict[int, int]:
        """The literals that say that an input failed."""
        return self._failed


def _budget(query: Query) -> Budget | None:
    """The total budget of a query; failures, which are free, leave it without one."""
    limits = (query.max_total_shift, query.max_changed)
    limit = next((limit for limit in limits if limit is not None), None)
    if limit is None or query.max_dropped or query.max_inserted:
        return None
    if limit > intervals.MAX_EXACT_BUDGET:  # nearly nothing would be out of reach
        return None
    return Budget(limit, {})


class Moved(Inputs):
    """The inputs again, one of which may differ."""

    def __init__(
        self, problem: Problem, widest: Query, horizon: int, shared: Inputs, own: int
    ) -> None:
        """See `Inputs`.

        Args:
          problem: receives variables and clauses.
          widest: the query that contains all others.
          horizon: the last step at which a spike can be told from none.
          shared: the literals of all other inputs.
          own: the input that has literals of its own.
        """
        super().__init__(problem, widest, horizon)
        self._shared = shared
        self._own = own
        if shared.budget is not None:
            self.budget = shared.budget

    def chain(self, neuron: int) -> list[int]:
        """Returns the literals of an input, each implied by the one before."""
        if neuron != self._own:
            return self._shared.chain(neuron)
        return super().chain(neuron)

    def _inputs(self) -> Iterator[tuple[int, list[int]]]:
        for neuron, chain in self._shared._inputs():
            if neuron != self._own:
                yield neuron, chain
        yield from self._chains.items()

    def _failures(self) -> dict[int, int]:
        shared = self._shared._failures()
        others = {i: lit for i, lit in shared.items() if i != self._own}
        return others | self._failed
