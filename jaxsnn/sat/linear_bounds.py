"""Linear bounds on the potential of an output, over boxes of inputs, in NumPy.

A hidden neuron's spike is a step function of its potential: below the line from nothing
at the lowest potential to one at the threshold, above the line from nothing at the
threshold to one at the highest (the triangle relaxation of Ehlers, arXiv 1705.01320,
for steps). A sum of such lines is linear in the order literals of the inputs, so that
its maximum over a box is found input by input. Boxes are bounded in batches.
"""

from typing import NamedTuple

import numpy as np

from jaxsnn.sat import intervals
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import Dense, IntegerNetwork

# Choices of lines for a box. On nine outputs of 32_784_512_10 three choices took a
# fifth of the boxes that one took, and more than three nearly as many as three.
_NUM_CHOICES = 3
# What narrower potentials count beside the spread of the bound itself when an input is
# chosen; anything from 0.5 to 6 took fewer boxes than nothing did.
_NARROWING = 2.0


class Bounds(NamedTuple):
    """Bounds of a batch of `B` boxes, and where their maxima are."""

    upper: np.ndarray  # [B] no input reaches more
    spread: np.ndarray  # [B, n] how much hangs on each input, negative if nothing can
    best: np.ndarray  # [B, n] the most promising step of each input


class Lines(NamedTuple):
    """`score * spiked <= constant + sum over K of slope * potential`, by neuron."""

    slopes: np.ndarray  # [B, K, H]
    constants: np.ndarray  # [B, H]


class Potentials(NamedTuple):
    """Extreme potentials of hidden neurons, less threshold and a half.

    These are integers and a half, above zero where a neuron crosses. Of a neuron that
    surely crosses at one step, what it may do at others no longer counts.
    """

    fixed: np.ndarray  # [B, K, H] by the inputs that surely have come
    lowest: np.ndarray  # [B, K, H]
    highest: np.ndarray  # [B, K, H]
    sure: np.ndarray  # [B, H] crosses at one step or another
    may: np.ndarray  # [B, K, H] may cross here, and is not sure


class Output:
    """The potential of one output just before it would spike at a given step.

    Arrays are over boxes (`B`), the inputs that can matter (`n`), the hidden neurons
    that may have spiked by then (`H`), and the steps at which they may have crossed
    (`K`). An input that comes at step `K` or later does not matter; in boxes, `K`
    stands for all such steps.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        query: Query,
        hidden_levels: intervals.Interval,
        output: int,
        spike: int,
    ) -> None:
        hidden, outputs = network.layers
        assert isinstance(hidden, Dense)
        assert isinstance(outputs, Dense)
        step = spike - outputs.delay  # at which the potential must cross
        self.num_steps = step - hidden.delay + 1
        sure = hidden_levels.high <= step
        rows = np.flatnonzero((hidden_levels.low <= step) & ~sure)
        reached = query.low < self.num_steps
        self.inputs = np.flatnonzero(reached & (query.high > query.low))
        fixed = np.flatnonzero(reached & (query.high == query.low))
        weights = hidden.weights[rows]
        self.weights = weights[:, self.inputs].astype(np.float64)
        self._rise = np.maximum(self.weights, 0)
        self._fall = np.minimum(self.weights, 0)
        come = query.low[fixed, None] <= np.arange(self.num_steps)
        self.base = (
            (weights[:, fixed] @ come).T - hidden.thresholds[rows] - 0.5
        ).astype(np.float64)  # [K, H]
        self.scores = outputs.weights[output, rows].astype(np.float64)
        self.constant = float(outputs.weights[output, sure].sum())
        self.threshold = int(outputs.thresholds[output])
        self.low = query.low[self.inputs]
        self.high = np.minimum(query.high[self.inputs], self.num_steps)

    def values(self, steps: np.ndarray) -> np.ndarray:
        """Returns the exact potential `[B]` on single inputs `[B, n]`."""
        come = (steps[:, None] <= self._steps).astype(np.float64)
        crossed = (come @ self.weights.T + self.base > 0).any(axis=1)
        return self.constant + crossed @ self.scores

    def potentials(self, low: np.ndarray, high: np.ndarray) -> Potentials:
        """Returns extreme potentials over boxes, each `[B, n]`."""
        come, free = self._literals(low, high)
        fixed = come @ self.weights.T + self.base
        lowest = fixed + free @ self._fall.T
        highest = fixed + free @ self._rise.T
        sure = (lowest > 0).any(axis=1)
        return Potentials(fixed, lowest, highest, sure, (highest > 0) & ~sure[:, None])

    def bound(self, low: np.ndarray, high: np.ndarray) -> Bounds:
        """Returns bounds of the potential over boxes, each `[B, n]`."""
        return self._bound(low, high)[0]

    def lines(self, low: np.ndarray, high: np.ndarray) -> Lines:
        """Returns the lines behind the bounds of boxes, each `[B, n]`."""
        return self._bound(low, high, with_lines=True)[1]

    @property
    def _steps(self) -> np.ndarray:
        return np.arange(self.num_steps)[:, None]

    def _literals(
        self, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`[B, K, n]` each: the inputs that have surely come, and those that may."""
        come = (high[:, None] <= self._steps).astype(np.float64)
        return come, (low[:, None] <= self._steps) - come

    def _bound(
        self, low: np.ndarray, high: np.ndarray, with_lines: bool = False
    ) -> tuple[Bounds, Lines]:
        found = self.potentials(low, high)
        _, free = self._literals(low, high)
        total = self.constant + found.sure @ self.scores
        # Neurons that are decided in all boxes need no lines.
        rows = np.arange(len(self.scores))
        if not with_lines:
            rows = np.flatnonzero(found.may.any(axis=(0, 1)))
        choice = _Choice(self.scores[rows], found, rows)
        weights, fixed = self.weights[rows], found.fixed[..., rows]
        upper = total + choice.nothing_known().sum(axis=1)
        lines = Lines(np.zeros_like(fixed), choice.nothing_known())
        spread, best = np.zeros(low.shape), high
        # The point where lines are chosen: at first amidst the box.
        part = free * (self._steps - low[:, None] + 1) / (high - low + 1)[:, None]
        for number in range(_NUM_CHOICES):
            slopes, constants = choice.best_at(fixed + part @ weights.T)
            gains = (slopes @ weights) * free
            # An input that comes at a step gains what is gained there and later on.
            later = np.cumsum(gains[:, ::-1], axis=1)[:, ::-1]
            most = np.where(free > 0, later, -np.inf)
            least = np.where(free > 0, later, np.inf).min(axis=1)
            at = np.where(most.max(axis=1) > 0, most.argmax(axis=1), high)
            gained = np.maximum(most.max(axis=1), 0)
            bound = total + constants.sum(axis=1) + gained.sum(axis=1)
            bound += (slopes * fixed).sum(axis=(1, 2))
            better = (bound < upper) | (number == 0)
            hangs = gained - np.minimum(least, 0)
            spread = np.where(better[:, None], hangs, spread)
            best = np.where(better[:, None], at, best)
            if with_lines:
                better = bound < upper
                lines = Lines(
                    np.where(better[:, None, None], slopes, lines.slopes),
                    np.where(better[:, None], constants, lines.constants),
                )
            upper = np.minimum(upper, bound)
            # Anew where these lines lead to, by and by.
            goal = free * (at[:, None] <= self._steps)
            part = (part * (number + 1) + goal) / (number + 2)
        narrowing = (choice.shares() @ np.abs(weights) * free).sum(axis=1)
        spread = np.where(free.any(axis=1), spread + _NARROWING * narrowing, -1.0)
        return Bounds(upper, spread, best), lines


