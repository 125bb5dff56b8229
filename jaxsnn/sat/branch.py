"""Decides windows of inputs by branching: halves of a box, each bounded linearly.

Where many inputs may come at once, a hidden neuron's first potentials range over sums
of any subset of them, and solvers are at a loss. Here the box of inputs is halved until
linear bounds (`jaxsnn.sat.linear_bounds`) show of every part that a rival of the label
does not cross its threshold just before a given step. Step after step, each rival is
shown to spike ever later, in the end later than the label ever does.

What shows that a query is robust is the tree of halves of each rival and step;
`jaxsnn.sat.check.branch` follows it.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.sat import intervals, replay
from jaxsnn.sat.linear_bounds import Output
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Robust
from jaxsnn.sat.spec import Dense, IntegerNetwork

# Boxes bounded together: enough for NumPy to be busy, few enough for the cache.
_BATCH = 2048
# Each pass gives every rival so many boxes, then those left more: most need few.
_FIRST_BOXES, _GROWTH = 2_000, 8


def applies(network: IntegerNetwork, query: Query) -> bool:
    """Whether a query is robustness within windows alone, of two dense layers."""
    return (
        isinstance(query.requires, Robust)
        and query.max_total_shift is None
        and query.max_changed is None
        and not (query.max_dropped or query.max_inserted)
        and len(network.layers) == 2
        and all(
            isinstance(layer, Dense) and layer.synapses().instant
            for layer in network.layers
        )
    )


class Tree(NamedTuple):
    """Halves of the box that show that an output does not spike at a step.

    Nodes are numbered as they come: the root is 0, and the halves that the `k`-th split
    makes are `2 k + 1` (the input comes at the step or before) and `2 k + 2` (later).

    Attributes:
      output: the output.
      spike: the step.
      splits: `[M, 3]` node, input and step of each.
    """

    output: int
    spike: int
    splits: np.ndarray


class Branching:
    """Goes on with one query for as long as it is asked to.

    One hidden neuron spikes soon if the first input does, the other if it does not; the
    second output waits for both:

    >>> from jaxsnn.sat.query import Tie
    >>> hidden = Dense(np.array([[2, 0], [-2, 2]]), np.array([1, 1]))
    >>> outputs = Dense(np.array([[2, 0], [1, 1]]), np.array([1, 1]))
    >>> network = IntegerNetwork((hidden, outputs), num_steps=8)
    >>> steps = np.array([0, 0])
    >>> query = Query(steps, steps, steps + [1, 0], label=0, tie=Tie.ARGMIN)
    >>> intervals.propagate(network, query)[-1].low.tolist()
    [2, 2]
    >>> branching = Branching(network, query)
    >>> branching.run(seconds=10.0)
    >>> branching.earliest.tolist(), branching.proved
    ([2, 3], True)

    Attributes:
      earliest: for each output the earliest step at which it can spike, as known.
      trees: what shows that.
      counterexample: `[D]` spike steps that were replayed, or None.
      num_boxes: that were bounded so far.
    """

    def __init__(self, network: IntegerNetwork, query: Query) -> None:
        """Begins with the intervals.

        Args:
          network: the network.
          query: a query to which this `applies`.
        """
        self._network, self._query = network, query
        self._levels = intervals.propagate(network, query)
        self.earliest = self._levels[-1].low.copy()
        self.trees: list[Tree] = []
        self.counterexample: np.ndarray | None = None
        self.num_boxes = 0
        # A rival counts only where it spikes before this.
        latest = int(self._levels[-1].high[query.label])
        self._counts_before = latest + query.tolerance(len(self.earliest))
        self._rivals = [
            output
            for output in range(len(self.earliest))
            if output != query.label
            and query.target in (None, output)
            and self.earliest[output] < self._counts_before[output]
        ]
        self.proved = not self._rivals
        self._waiting = list(self._rivals)
        self._searches: dict[int, _Search] = {}
        self._limit = _FIRST_BOXES

    @property
    def ended(self) -> bool:
        """Whether more time changes nothing."""
        return self.counterexample is not None or not self._waiting

    def run(self, seconds: float) -> None:
        """Searches for as long, or until it ended."""
        deadline = time.monotonic() + seconds
        while not self.ended:
            left: list[int] = []
            for position, output in enumerate(self._waiting):
                if time.monotonic() >= deadline:
                    self._waiting = left + self._waiting[position:]
                    return
                if self._delay(output, deadline):
                    left.append(output)
                if self.counterexample is not None:
                    return
            self._waiting = left
            self._limit *= _GROWTH
            self.proved = not self._rivals

    def _delay(self, output: int, deadline: float) -> bool:
        """Shows that an output is later and later; True if there is more to do."""
        last = self._network.num_steps - 1
        while self.earliest[output] < min(self._counts_before[output], last):
            spike = int(self.earliest[output])
            search = self._searches.setdefault(
                output,
                _Search(
                    Output(self._network, self._query, self._levels[1], output, spike)
                ),
            )
            before = search.num_boxes
            search.run(self._limit, deadline)
            self.num_boxes += search.num_boxes - before
            if search.reached is not None:
                steps = _spike_steps(self._query, search.output, search.reached)
                if replay.falsifies(self._network, self._query, steps):
                    self.counterexample = steps
                return False  # it can be that early, if only after the label
            if not search.ended:
                return True
            self.trees.append(Tree(output, spike, search.splits()))
            del self._searches[output]
            self.earliest[output] += 1
        # The forced spike comes, however late; it may yet be no later than the label's.
        if self.earliest[output] >= self._counts_before[output]:
            self._rivals.remove(output)
        return False


def to_json(trees: Sequence[Tree]) -> str:
    """Returns trees as `jaxsnn.sat.check.branch` reads them."""
    lists = [[tree.output, tree.spike, tree.splits.tolist()] for tree in trees]
    return json.dumps(lists, separators=(",", ":"))


def _spike_steps(query: Query, output: Output, steps: np.ndarray) -> np.ndarray:
    """Spike steps of all inputs; where they do not matter they move the least."""
    found = query.spike_steps.copy()
    late = np.maximum(found[output.inputs], output.num_steps)
    late = np.minimum(late, query.high[output.inputs])
    found[output.inputs] = np.where(steps >= output.num_steps, late, steps)
    return found


@dataclasses.dataclass
class _Part:
    """Boxes, and their numbers in the tree."""

    low: np.ndarray  # [B, n]
    high: np.ndarray  # [B, n]
    nodes: np.ndarray  # [B]

    def __getitem__(self, chosen: slice | np.ndarray) -> "_Part":
        return _Part(self.low[chosen], self.high[chosen], self.nodes[chosen])


class _Search:
    """Whether one output may cross just before one step: depth first, in batches."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.num_boxes = 0
        self.reached: np.ndarray | None = None  # [n] an input on which it crosses
        low, high = (end.astype(np.int32) for end in (output.low, output.high))
        root = _Part(low[None], high[None], np.zeros(1, np.int64))
        self._stack = [root]
        self._splits: list[np.ndarray] = []
        self._num_splits = 0

    @property
    def ended(self) -> bool:
        return not self._stack or self.reached is not None

    def splits(self) -> np.ndarray:
        """`[M, 3]`, see `Tree`."""
        return np.concatenate([np.zeros((0, 3), np.int64), *self._splits])

    def run(self, max_boxes: int, deadline: float) -> None:
        """Goes on until it ended, or has bounded so many boxes, or time is up."""
        # Potentials are integers; half a unit is to spare for rounding.
        most = self.output.threshold + 0.5
        while not self.ended:
            if self.num_boxes >= max_boxes or time.monotonic() >= deadline:
                return
            part = self._stack.pop()
            if len(part.low) > _BATCH:
                self._stack.append(part[:-_BATCH])
                part = part[-_BATCH:]
            self.num_boxes += len(part.low)
            bounds = self.output.bound(part.low, part.high)
            left = bounds.upper > most
            if not left.any():
                continue
            part, best = part[left], bounds.best[left]
            values = self.output.values(best)
            if values.max() > most:
                self.reached = best[values.argmax()]
                return
            self._stack.append(self._halves(part, bounds.spread[left], best))

    def _halves(self, part: _Part, spread: np.ndarray, best: np.ndarray) -> _Part:
        """Splits each box at the input that matters most; promising halves last."""
        rows = np.arange(len(spread))
        chosen = spread.argmax(axis=1)
        at = np.minimum(best[rows, chosen], part.high[rows, chosen] - 1)
        at = np.maximum(at, part.low[rows, chosen])
        splits = np.stack([part.nodes, self.output.inputs[chosen], at], axis=1)
        sooner, later = part.high.copy(), part.low.copy()
        sooner[rows, chosen], later[rows, chosen] = at, at + 1
        numbers = 2 * (self._num_splits + rows) + 1
        self._splits.append(splits)
        self._num_splits += len(splits)
        first = best[rows, chosen] <= at  # the sooner half is the promising one
        both = [
            _Part(
                np.where(one[:, None], part.low, later),
                np.where(one[:, None], sooner, part.high),
                np.where(one, numbers, numbers + 1),
            )
            for one in (~first, first)
        ]
        return _Part(
            *(
                np.concatenate([getattr(one, name) for one in both])
                for name in ("low", "high", "nodes")
            )
        )
