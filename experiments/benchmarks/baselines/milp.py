"""The mixed-integer program of the code published with arXiv 2408.10900, in HiGHS.

A binary variable says "spikes at step t", for each input and neuron; potentials are
linear in them; a crossing is tied to its potential by big-M constraints. The published
program takes M = 10^6 throughout, which lets the tolerances of a solver hide a whole
crossing; here M is what the potential can reach at that step. Where even that is too
coarse, the input that the solver names does not replay and the result is an error.
"""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.sparse

from experiments.benchmarks.baselines import outcome
from jaxsnn.sat.query import Query, Result
from jaxsnn.sat.spec import IntegerNetwork, Layer, Synapses

NAME = "milp"

_INFEASIBLE = 2  # status of scipy.optimize.milp


def solve(network: IntegerNetwork, query: Query, seconds: float) -> Result:
    """Decides one query; building the program counts towards the limit.

    Floating-point arithmetic: a robust verdict is the solver's word, not a proof.

    Args:
        network: the network.
        query: the question.
        seconds: wall-clock limit. HiGHS checks its own clock and may come back late.
    """
    started = time.monotonic()
    program = _Program()
    times = [
        _Spikes(range(low, high + 1), program.variables(high - low + 1))
        for low, high in zip(query.low.tolist(), query.high.tolist(), strict=True)
    ]
    for spikes in times:
        program.add([(1, column) for column in spikes.columns], 1, 1)
    inputs = times
    _add_budgets(program, query, inputs)
    for layer in network.layers:
        times = _add_layer(program, layer, times, network.num_steps)
    _add_violation(program, query, times, network.num_steps)
    left = seconds - (time.monotonic() - started)
    if left <= 0:
        return outcome.timeout(started)
    found = program.solve(left)
    if found.status == _INFEASIBLE:
        return outcome.robust(NAME, started)
    if found.x is None:
        return outcome.timeout(started)
    steps = [spikes.chosen(found.x) for spikes in inputs]
    return outcome.falsified(network, query, np.array(steps), NAME, started)


@dataclasses.dataclass(frozen=True)
class _Spikes:
    """One variable for each step at which an input or neuron may spike."""

    steps: range
    columns: range

    def chosen(self, values: np.ndarray) -> int:
        return self.steps[int(values[self.columns.start : self.columns.stop].argmax())]

    def time(self) -> list[tuple[int, int]]:
        """The spike time as a linear form."""
        return list(zip(self.steps, self.columns, strict=True))

    def at(self, step: int) -> int | None:
        """The variable of "spikes at this step"."""
        return self.columns[step - self.steps.start] if step in self.steps else None


class _Program:
    """Rows and columns of a feasibility problem."""

    def __init__(self) -> None:
        self.upper: list[float] = []
        self.integral: list[int] = []
        self.free: list[int] = []
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.least: list[float] = []
        self.most: list[float] = []

    def variables(self, count: int) -> range:
        """Adds binary variables."""
        start = len(self.integral)
        self.integral += [1] * count
        return range(start, start + count)

    def real(self) -> int:
        """Adds a variable without bounds."""
        self.free.append(len(self.integral))
        self.integral.append(0)
        return self.free[-1]

    def add(self, terms: Sequence[tuple[int, int]], least: float, most: float) -> None:
        """Adds `least <= sum of weight * column <= most`."""
        row = len(self.least)
        for weight, column in terms:
            self.rows.append(row)
            self.columns.append(column)
            self.values.append(weight)
        self.least.append(least)
        self.most.append(most)

    def solve(self, seconds: float) -> scipy.optimize.OptimizeResult:
        """Runs HiGHS with nothing to minimise: any feasible point ends the search."""
        count = len(self.integral)
        lower, upper = np.zeros(count), np.ones(count)
        lower[self.free], upper[self.free] = -np.inf, np.inf
        matrix = scipy.sparse.csr_array(
            (self.values, (self.rows, self.columns)), shape=(len(self.least), count)
        )
        return scipy.optimize.milp(
            np.zeros(count),
            integrality=np.array(self.integral),
            bounds=scipy.optimize.Bounds(lower, upper),
            constraints=scipy.optimize.LinearConstraint(matrix, self.least, self.most),
            options={"time_limit": seconds},
        )


