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
from collections.abc import Sequence, Set

import numpy as np

from jaxsnn.sat import intervals
from jaxsnn.sat.inputs import Inputs, Moved
from jaxsnn.sat.pseudo_boolean import FALSE, TRUE, Problem
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Monotone, check_comparable
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.sat.violations import Outputs, violations


@dataclasses.dataclass(frozen=True, eq=False)
class Encoding:
    """A problem whose models are the counterexamples to its queries.

    Attributes:
      problem: satisfiable under `assumptions[k]` if and only if query `k` is
        falsified.
      queries: the nested queries, the widest last.
      assumptions: one list of literals a query.
      inputs: the order literals of each input vector; two for `Monotone`.
    """

    problem: Problem
    queries: tuple[Query, ...]
    assumptions: tuple[tuple[int, ...], ...]
    inputs: tuple[Inputs, ...]

    def decode(self, index: int, true_literals: Set[int]) -> np.ndarray:
        """Returns the counterexample to query `index` in a model.

        `[D]` spike steps; `[2, D]` for `Monotone`, the input moved earlier second.
        """
        query = self.queries[index]
        steps = [each.decode(query, true_literals) for each in self.inputs]
        return steps[0] if len(steps) == 1 else np.stack(steps)


class _Encoder:
    """Encodes the neurons of one run on demand, backwards from the outputs."""

    def __init__(
        self,
        problem: Problem,
        network: IntegerNetwork,
        levels: list[intervals.Interval],
        inputs: Inputs,
    ) -> None:
        self.network = network
        self.problem = problem
        self.levels = levels
        self.inputs = inputs
        self.synapses = [layer.synapses() for layer in network.layers]
        self.literals: dict[tuple[int, int, int], int] = {}
        self.encoded_until: dict[tuple[int, int], int] = {}

    def spiked(self, depth: int, neuron: int, step: int) -> int:
        """Returns the literal of "this neuron spikes at `step` or before".

        Steps past the last informative one are never asked for.
        """
        if depth == 0:
            return self.inputs.spiked(neuron, step)
        interval = self.levels[depth]
        if step < interval.low[neuron]:
            return FALSE
        if step >= interval.high[neuron]:
            return TRUE
        if (depth, neuron, step) not in self.literals:
            self._neuron(depth, neuron, step)
        return self.literals[depth, neuron, step]

    def outputs(self) -> Outputs:
        """Returns the output literals, with the forced spike at `T - 1`."""
        depth = len(self.network.layers)
        last = self.network.last_informative_step(depth)

        def spiked(neuron: int, step: int) -> int:
            return TRUE if step > last else self.spiked(depth, neuron, step)

        return Outputs(*self.levels[-1], spiked)

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
                within=self.inputs.budget if depth == 1 else None,
            )
            before = self.spiked(depth, neuron, free - 1)
            self.literals[depth, neuron, free] = self.problem.disjunction(
                [before, crossing]
            )
        self.encoded_until[depth, neuron] = step + 1


def encode(
    network: IntegerNetwork,
    queries: Sequence[Query],
    earliest: np.ndarray | None = None,
) -> Encoding:
    """Encodes nested queries about one input for incremental solving.

    Args:
      network: the network.
      queries: same input, label, target, reading of ties and requirement; each
        admits all that the one before it admits.
      earliest: `[C]` steps before which no output spikes whatever the widest query
        admits, where more is known than its intervals say (`jaxsnn.sat.branch`).

    Returns:
      The encoding. The widest query's intervals are constants; those of the narrower
      ones are implied by their assumption.

    Raises:
      ValueError: queries that are not nested, or not about this network.
    """
    check_nested(network, queries)
    widest = queries[-1]
    problem = Problem()
    encoders = _runs(problem, network, widest)
    if earliest is not None:
        outputs = encoders[0].levels[-1]
        encoders[0].levels[-1] = outputs._replace(low=np.maximum(outputs.low, earliest))
    runs = [encoder.outputs() for encoder in encoders]
    problem.add_clause(*violations(problem, widest, runs))
    inputs = tuple(dict.fromkeys(encoder.inputs for encoder in encoders))
    assumptions = []
    for query in queries:
        selected = problem.new_variable()
        for each in inputs:
            each.restrict(query, selected)
        if query is not widest:
            for encoder in encoders:
                _tighten(encoder, query, selected)
        assumptions.append((selected,))
    return Encoding(problem, tuple(queries), tuple(assumptions), inputs)


def _runs(problem: Problem, network: IntegerNetwork, widest: Query) -> list[_Encoder]:
    """The runs that the requirement compares; they share problem and inputs."""
    networks = [network]
    if isinstance(widest.requires, Alike):
        networks.append(widest.requires.other)
        check_comparable(*networks)
    horizon = max(each.last_informative_step(0) for each in networks)
    inputs = Inputs(problem, widest, horizon)
    encoders = [
        _Encoder(problem, each, intervals.propagate(each, widest), inputs)
        for each in networks
    ]
    if isinstance(widest.requires, Monotone):
        own = widest.requires.input
        moved = Moved(problem, widest, horizon, inputs, own)
        for later, sooner in zip(inputs.chain(own), moved.chain(own), strict=True):
            problem.add_clause(-later, sooner)
        encoders.append(_Encoder(problem, network, encoders[0].levels, moved))
    return encoders


def _tighten(encoder: _Encoder, query: Query, selected: int) -> None:
    """What the intervals of a narrower query decide, when it is selected."""
    levels = intervals.propagate(encoder.network, query)
    for (depth, neuron, step), lit in encoder.literals.items():
        if step < levels[depth].low[neuron]:
            encoder.problem.add_clause(-selected, -lit)
        elif step >= levels[depth].high[neuron]:
            encoder.problem.add_clause(-selected, lit)


def check_nested(network: IntegerNetwork, queries: Sequence[Query]) -> None:
    """Raises ValueError unless queries are nested and about this network."""
    if not queries:
        raise ValueError("at least one query is needed")
    for inner, outer in itertools.pairwise(queries):
        same = np.array_equal(inner.spike_steps, outer.spike_steps) and (
            inner.label,
            inner.target,
            inner.tie,
            inner.requires,
        ) == (outer.label, outer.target, outer.tie, outer.requires)
        wider = (
            (outer.low <= inner.low).all()
            and inner.max_dropped <= outer.max_dropped
            and inner.max_inserted <= outer.max_inserted
            and (outer.high >= inner.high).all()
            and _wider(inner.max_total_shift, outer.max_total_shift)
            and _wider(inner.max_changed, outer.max_changed)
        )
        if not (same and wider):
            raise ValueError("queries must be about one input and each admit the last")
    queries[-1].check_fits(network)


def _wider(inner: int | None, outer: int | None) -> bool:
    return outer is None or (inner is not None and inner <= outer)
