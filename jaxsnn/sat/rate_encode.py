"""Queries of rate-coded networks: bounds of spikes, and one pseudo-Boolean problem.

Each spike that the bounds leave open is one reified constraint over the spikes of the
level before and the neuron's own earlier ones; a flip of an input's spike is a literal,
and the budget is one cardinality. The problem is of the same form as that of spike
times, and the same solvers decide it.

A constraint of a first-layer neuron at step `t` has up to `D (t + 1)` terms, of which
those are left out that cannot tip it within the budget. Problems grow with `N D T^2`:
networks of the published sizes (784-20-10, five to eight steps) are small, and hundreds
of neurons over tens of steps are not.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.sat.pseudo_boolean import FALSE, TRUE, Problem
from jaxsnn.sat.rate import LIF, RateNetwork, RateQuery


class Spikes(NamedTuple):
    """What is known of the spikes of one level."""

    must: np.ndarray  # [T, N] bool: spikes whatever the perturbation
    may: np.ndarray  # [T, N] bool


def propagate(network: RateNetwork, query: RateQuery) -> list[Spikes]:
    """Returns sound bounds of the spikes of every level above the inputs.

    In the first layer the best `max_flips` flips are found exactly for each neuron and
    step; that neurons and steps share the budget is ignored.
    """
    levels: list[Spikes] = []
    for depth, layer in enumerate(network.layers):
        shape = (network.num_steps, len(layer.weights))
        must, may = np.zeros(shape, bool), np.zeros(shape, bool)
        for step in range(network.num_steps):
            factors = np.array(network.factors(step))
            if depth == 0:
                lowest, highest = _flipped(layer, query, factors)
            else:
                lowest, highest = _within(layer, levels[-1], factors)
            reset = factors[1:, None] * layer.thresholds
            lowest -= (reset * may[:step]).sum(axis=0)
            highest -= (reset * must[:step]).sum(axis=0)
            limit = factors[-1] * layer.thresholds
            must[step], may[step] = lowest > limit, highest > limit
        levels.append(Spikes(must, may))
    return levels


def _flipped(
    layer: LIF, query: RateQuery, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest input to potentials `[N]` of a step within the budget."""
    spikes = query.spikes[: len(factors)].astype(np.int64)
    clean = layer.weights @ (factors @ spikes)
    # A flip adds a spike or takes one away.
    signs = factors[:, None] * (1 - 2 * spikes)  # [t + 1, D]
    change = (layer.weights[:, None, :] * signs[None]).reshape(len(clean), -1)
    count = min(query.max_flips, change.shape[1])
    if count == 0:
        return clean, clean.copy()
    top = np.partition(change, change.shape[1] - count, axis=1)[:, -count:]
    bottom = np.partition(change, count - 1, axis=1)[:, :count]
    return (
        clean + np.minimum(bottom, 0).sum(axis=1),
        clean + np.maximum(top, 0).sum(axis=1),
    )


