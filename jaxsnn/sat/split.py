"""Decides L1 balls by splitting them: which unit move comes first?

Fix an order of the unit moves "input `i` one step earlier" and "one step later". Every
point of an L1 ball other than its centre has a first move in that order that leads
towards it. Those that share it lie in the ball around the moved centre with a budget
smaller by one, in which the moves before it stay undone. Bounds are much tighter there,
and once the moves that matter most are through, they prove all the rest at one go.

With enough parts the search is complete. What proves robustness is the tree of moves
alone; `jaxsnn.sat.check.split` follows it.
"""

import dataclasses
import json
from typing import NamedTuple

import numpy as np

from jaxsnn.sat import intervals, replay
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Robust
from jaxsnn.sat.spec import Dense, IntegerNetwork

# Parts that are tried by default. Each costs one interval propagation.
MAX_PARTS = 256


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


def decide(
    network: IntegerNetwork, query: Query, max_parts: int = MAX_PARTS
) -> Decided:
    """Decides a query by parts, as far as `max_parts` go.

    Args:
      network: the network.
      query: a query to which this `applies`.
      max_parts: limit of the interval propagations.

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
    search = _Search(_restricted(network, kept), max_parts)
    try:
        split = search.prove(_restricted_query(query, kept))
    except _Broken as broken:
        steps = query.spike_steps.copy()
        steps[kept] = broken.spike_steps
        return Decided(None, steps, search.num_parts)
    except _GaveUp:
        return Decided(None, None, search.num_parts)
    return Decided(_named(split or Split((), ()), kept), None, search.num_parts)


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


def without(query: Query, move: Move) -> Query:
    """Returns the part of a ball in which a move is not made."""
    low, high = query.low.copy(), query.high.copy()
    closed = low if move.direction < 0 else high
    closed[move.input] = query.spike_steps[move.input]
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


class _Search:
    """Depth first, what matters most first."""

    def __init__(self, network: IntegerNetwork, max_parts: int) -> None:
        self.network = network
        self.max_parts = max_parts
        self.num_parts = 0

    def prove(self, query: Query) -> Split | None:
        """Returns how a ball splits into provable parts, None if it needs not."""
        if self._proved(query):
            return None
        if replay.falsifies(self.network, query, query.spike_steps):
            raise _Broken(query.spike_steps)
        moves, parts = [], []
        for move in self._moves(query):
            parts.append(self.prove(part(query, move)))
            moves.append(move)
            query = without(query, move)
            if self._proved(query):
                return Split(tuple(moves), tuple(parts))
        raise AssertionError("intervals must decide a single point")

    def _proved(self, query: Query) -> bool:
        if self.num_parts >= self.max_parts:
            raise _GaveUp
        self.num_parts += 1
        return intervals.proves(self.network, query)

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
