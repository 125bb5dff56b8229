"""Checks that boxes were halved without a gap, and that lines bound every part.

A tree says that an output does not spike at a step: its halves cover the windows of the
inputs, as one half has the steps up to some step of an input and the other the later
ones. In each leaf every hidden neuron gets a line above what its spike can add to the
output's potential. Where lines come from is no matter: here each is tried on all that
its neuron can do, crossing or not, and their sum is maximised over the leaf.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.intervals import Claim, check_decided
from jaxsnn.sat.intervals import Interval
from jaxsnn.sat.linear_bounds import Output
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Robust
from jaxsnn.sat.spec import Dense, IntegerNetwork

_BATCH = 1024
# Potentials are integers, so that a bound may be this much above the threshold; sums of
# a few thousand float64 products of integers below 2^24 are wrong by far less.
_SLACK = 0.75
_ROUNDING = 1e-6


def check_branches(
    network: IntegerNetwork, query: Query, claims: Sequence[Claim], text: str
) -> int:
    """Confirms that a query is robust by trees of halves.

    Args:
      network: the network.
      query: robustness within windows; budgets are left out of account.
      claims: intervals that hold, one for each layer.
      text: trees as JSON: a list of `[output, step, splits]`, each split a
        `[node, input, step]`. For each output, steps begin at its earliest and follow
        one another.

    Returns:
      The number of leaves that were checked.

    Raises:
      ProofError: it is no such list, or a leaf does not follow.
    """
    plain = isinstance(query.requires, Robust) and not (
        query.max_dropped or query.max_inserted
    )
    layers = network.layers
    if not plain or len(layers) != 2:
        raise ProofError("only robustness of two layers is branched over")
    if not all(isinstance(one, Dense) and one.synapses().instant for one in layers):
        raise ProofError("only dense layers are branched over")
    try:
        trees = json.loads(text)
    except (ValueError, RecursionError):
        raise ProofError("the trees are no JSON") from None
    hidden, outputs = claims
    earliest = outputs.low.copy()
    count = 0
    for entry in trees if type(trees) is list else [trees]:
        output, spike, splits = _read(entry, len(earliest))
        if spike != earliest[output] or spike >= network.num_steps - 1:
            raise ProofError(
                f"output {output}: a tree is about step {spike}, not about its earliest"
            )
        tree = _Tree(network, query, hidden, output, spike)
        count += tree.check(splits)
        earliest[output] += 1
    check_decided(query, [Claim(earliest, outputs.high)])
    return count


def _read(entry: Any, num_outputs: int) -> tuple[int, int, np.ndarray]:
    if type(entry) is not list or len(entry) != 3 or type(entry[2]) is not list:
        raise ProofError(f"{str(entry)[:40]} is no tree")
    output, spike, splits = entry
    if type(output) is not int or not 0 <= output < num_outputs:
        raise ProofError(f"{output} is no output")
    if type(spike) is not int:
        raise ProofError(f"{spike} is no step")
    for split in splits:
        if type(split) is not list or [type(n) for n in split] != [int, int, int]:
            raise ProofError(f"{str(split)[:40]} is no split")
    return output, spike, np.array(splits, np.int64).reshape(-1, 3)


class _Tree:
    """One output and step; arrays are over leaves, steps, and neurons or inputs."""

    def __init__(
        self,
        network: IntegerNetwork,
        query: Query,
        hidden: Claim,
        output: int,
        spike: int,
    ) -> None:
        first, second = network.layers
        assert isinstance(first, Dense)
        assert isinstance(second, Dense)
        # To spike at `spike` the output crosses a step before, on hidden neurons that
        # had spiked by then, which crossed before that.
        self._lines = Output(network, query, Interval(*hidden), output, spike)
        self._steps = np.arange(spike - 1)
        self._columns = np.flatnonzero(query.low < spike - 1)  # others come too late
        self._low = query.low[self._columns].astype(np.int32)
        self._high = query.high[self._columns].astype(np.int32)
        self._threshold = int(second.thresholds[output])
        scores = second.weights[output]
        sure, may = hidden.high <= spike - 1, hidden.low <= spike - 1
        self._constant = int(scores[sure].sum())
        self._rows = np.flatnonzero(may & ~sure)
        self._scores = scores[self._rows]
        weights = first.weights[np.ix_(self._rows, self._columns)]
        self._weights = weights.T.astype(np.float64)  # [D, H]
        # Potentials less this are above zero exactly where a neuron crosses.
        self._offset = first.thresholds[self._rows] + 0.5
        self._movable = np.isin(self._columns, self._lines.inputs)

    def check(self, splits: np.ndarray) -> int:
        """Confirms all leaves, and returns their number."""
        places = {int(index): k for k, index in enumerate(self._columns)}
        boxes = {0: (self._low, self._high)}  # those of leaves so far
        for number, (node, index, at) in enumerate(splits.tolist()):
            if node not in boxes:
                raise ProofError(f"node {node} cannot be split")
            low, high = boxes.pop(node)
            place = places.get(index)
            if place is None:
                raise ProofError(f"input {index} comes too late to be split")
            if not low[place] <= at < min(high[place], len(self._steps)):
                raise ProofError(f"input {index} cannot be split at step {at}")
            sooner, later = high.copy(), low.copy()
            sooner[place], later[place] = at, at + 1
            boxes[2 * number + 1] = (low, sooner)
            boxes[2 * number + 2] = (later, high)
        leaves = list(boxes.values())
        for start in range(0, len(leaves), _BATCH):
            batch = leaves[start : start + _BATCH]
            self._check_leaves(
                np.stack([low for low, _ in batch]),
                np.stack([high for _, high in batch]),
            )
        return len(leaves)

    def _check_leaves(self, low: np.ndarray, high: np.ndarray) -> None:
        come = high[:, None, :] <= self._steps[:, None]  # [B, K, D]
        may = (low[:, None, :] <= self._steps[:, None]) & ~come
        weights = self._weights
        fixed = come.astype(np.float64) @ weights - self._offset
        lowest = fixed + may.astype(np.float64) @ np.minimum(weights, 0)
        highest = fixed + may.astype(np.float64) @ np.maximum(weights, 0)
        sure = np.asarray((lowest > 0).any(axis=1))
        slopes, constants = self._lines.lines(
            low[:, self._movable],
            np.minimum(high[:, self._movable], len(self._steps)),
        )
        slopes = np.where(sure[:, None], 0, slopes)
        constants = np.where(sure, self._scores, constants)
        self._check_lines(slopes, constants, lowest, highest, sure)
        gains = (slopes @ weights.T) * may
        # What an input adds when it comes at a step, or after all of them.
        reward = np.cumsum(gains[:, ::-1], axis=1)[:, ::-1]
        most = np.where(may, reward, -np.inf).max(axis=1)
        bound = self._constant + constants.sum(axis=1)
        bound += (slopes * fixed).sum(axis=(1, 2)) + np.maximum(most, 0).sum(axis=1)
        if not (bound < self._threshold + _SLACK).all():
            raise ProofError(
                f"the potential may come to {bound.max():.1f} in a leaf, above the "
                f"threshold {self._threshold}"
            )

    def _check_lines(
        self,
        slopes: np.ndarray,
        constants: np.ndarray,
        lowest: np.ndarray,
        highest: np.ndarray,
        sure: np.ndarray,
    ) -> None:
        """Confirms that lines are above what neurons add, whatever potentials are."""
        anywhere = np.minimum(slopes * lowest, slopes * highest)
        below = np.minimum(highest, -0.5)
        silent = np.minimum(slopes * lowest, slopes * below).sum(axis=1)
        wrong = ~sure & (constants + silent < -_ROUNDING)
        crosses = np.maximum(lowest, 0.5)
        here = np.minimum(slopes * crosses, slopes * highest)
        crossing = constants[:, None] + anywhere.sum(axis=1)[:, None] - anywhere + here
        wrong |= ~sure & ((highest > 0) & (crossing < self._scores - _ROUNDING)).any(
            axis=1
        )
        if wrong.any():
            neuron = int(self._rows[wrong.any(axis=0)][0])
            raise ProofError(f"a line of hidden neuron {neuron} is too low")
