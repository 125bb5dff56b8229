"""Decides L1 balls by splitting them: which unit move comes first?

Fix an order of the unit moves "input `i` one step earlier" and "one step later". Every
point of an L1 ball other than its centre has a first move in that order that leads
towards it. Those that share it lie in the ball around the moved centre with a budget
smaller by one, in which the moves before it stay undone. Bounds are much tighter there,
and once the moves that matter most are through, they prove all the rest at one go.

The search goes level by level, so that many balls are bounded at a time, and finds out
by bisection how many moves must come first before the rest is proved. With enough parts
it is complete. What proves robustness is the tree of moves alone;
`jaxsnn.sat.check.split` follows it.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.sat import intervals, replay
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Robust
from jaxsnn.sat.spec import Dense, IntegerNetwork

# Parts that are tried by default. Each costs one interval propagation.
MAX_PARTS = 1024

# Which of some balls bounds prove for a network.
Prove = Callable[[IntegerNetwork, Sequence[Query]], Sequence[bool]]


class Move(NamedTuple):
    """One input moves one step."""

    input: int
    direction: int  # -1 earlier, 1 later


class Split(NamedTuple):
    """A ball in parts, one for each move that comes first; intervals prove the rest."""

    moves: tuple[Move, ...]
    parts: tuple["Split | None", ...]  # None where intervals prove the part


class Decided(NamedTuple):
    """How a query was decided: by one of the first two, or not at all."""

    split: Split | None  # without moves where intervals prove the ball as it is
    counterexample: np.ndarray | None
    num_parts: int  # balls whose intervals were propagated


def applies(network: IntegerNetwork, query: Query) -> bool:
    """Whether a query is robustness within a total shift, of a dense first layer."""
    return (
        isinstance(query.requires, Robust)
        and query.max_total_shift is not None
        and query.max_changed is None
        and not (query.max_dropped or query.max_inserted)
        and isinstance(network.layers[0], Dense)
        and network.layers[0].synapses().instant
    )


def prove_each(network: IntegerNetwork, queries: Sequence[Query]) -> list[bool]:
    """Returns which balls intervals prove, one after the other."""
    return [intervals.proves(network, query) for query in queries]


def decide(
    network: IntegerNetwork,
    query: Query,
    max_parts: int = MAX_PARTS,
    prove: Prove = prove_each,
    batch: int = 1,
) -> Decided:
    """Decides a query by parts, as far as `max_parts` go.

    Args:
      network: the network.
      query: a query to which this `applies`.
      max_parts: limit of the balls that are bounded.
      prove: bounds them; no wider than `prove_each`, or the proof will not be followed.
      batch: how many at a time cost about as much as one.

    Returns:
      A split that proves the query, or a counterexample, not yet replayed, or neither.

    >>> layer = Dense(np.array([[2, 0], [0, 1]]), np.array([1, 1]))
    >>> network = IntegerNetwork((layer,), num_steps=6)
    >>> steps = np.array([1, 3])
    >>> query = Query(steps, steps - 1, steps + 2, label=0, max_total_shift=2)
    >>> decide(network, query).split
    Split(moves=(), parts=())
    """
    kept = np.flatnonzero(query.low <= network.last_informative_step(0))
    search = _Search(_restricted(network, kept), max_parts, prove, batch)
    try:
        split = search.split(_restricted_query(query, kept))
    except _Broken as broken:
        steps = query.spike_steps.copy()
        steps[kept] = broken.spike_steps
        return Decided(None, steps, search.num_parts)
    except _GaveUp:
        return Decided(None, None, search.num_parts)
    return Decided(_named(split, kept), None, search.num_parts)


def part(query: Query, move: Move) -> Query:
    """Returns the part of a ball in which a move is made."""
    steps, low, high = query.spike_steps.copy(), query.low.copy(), query.high.copy()
    steps[move.input] += move.direction
    closed = high if move.direction < 0 else low
    closed[move.input] = steps[move.input]
    assert query.max_total_shift is not None
    return dataclasses.replace(
        query,
        spike_steps=steps,
        low=low,
        high=high,
        max_total_shift=query.max_total_shift - 1,
    )


def without(query: Query, moves: Sequence[Move]) -> Query:
    """Returns the part of a ball in which none of the moves is made."""
    low, high = query.low.copy(), query.high.copy()
    for index, direction in moves:
        closed = low if direction < 0 else high
        closed[index] = query.spike_steps[index]
    return dataclasses.replace(query, low=low, high=high)


def to_json(split: Split) -> str:
    """Returns a split as `jaxsnn.sat.check.split` reads it."""
    return json.dumps(_lists(split), separators=(",", ":"))


def _lists(split: Split | None) -> list:
    if split is None:
        return []
    return [
        [*move, _lists(below)]
        for move, below in zip(split.moves, split.parts, strict=True)
    ]


class _Broken(Exception):
    def __init__(self, spike_steps: np.ndarray) -> None:
        self.spike_steps = spike_steps


class _GaveUp(Exception):
    pass


class _Node:
    """A ball that bounds do not prove, and how many of its moves must come first."""

    def __init__(self, query: Query, moves: Sequence[Move]) -> None:
        self.query = query
        self.moves = moves
        self.too_few = 0  # so many do not prove the rest
        self.enough: int | None = None  # so many do
        self.children: list[_Node | None] = []

    def probes(self, count: int) -> list[int]:
        """Numbers of moves to try next: ever more, then those in between."""
        if self.enough is None:
            next_one = max(1, 2 * self.too_few)
            ahead = {next_one * 2**n for n in range(count)}
            return sorted({min(number, len(self.moves)) for number in ahead})
        gap = self.enough - self.too_few
        steps = range(1, count + 1)
        between = {self.too_few + gap * n // (count + 1) for n in steps}
        return sorted(between - {self.too_few} or {self.too_few + 1})

    def learn(self, number: int, proved: bool) -> None:
        """Takes note of whether the rest after so many moves is proved."""
        if proved:
            self.enough = min(number, self.enough or number)
        else:
            self.too_few = max(number, self.too_few)

    def parts(self) -> list[Query]:
        """The balls of the moves that come first, each without those before it."""
        return [
            part(without(self.query, self.moves[:number]), self.moves[number])
            for number in range(self.enough or 0)
        ]

    def tree(self) -> Split:
        return Split(
            tuple(self.moves[: self.enough]),
            tuple(None if child is None else child.tree() for child in self.children),
        )


class _Search:
    """Level by level: the balls of a level have the same budget left."""

    def __init__(
        self, network: IntegerNetwork, max_parts: int, prove: Prove, batch: int
    ) -> None:
        self.network = network
        self.max_parts = max_parts
        self.prove = prove
        self.batch = batch
        self.num_parts = 0

    def split(self, query: Query) -> Split:
        """Returns how a ball splits into provable parts."""
        if self._proved([query])[0]:
            return Split((), ())
        root = self._node(query)
        level = [root]
        while level:
            self._count_moves(level)
            parts = [node.parts() for node in level]
            proved = iter(self._proved([each for some in parts for each in some]))
            for node, some in zip(level, parts, strict=True):
                node.children = [
                    None if next(proved) else self._node(each) for each in some
                ]
            level = [child for node in level for child in node.children if child]
        return root.tree()

    def _node(self, query: Query) -> _Node:
        if replay.falsifies(self.network, query, query.spike_steps):
            raise _Broken(query.spike_steps)
        return _Node(query, self._moves(query))

    def _count_moves(self, level: Sequence[_Node]) -> None:
        """Finds the fewest moves of each ball after which bounds prove the rest."""
        pending = list(level)
        while pending:
            count = max(1, self.batch // len(pending))
            asked = [(node, k) for node in pending for k in node.probes(count)]
            rests = [without(node.query, node.moves[:k]) for node, k in asked]
            for (node, k), proved in zip(asked, self._proved(rests), strict=True):
                if k == len(node.moves) and not proved:
                    raise AssertionError("intervals must decide a single point")
                node.learn(k, proved)
            pending = [
                node
                for node in pending
                if node.enough is None or node.enough > node.too_few + 1
            ]

    def _proved(self, queries: Sequence[Query]) -> Sequence[bool]:
        if self.num_parts + len(queries) > self.max_parts:
            raise _GaveUp
        self.num_parts += len(queries)
        return self.prove(self.network, queries)

    def _moves(self, query: Query) -> list[Move]:
        """All moves that lead anywhere, those near undecided potentials first."""
        layer = self.network.layers[0]
        assert isinstance(layer, Dense)
        last = self.network.last_informative_step(0)
        lowest, highest = intervals.input_potentials(
            layer, query, self.network.num_steps
        )
        thresholds = layer.thresholds[:, None]
        undecided = (lowest <= thresholds) & (highest > thresholds)
        share = undecided / np.maximum(highest - lowest, 1)  # [N, T]
        weight = np.abs(layer.weights).T @ share  # [D, T]
        clean = query.spike_steps
        inputs = np.arange(len(clean))
        earlier = (query.low < clean) & (query.low <= last)
        later = (query.high > clean) & (clean <= last)
        ranked = [
            (weight[i, min(clean[i] - 1, last)], Move(int(i), -1))
            for i in inputs[earlier]
        ]
        ranked += [(weight[i, clean[i]], Move(int(i), 1)) for i in inputs[later]]
        return [move for _, move in sorted(ranked, key=lambda one: -one[0])]


def _restricted(network: IntegerNetwork, kept: np.ndarray) -> IntegerNetwork:
    """The network of the inputs that can be told apart from silent ones."""
    first = network.layers[0]
    assert isinstance(first, Dense)
    return dataclasses.replace(
        network,
        layers=(
            dataclasses.replace(first, weights=first.weights[:, kept]),
            *network.layers[1:],
        ),
    )


def _restricted_query(query: Query, kept: np.ndarray) -> Query:
    return dataclasses.replace(
        query,
        spike_steps=query.spike_steps[kept],
        low=query.low[kept],
        high=query.high[kept],
    )


def _named(split: Split, kept: np.ndarray) -> Split:
    """Numbers the inputs as the whole network does."""
    moves = tuple(Move(int(kept[move.input]), move.direction) for move in split.moves)
    return Split(
        moves,
        tuple(None if each is None else _named(each, kept) for each in split.parts),
    )
