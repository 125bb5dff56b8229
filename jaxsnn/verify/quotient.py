"""The dead-time quotient: leave out inputs that cannot matter.

An input that never spikes at or before the last informative step looks to the outputs
like one that is silent. On images most pixels are of this kind (of 784 inputs of the
published networks 116 to 164 remain), and a dense first layer shrinks with them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
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


def relevant_inputs(network: IntegerNetwork, queries: Sequence[Query]) -> Quotient:
    """Returns the inputs that can spike in time to be told apart from silent ones.

    Networks whose first layer is not dense keep all inputs.
    """
    if not isinstance(network.layers[0], Dense):
        everything = np.tile(np.arange(network.num_inputs), (len(queries), 1))
        return Quotient(everything, np.ones(everything.shape, bool))
    last = network.last_informative_step(0)
    kept = [np.flatnonzero(query.low <= last) for query in queries]
    widest = max(1, *(len(inputs) for inputs in kept))
    width = min(network.num_inputs, -(-widest // _WIDTH_STEP) * _WIDTH_STEP)
    inputs = np.zeros((len(queries), width), np.int64)
    valid = np.zeros((len(queries), width), bool)
    for row, index in enumerate(kept):
        inputs[row, : len(index)] = index
        valid[row, : len(index)] = True
    return Quotient(inputs, valid)


def first_layer(network: IntegerNetwork, quotient: Quotient) -> simulate.Weights:
    """Returns the first layer's arrays, one copy a row, with only the kept inputs."""
    (arrays,) = simulate.device_weights(
        IntegerNetwork(network.layers[:1], network.num_steps)
    )
    rows = len(quotient.inputs)
    thresholds = jnp.broadcast_to(arrays.thresholds, (rows, *arrays.thresholds.shape))
    delays = jnp.broadcast_to(arrays.delays, (rows, *arrays.delays.shape))
    if not isinstance(network.layers[0], Dense):
        weights = jnp.broadcast_to(arrays.weights, (rows, *arrays.weights.shape))
        return simulate.Weights(weights, thresholds, delays)
    weights = jnp.moveaxis(arrays.weights[:, quotient.inputs], 1, 0)  # [B, N, K]
    weights = jnp.where(quotient.valid[:, None, :], weights, 0.0)
    if arrays.delays.size:
        delays = jnp.moveaxis(arrays.delays[:, quotient.inputs], 1, 0)
    return simulate.Weights(weights, thresholds, delays)


def balls(network: IntegerNetwork, queries: Sequence[Query], kept: Quotient) -> Ball:
    """Returns the queries as arrays over the kept inputs; padding stays silent."""
    silent = network.num_steps - 1

    def gather(name: str) -> jnp.ndarray:
        values = np.array([getattr(query, name) for query in queries])
        values = np.take_along_axis(values, kept.inputs, axis=1)
        return jnp.asarray(np.where(kept.valid, values, silent), jnp.int32)

    def scalar(name: str) -> jnp.ndarray:
        values = [getattr(query, name) or 0 for query in queries]
        return jnp.asarray(np.minimum(values, _MAX_BUDGET), jnp.int32)

    return Ball(
        gather("spike_steps"),
        gather("low"),
        gather("high"),
        scalar("max_total_shift"),
        scalar("max_changed"),
    )
