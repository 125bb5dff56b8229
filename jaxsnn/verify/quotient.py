"""The dead-time quotient: leave out inputs that cannot matter.

An input that never spikes at or before the last informative step looks to the outputs
like one that is silent. On images most pixels are of this kind (of 784 inputs of the
published networks 116 to 164 remain), and a dense first layer shrinks with them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsnn import simulate
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.verify.bounds import Ball

# Beyond every sum of shifts, and far from overflow.
_MAX_BUDGET = 2**30

# Widths are rounded up to a multiple of this, so that few programs are compiled.
_WIDTH_STEP = 64


class Quotient(NamedTuple):
    """Which inputs of each query of a batch are kept."""

    inputs: np.ndarray  # [B, K] int64, input indices; repeats are padding
    valid: np.ndarray  # [B, K] bool, False for padding

    def restore(self, row: int, query: Query, spike_steps: np.ndarray) -> np.ndarray:
        """Returns the full `[D]` input of one row from its `[K]` kept steps."""
        steps = query.spike_steps.copy()
        valid = self.valid[row]
        steps[self.inputs[row][valid]] = np.asarray(spike_steps)[valid]
        return steps


def width(network: IntegerNetwork, queries: Iterable[Query]) -> int:
    """Returns how many inputs at most are kept, a little rounded up.

    Programs compiled for this width serve all the queries.
    """
    if not isinstance(network.layers[0], Dense):
        return network.num_inputs
    last = network.last_informative_step(0)
    widest = max((int((query.low <= last).sum()) for query in queries), default=0)
    return min(network.num_inputs, max(1, -(-widest // _WIDTH_STEP)) * _WIDTH_STEP)


def relevant_inputs(
    network: IntegerNetwork, queries: Sequence[Query], num_kept: int | None = None
) -> Quotient:
    """Returns the inputs that can spike in time to be told apart from silent ones.

    Networks whose first layer is not dense keep all inputs.

    Args:
      network: the network.
      queries: the queries, `B` of them.
      num_kept: how many inputs to keep, padding included (`width`); by default as
        many as these queries need.
    """
    if not isinstance(network.layers[0], Dense):
        everything = np.tile(np.arange(network.num_inputs), (len(queries), 1))
        return Quotient(everything, np.ones(everything.shape, bool))
    last = network.last_informative_step(0)
    num_kept = width(network, queries) if num_kept is None else num_kept
    inputs = np.zeros((len(queries), num_kept), np.int64)
    valid = np.zeros((len(queries), num_kept), bool)
    for row, query in enumerate(queries):
        index = np.flatnonzero(query.low <= last)
        inputs[row, : len(index)] = index
        valid[row, : len(index)] = True
    return Quotient(inputs, valid)


def first_layer(network: IntegerNetwork, quotient: Quotient) -> simulate.Weights:
    """Returns the first layer's arrays, one copy a row, with only the kept inputs.

    They lie in host memory: gathering them compiles nothing.
    """
    (arrays,) = simulate.device_weights(
        IntegerNetwork(network.layers[:1], network.num_steps)
    )
    weights, thresholds, delays = (np.asarray(values) for values in arrays)
    if isinstance(network.layers[0], Dense):
        index, valid = quotient
        weights = np.moveaxis(weights[:, index], 1, 0)  # [B, N, K]
        weights = np.where(valid[:, None, :], weights, np.float32(0))
        delays = np.moveaxis(delays[:, index], 1, 0) if delays.size else delays[None]
    else:
        weights, delays = weights[None], delays[None]
    rows = len(quotient.inputs)

    def spread(values: np.ndarray) -> Any:
        return np.broadcast_to(values, (rows, *values.shape[1:]))

    return simulate.Weights(spread(weights), spread(thresholds[None]), spread(delays))


def balls(network: IntegerNetwork, queries: Sequence[Query], kept: Quotient) -> Ball:
    """Returns the queries as arrays over the kept inputs; padding stays silent."""
    silent = network.num_steps - 1

    def gather(name: str) -> Any:
        values = np.array([getattr(query, name) for query in queries])
        values = np.take_along_axis(values, kept.inputs, axis=1)
        return np.where(kept.valid, values, silent).astype(np.int32)

    def scalar(name: str) -> Any:
        values = [getattr(query, name) or 0 for query in queries]
        return np.minimum(values, _MAX_BUDGET).astype(np.int32)

    return Ball(
        gather("spike_steps"),
        gather("low"),
        gather("high"),
        scalar("max_total_shift"),
        scalar("max_changed"),
    )


def tolerance(network: IntegerNetwork, query: Query) -> np.ndarray:
    """Returns `Query.tolerance`, out of reach for classes that do not count."""
    found = query.tolerance(network.num_classes)
    if query.target is not None:
        others = np.arange(network.num_classes) != query.target
        found[others] = -2 * network.num_steps
    return found
