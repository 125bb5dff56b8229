"""Literals that say that the outputs break what a query requires."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxsnn.sat.pseudo_boolean import TRUE, Problem
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Tie


class Outputs(NamedTuple):
    """The output spikes of one run.

    Attributes:
      low: `[C]` the earliest step of each.
      high: `[C]` the latest.
      spiked: the literal of "this output spikes at this step or before"; true at the
        forced spike.
    """

    low: np.ndarray
    high: np.ndarray
    spiked: Callable[[int, int], int]


def violations(problem: Problem, query: Query, runs: list[Outputs]) -> list[int]:
    """Returns literals each of which is true only if the requirement is broken.

    Args:
      problem: receives constraints.
      query: the query.
      runs: one; the other network's second for `Alike`, that of the input moved
        earlier second for `Monotone`.

    Guarantees:
      Wherever the requirement is broken at least one of them is true.
    """
    match query.requires:
        case Latency(max_step, of_label):
            classes = [query.label] if of_label else range(len(runs[0].low))
            waits = [-runs[0].spiked(each, max_step) for each in classes]
            return [_all(problem, waits)]
        case Monotone(_, output):
            sooner, later = runs[1], runs[0]
            return [_earlier(problem, later, output, sooner, output, 0)]
        case Alike():
            return _differs(problem, query.tie, *runs)
    tolerance = query.tolerance(len(runs[0].low))
    return [
        _earlier(problem, runs[0], other, runs[0], query.label, int(tolerance[other]))
        for other in range(len(tolerance))
        if other != query.label and query.target in (None, other)
    ]


def _earlier(
    problem: Problem, run: Outputs, one: int, other_run: Outputs, other: int, lead: int
) -> int:
    """`fire_one < fire_other + lead`: one has by `t`, the other not by `t - lead`."""
    latest = int(other_run.high[other]) - 1 + lead
    return problem.disjunction(
        _all(
            problem,
            [run.spiked(one, step), -other_run.spiked(other, step - lead)],
        )
        for step in range(int(run.low[one]), latest + 1)
    )


def _differs(problem: Problem, tie: Tie, ours: Outputs, theirs: Outputs) -> list[int]:
    first = [_first(problem, run) for run in (ours, theirs)]
    pairs = list(zip(*first, strict=True))
    if tie is Tie.S4NN:
        return [_all(problem, [-_all(problem, pair) for pair in pairs])]
    if tie is Tie.ARGMIN:
        # The lowest index among the first: first, and none below it is.
        first = [
            [
                _all(problem, [lit, *(-below for below in lits[:index])])
                for index, lit in enumerate(lits)
            ]
            for lits in first
        ]
        pairs = list(zip(*first, strict=True))
    return [_all(problem, pair) for a, b in pairs for pair in ((a, -b), (-a, b))]


def _first(problem: Problem, run: Outputs) -> list[int]:
    """For each class a literal equivalent to "none spikes before it"."""
    classes = range(len(run.low))
    begin, end = int(run.low.min()), int(run.high.min())
    # Nobody before `begin`, somebody by `end`.
    anyone = {
        step: problem.disjunction(run.spiked(each, step) for each in classes)
        for step in range(begin, end)
    }
    anyone[end] = TRUE
    return [
        problem.disjunction(
            _all(
                problem,
                [run.spiked(each, step), -anyone.get(step - 1, -TRUE)],
            )
            for step in range(begin, end + 1)
        )
        for each in classes
    ]


def _all(problem: Problem, lits: list[int] | tuple[int, ...]) -> int:
    return problem.at_least([(1, lit) for lit in lits], len(lits))