def _within(
    layer: LIF, before: Spikes, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest input to potentials `[N]` from spikes that must or may be."""
    must = factors @ before.must[: len(factors)]
    may = factors @ before.may[: len(factors)]
    excites, inhibits = np.maximum(layer.weights, 0), np.minimum(layer.weights, 0)
    return excites @ must + inhibits @ may, excites @ may + inhibits @ must


def decided(levels: Sequence[Spikes], query: RateQuery) -> bool:
    """Whether bounds of the output spikes alone prove that the decision stands."""
    least = levels[-1].must.sum(axis=0)[query.label]
    most = levels[-1].may.sum(axis=0)
    beats = most - least >= query.lead(len(most))
    beats[query.label] = False
    return not beats.any()


@dataclasses.dataclass(frozen=True, eq=False)
class RateEncoding:
    """A problem whose models are the counterexamples to its queries.

    Attributes:
      problem: satisfiable under `assumptions[k]` if and only if query `k` is
        falsified.
      queries: of growing budgets, about one input.
      assumptions: one list of literals a query.
      flips: the literal "this spike is flipped" of each `(step, input)` that matters.
    """

    problem: Problem
    queries: tuple[RateQuery, ...]
    assumptions: tuple[tuple[int, ...], ...]
    flips: dict[tuple[int, int], int]

    def decode(self, true_literals: set[int]) -> np.ndarray:
        """Returns the perturbed `[T, D]` input of a model."""
        spikes = self.queries[0].spikes.copy()
        for (step, source), lit in self.flips.items():
            spikes[step, source] ^= lit in true_literals
        return spikes


class _Encoder:
    """Encodes spikes on demand, backwards from the outputs."""

    def __init__(self, network: RateNetwork, query: RateQuery) -> None:
        self.network = network
        self.problem = Problem()
        self.clean = query.spikes
        self.budget = query.max_flips
        self.levels = propagate(network, query)
        self.literals: dict[tuple[int, int, int], int] = {}
        self.flips: dict[tuple[int, int], int] = {}

    def spiked(self, depth: int, neuron: int, step: int) -> int:
        """Returns the literal of "this neuron spikes at `step`"."""
        if depth == 0:
            if (step, neuron) not in self.flips:
                self.flips[step, neuron] = self.problem.new_variable()
            flip = self.flips[step, neuron]
            return -flip if self.clean[step, neuron] else flip
        known = self.levels[depth - 1]
        if known.must[step, neuron]:
            return TRUE
        if not known.may[step, neuron]:
            return FALSE
        key = depth, neuron, step
        if key not in self.literals:
            self.literals[key] = self._crossing(*key)
        return self.literals[key]

    def _crossing(self, depth: int, neuron: int, step: int) -> int:
        layer = self.network.layers[depth - 1]
        weights, threshold = layer.weights[neuron], int(layer.thresholds[neuron])
        factors = np.array(self.network.factors(step))
        limit = int(factors[-1]) * threshold
        resets = [
            (-int(factor) * threshold, self.spiked(depth, neuron, tau))
            for tau, factor in enumerate(factors[1:])
        ]
        sums = factors[:, None] * weights  # [t + 1, D]
        matters = sums != 0
        if depth == 1:
            clean = self.clean[: step + 1]
            # What earlier spikes of the neuron leave open.
            least = sum(weight for weight, lit in resets if lit != FALSE)
            most = sum(weight for weight, lit in resets if lit == TRUE)
            missing = limit + 1 - int(sums[clean].sum())
            gains = np.where(clean, -sums, sums)
            matters &= _tipping(gains, missing - most, missing - least, self.budget)
            limit -= int(sums[clean & ~matters].sum())
        terms = [
            (int(sums[place]), self.spiked(depth - 1, int(place[1]), int(place[0])))
            for place in map(tuple, np.argwhere(matters))
        ]
        return self.problem.at_least(terms + resets, limit + 1)


def _tipping(gains: np.ndarray, lowest: int, highest: int, budget: int) -> np.ndarray:
    """Which of at most `budget` flips can decide whether their gains reach a bound.

    Args:
      gains: of the flips, of both signs.
      lowest: the least that the bound may be.
      highest: the most.
      budget: number of flips.

    Returns:
      Booleans of the same shape. Whatever the bound is, the sum of the gains of all
      flips that are made reaches it if and only if the sum of those chosen here does.
    """
    if budget == 0:
        return np.zeros(gains.shape, bool)

    def best(gains: np.ndarray) -> int:
        """The most that one flip less than the budget can gain."""
        top = np.sort(np.maximum(gains, 0), axis=None)[::-1]
        return int(top[: budget - 1].sum())

    # A flip that helps must reach the bound with others; one that harms must spoil
    # what others reach. So too for a bound that is reached without any flip.
    matters = np.zeros(gains.shape, bool)
    if highest > 0:
        matters |= best(gains) + np.maximum(gains, 0) >= max(lowest, 1)
    if lowest <= 0:
        matters |= best(-gains) + np.maximum(-gains, 0) >= 1 - min(highest, 0)
    return matters


def encode(network: RateNetwork, queries: Sequence[RateQuery]) -> RateEncoding:
    """Encodes queries of growing budgets about one input for incremental solving.

    Args:
      network: the network.
      queries: same input, label and reading of ties; budgets do not shrink.

    Raises:
      ValueError: queries that are not nested.
    """
    if not queries:
        raise ValueError("encode needs at least one query")
    for inner, outer in itertools.pairwise(queries):
        same = np.array_equal(inner.spikes, outer.spikes)
        if not same or (inner.label, inner.tie) != (outer.label, outer.tie):
            raise ValueError("queries must be about one input, label and tie")
        if inner.max_flips > outer.max_flips:
            raise ValueError("budgets of nested queries must not shrink")
    widest = queries[-1]
    encoder = _Encoder(network, widest)
    problem = encoder.problem
    problem.add_clause(*_violations(encoder, widest))
    flips = [(1, lit) for lit in encoder.flips.values()]
    assumptions = []
    for query in queries:
        selected = problem.new_variable()
        problem.add_clause(-selected, -problem.at_least(flips, query.max_flips + 1))
        levels = encoder.levels if query is widest else propagate(network, query)
        for (depth, neuron, step), lit in encoder.literals.items():
            if levels[depth - 1].must[step, neuron]:
                problem.add_clause(-selected, lit)
            elif not levels[depth - 1].may[step, neuron]:
                problem.add_clause(-selected, -lit)
        assumptions.append((selected,))
    return RateEncoding(problem, tuple(queries), tuple(assumptions), encoder.flips)


def _violations(encoder: _Encoder, query: RateQuery) -> list[int]:
    """For each other class, the literal of "it spikes often enough to beat it"."""
    depth, network = len(encoder.network.layers), encoder.network
    lead = query.lead(network.num_classes)
    steps = range(network.num_steps)
    label = [(-1, encoder.spiked(depth, query.label, step)) for step in steps]
    return [
        encoder.problem.at_least(
            [*label, *((1, encoder.spiked(depth, other, step)) for step in steps)],
            int(lead[other]),
        )
        for other in range(network.num_classes)
        if other != query.label
    ]
