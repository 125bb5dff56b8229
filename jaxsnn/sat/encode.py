"""From a network and nested queries to one pseudo-Boolean problem.

Spike steps are written in order literals `s <= t`. A neuron's literals follow its
latch, `(s <= t) <=> (s <= t-1) or V(t - delay) > theta`, and each crossing is one
reified pseudo-Boolean constraint (arXiv 2408.10900, conditions 3 to 6); a delayed
synapse asks for an earlier literal of its input. Only what
can influence a comparison of output spikes is encoded, and what the intervals
decide already is a constant.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from jaxsnn.sat import intervals
from jaxsnn.sat.pseudo_boolean import FALSE, TRUE, Problem
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class Encoding:
    """A problem whose models are the counterexamples to its queries.

    Attributes:
      problem: satisfiable under `assumptions[k]` if and only if query `k` is
        falsified.
      queries: the nested queries, the widest last.
      assumptions: one list of literals a query.
      targets: the literal "class beats the label" of each class that still can.
      order: for each input that matters, the literals of `s <= t` from its earliest
        step on, as far as `t` is free and can be told apart.
    """

    problem: Problem
    queries: tuple[Query, ...]
    assumptions: tuple[tuple[int, ...], ...]
    targets: dict[int, int]
    order: dict[int, list[int]]

    def decode(self, index: int, true_literals: set[int]) -> np.ndarray:
        """Returns the perturbed `[D]` spike steps of query `index` in a model.

        Inputs that the model leaves beyond the last informative step stay where they
        are, or move no further than that.
        """
        steps = self.queries[index].spike_steps.copy()
        for neuron, chain in self.order.items():
            waited = sum(lit not in true_literals for lit in chain)
            step = int(self.queries[-1].low[neuron]) + waited
            if waited < len(chain) or steps[neuron] < step:
                steps[neuron] = step
        return steps


class _Encoder:
    """Encodes neurons on demand, backwards from the outputs."""

    def __init__(self, network: IntegerNetwork, query: Query) -> None:
        self.network = network
        self.problem = Problem()
        self.levels = intervals.propagate(network, query)
        self.synapses = [layer.synapses() for layer in network.layers]
        self.literals: dict[tuple[int, int, int], int] = {}
        self.order: dict[int, list[int]] = {}
        self.encoded_until: dict[tuple[int, int], int] = {}

    def spiked(self, depth: int, neuron: int, step: int) -> int:
        """Returns the literal of "this neuron spikes at `step` or before".

        Steps past the last informative one are never asked for.
        """
        interval = self.levels[depth]
        if step < interval.low[neuron]:
            return FALSE
        if step >= interval.high[neuron]:
            return TRUE
        if (depth, neuron, step) not in self.literals:
            if depth == 0:
                self._input(neuron)
            else:
                self._neuron(depth, neuron, step)
        return self.literals[depth, neuron, step]

    def _input(self, neuron: int) -> None:
        """All free steps of an input, chained: `s <= t` implies `s <= t + 1`."""
        low = int(self.levels[0].low[neuron])
        last = min(
            int(self.levels[0].high[neuron]) - 1, self.network.last_informative_step(0)
        )
        chain = [self.problem.new_variable() for _ in range(low, last + 1)]
        for sooner, later in itertools.pairwise(chain):
            self.problem.add_clause(-sooner, later)
        for step, lit in enumerate(chain, start=low):
            self.literals[0, neuron, step] = lit
        self.order[neuron] = chain

    def _neuron(self, depth: int, neuron: int, step: int) -> None:
        """The latch of a neuron, from where it was encoded last up to `step`."""
        layer = self.network.layers[depth - 1]
        rows = self.synapses[depth - 1]
        row = slice(rows.starts[neuron], rows.starts[neuron + 1])
        sources, weights, delays = rows.inputs[row], rows.weights[row], rows.delays[row]
        early = self.levels[depth - 1].low[sources] + delays
        late = self.levels[depth - 1].high[sources] + delays
        low = int(self.levels[depth].low[neuron])
        start = self.encoded_until.get((depth, neuron), low)
        for free in range(start, step + 1):
            cause = free - layer.delay
            certain, possible = late <= cause, early <= cause
            undecided = np.flatnonzero(possible & ~certain)
            crossing = self.problem.at_least(
                [
                    (
                        int(weights[k]),
                        self.spiked(depth - 1, int(sources[k]), cause - int(delays[k])),
                    )
                    for k in undecided
                ],
                int(rows.thresholds[neuron]) + 1 - int(weights[certain].sum()),
            )
            before = self.spiked(depth, neuron, free - 1)
            self.literals[depth, neuron, free] = self.problem.disjunction(
                [before, crossing]
            )
        self.encoded_until[depth, neuron] = step + 1


def encode(network: IntegerNetwork, queries: Sequence[Query]) -> Encoding:
    """Encodes nested queries about one input for incremental solving.

    Args:
      network: the network.
      queries: same input, label, target and reading of ties; each admits all that
        the one before it admits.

    Returns:
      The encoding. The widest query's intervals are constants; those of the narrower
      ones are implied by their assumption.

    Raises:
      ValueError: queries that are not nested.
    """
    _check_nested(queries)
    widest = queries[-1]
    encoder = _Encoder(network, widest)
    problem = encoder.problem
    targets = _violations(encoder, widest)
    problem.add_clause(*targets.values())
    budgets = _Budgets(encoder, widest)
    assumptions = []
    for query in queries:
        selected = problem.new_variable()
        levels = (
            encoder.levels if query is widest else intervals.propagate(network, query)
        )
        for (depth, neuron, step), lit in encoder.literals.items():
            if step < levels[depth].low[neuron]:
                problem.add_clause(-selected, -lit)
            elif step >= levels[depth].high[neuron]:
                problem.add_clause(-selected, lit)
        for exceeded in budgets.exceeded(query):
            problem.add_clause(-selected, -exceeded)
        assumptions.append((selected,))
    return Encoding(problem, tuple(queries), tuple(assumptions), targets, encoder.order)


def _check_nested(queries: Sequence[Query]) -> None:
    if not queries:
        raise ValueError("encode needs at least one query")
    for inner, outer in itertools.pairwise(queries):
        same = np.array_equal(inner.spike_steps, outer.spike_steps) and (
            inner.label,
            inner.target,
            inner.tie,
        ) == (outer.label, outer.target, outer.tie)
        wider = (
            (outer.low <= inner.low).all()
            and (outer.high >= inner.high).all()
            and _wider(inner.max_total_shift, outer.max_total_shift)
            and _wider(inner.max_changed, outer.max_changed)
        )
        if not (same and wider):
            raise ValueError("queries must be about one input and each admit the last")


def _wider(inner: int | None, outer: int | None) -> bool:
    return outer is None or (inner is not None and inner <= outer)


def _violations(encoder: _Encoder, query: Query) -> dict[int, int]:
    """For each class, a literal that implies that it beats the label."""
    depth = len(encoder.network.layers)
    outputs = encoder.levels[-1]
    last = encoder.network.last_informative_step(depth)
    tolerance = query.tolerance(len(outputs.low))
    targets = {}
    for other in range(len(outputs.low)):
        if other == query.label or query.target not in (None, other):
            continue
        # The other has spiked by `step`, the label not by `step - tolerance`.
        reasons = []
        latest = int(outputs.high[query.label]) - 1 + int(tolerance[other])
        for step in range(int(outputs.low[other]), latest + 1):
            spiked = _output(encoder, depth, other, step, last)
            waits = -_output(
                encoder, depth, query.label, step - int(tolerance[other]), last
            )
            reason = encoder.problem.at_least([(1, spiked), (1, waits)], 2)
            if reason != FALSE:
                reasons.append(reason)
        beats = encoder.problem.disjunction(reasons)
        if beats != FALSE:
            targets[other] = beats
    return targets


def _output(encoder: _Encoder, depth: int, neuron: int, step: int, last: int) -> int:
    """Output literals, with the forced spike at `T - 1`."""
    return TRUE if step > last else encoder.spiked(depth, neuron, step)


class _Budgets:
    """Literals that say when a total budget is exceeded."""

    def __init__(self, encoder: _Encoder, widest: Query) -> None:
        self.problem = encoder.problem
        horizon = encoder.network.last_informative_step(0)
        shifts: list[tuple[int, int]] = []
        moves: list[list[int]] = []
        for neuron, chain in encoder.order.items():
            clean = int(widest.spike_steps[neuron])
            moved = []
            for step, lit in enumerate(chain, start=int(widest.low[neuron])):
                moved.append(-lit if step >= clean else lit)
                # Steps that nothing can tell apart are crossed at once.
                cost = clean - horizon if step == horizon < clean else 1
                shifts.append((cost, moved[-1]))
            moves.append(moved)
        self.shifts = shifts
        self.moves = moves

    def exceeded(self, query: Query) -> list[int]:
        literals = []
        if query.max_total_shift is not None:
            literals.append(
                self.problem.at_least(self.shifts, query.max_total_shift + 1)
            )
        if query.max_changed is not None:
            changed = [(1, self.problem.disjunction(lits)) for lits in self.moves]
            literals.append(self.problem.at_least(changed, query.max_changed + 1))
        return literals
