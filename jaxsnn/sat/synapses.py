"""Sparse rows of synapses: the one form of a layer that everything verifies.

A response is several synapses of one input here, each delayed to where it changes.
"""

from typing import NamedTuple

import numpy as np

from jaxsnn.sat.response import STEP, Response, changes


class Synapses(NamedTuple):
    """Incoming connections of a layer's neurons, one row a neuron.

    The synapses of neuron `n` are the positions `starts[n]:starts[n + 1]`. Each adds
    its weight for ever, from `delays` steps after the spike of its input.
    """

    starts: np.ndarray  # [N + 1] int64
    inputs: np.ndarray  # [S] int64, index of the presynaptic neuron
    weights: np.ndarray  # [S] int64
    thresholds: np.ndarray  # [N] int64
    delays: np.ndarray  # [S] int64

    @property
    def instant(self) -> bool:
        """Whether every spike counts at once and for ever."""
        return not self.delays.any()

    @property
    def neurons(self) -> np.ndarray:
        """Index of the postsynaptic neuron of each synapse, `[S]` int64."""
        return np.repeat(np.arange(len(self.thresholds)), np.diff(self.starts))


def sparse_rows(
    inputs: np.ndarray,
    weights: np.ndarray,
    thresholds: np.ndarray,
    response: Response = STEP,
    delays: np.ndarray | None = None,
) -> Synapses:
    """Returns the synapses of nonzero weight, one for each change of the response.

    Args:
      inputs: `[N, K]`.
      weights: `[N, K]`.
      thresholds: `[N]`.
      response: to one spike.
      delays: `[N, K]`, or None for none.
    """
    kept = weights != 0
    starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    inputs, weights = inputs[kept], weights[kept]
    delays = np.zeros_like(weights) if delays is None else delays[kept]
    if response == STEP:
        return Synapses(starts, inputs, weights, thresholds, delays)
    lags, steps = np.array(changes(response)).T
    return Synapses(
        starts * len(lags),
        np.repeat(inputs, len(lags)),
        (weights[:, None] * steps).ravel(),
        thresholds,
        (delays[:, None] + lags).ravel(),
    )


def patches(
    input_shape: tuple[int, int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> np.ndarray:
    """Returns positions `row * W + column` under each window, -1 in the padding."""
    positions = np.arange(input_shape[0] * input_shape[1], dtype=np.int64)
    grid = np.pad(
        positions.reshape(input_shape[:2]), padding, constant_values=np.int64(-1)
    )
    views = np.lib.stride_tricks.sliding_window_view(grid, window)
    return views[:: strides[0], :: strides[1]]