def _add_budgets(program: _Program, query: Query, inputs: list[_Spikes]) -> None:
    shifts, moved = [], []
    for clean, spikes in zip(query.spike_steps.tolist(), inputs, strict=True):
        for step, column in spikes.time():
            shifts.append((abs(step - clean), column))
            moved.append((int(step != clean), column))
    for terms, budget in ((shifts, query.max_total_shift), (moved, query.max_changed)):
        if budget is not None:
            program.add(terms, 0, budget)


def _add_layer(
    program: _Program, layer: Layer, inputs: list[_Spikes], num_steps: int
) -> list[_Spikes]:
    rows = layer.synapses()
    if not rows.instant:
        raise ValueError("this baseline knows no delays and no responses in time")
    return [
        _add_neuron(program, rows, neuron, layer.delay, inputs, num_steps)
        for neuron in range(layer.num_outputs)
    ]


def _add_neuron(
    program: _Program,
    rows: Synapses,
    neuron: int,
    delay: int,
    inputs: list[_Spikes],
    num_steps: int,
) -> _Spikes:
    row = slice(rows.starts[neuron], rows.starts[neuron + 1])
    sources, weights = rows.inputs[row].tolist(), rows.weights[row].tolist()
    earliest = np.array([inputs[source].steps[0] for source in sources])
    latest = np.array([inputs[source].steps[-1] for source in sources])
    excites = rows.weights[row] > 0
    threshold = int(rows.thresholds[neuron])
    last = num_steps - 1
    spikes = _Spikes(range(delay, num_steps), program.variables(num_steps - delay))
    program.add([(1, column) for column in spikes.columns], 1, 1)
    before: list[tuple[int, int]] = []  # the potential one step earlier
    for step in range(delay, last):
        potential = program.real()
        arriving = [
            (-weight, column)
            for source, weight in zip(sources, weights, strict=True)
            if (column := inputs[source].at(step - delay)) is not None
        ]
        program.add([(1, potential), *before, *arriving], 0, 0)
        before = [(-1, potential)]
        (crosses,) = program.variables(1)
        early, late = earliest <= step - delay, latest <= step - delay
        lowest = int(rows.weights[row] @ np.where(excites, late, early))
        highest = int(rows.weights[row] @ np.where(excites, early, late))
        missing, excess = threshold + 1 - lowest, highest - threshold
        program.add([(1, potential), (-missing, crosses)], lowest, np.inf)
        program.add([(1, potential), (-excess, crosses)], -np.inf, threshold)
        # Spiked by now if and only if spiked before or crossing now.
        now = [(1, column) for column in spikes.columns[: step + 1 - delay]]
        program.add([*now, (-1, crosses)], 0, np.inf)
        program.add([now[-1], (-1, crosses)], -np.inf, 0)
    return spikes


def _add_violation(
    program: _Program, query: Query, outputs: list[_Spikes], num_steps: int
) -> None:
    """Another class spikes early enough; condition 8 of the paper."""
    tolerance = query.tolerance(len(outputs))
    label = [(-step, column) for step, column in outputs[query.label].time()]
    beats = []
    for other, spikes in enumerate(outputs):
        if other == query.label or query.target not in (None, other):
            continue
        (chosen,) = program.variables(1)
        slack = 2 * num_steps
        program.add(
            [*spikes.time(), *label, (slack, chosen)],
            -np.inf,
            int(tolerance[other]) - 1 + slack,
        )
        beats.append((1, chosen))
    program.add(beats, 1, np.inf)