class _Choice:
    """The lines that there are for undecided hidden neurons.

    Of a neuron that adds, spikes are no more than the sum of the lines of all steps at
    which it may cross, or than one. Of one that takes away they are no fewer than the
    line of any one such step, or than none.
    """

    def __init__(self, scores: np.ndarray, found: Potentials, rows: np.ndarray) -> None:
        self._scores, self._adds = scores, scores > 0
        self._may = found.may[..., rows]
        self._undecided = self._may.any(axis=1)
        self._lowest, self._highest = found.lowest[..., rows], found.highest[..., rows]
        # At least one, and so never zero, wherever a neuron may cross or not.
        self._below = np.where(self._may, 0.5 - self._lowest, 1.0)
        self._above = np.where(self._may, self._highest + 0.5, 1.0)

    def nothing_known(self) -> np.ndarray:
        """`[B, H]`: what adds is there, what takes away is not."""
        return self._undecided * np.maximum(self._scores, 0)

    def shares(self) -> np.ndarray:
        """`[B, K, H]`: how much of a score a unit of potential stands for."""
        width = np.maximum(self._highest - self._lowest, 1)
        return np.where(self._may, np.abs(self._scores) / width, 0)

    def best_at(self, point: np.ndarray) -> Lines:
        """Returns the lines that are lowest at potentials `[B, K, H]`."""
        may, adds = self._may, self._adds
        spiked = np.where(may, (point - self._lowest) / self._below, 0).sum(axis=1)
        rising = may & adds & (spiked < 1)[:, None]
        slopes = np.where(rising, self._scores / self._below, 0)
        constants = (-self._lowest * slopes).sum(axis=1)
        full = self._undecided & adds & ~rising.any(axis=1)
        constants += np.where(full, self._scores, 0)
        spiked = np.where(may, (point + 0.5) / self._above, 0)
        first = np.arange(point.shape[1])[:, None] == spiked.argmax(axis=1)[:, None]
        falling = may & ~adds & first & (spiked > 0)
        falling_slopes = np.where(falling, self._scores / self._above, 0)
        constants += 0.5 * falling_slopes.sum(axis=1)
        return Lines(slopes + falling_slopes, constants)
