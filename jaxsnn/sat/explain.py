"""Which inputs a decision rests on: a minimal set that suffices when it is kept.

Freeze some inputs at their steps and let all others move as the query allows. A set is
sufficient if what the query requires then holds, and minimal if no input can be left
out of it. Small sufficient sets explain a decision; that they suffice is a query of its
own, with verdict and proof like any other.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.sat import backends, replay
from jaxsnn.sat.backends import Status
from jaxsnn.sat.encode import encode
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork


class Explanation(NamedTuple):
    """A sufficient set.

    Attributes:
      inputs: `[K]` ascending indices of the inputs that are kept.
      minimal: whether each was shown to be needed; False if the time ran out.
      query: the question with these inputs kept; the answer is robust.
    """

    inputs: np.ndarray
    minimal: bool
    query: Query


def freeze(query: Query, inputs: Sequence[int] | np.ndarray) -> Query:
    """Returns the query in which some inputs stay at their steps.

    >>> query = Query(np.array([1, 5]), np.array([0, 4]), np.array([2, 6]), label=0)
    >>> freeze(query, [1]).low, freeze(query, [1]).high
    (array([0, 5]), array([2, 5]))
    """
    low, high = query.low.copy(), query.high.copy()
    kept = np.asarray(inputs, np.int64)
    low[kept] = high[kept] = query.spike_steps[kept]
    return dataclasses.replace(query, low=low, high=high)


def sufficient_inputs(
    network: IntegerNetwork, query: Query, seconds: float, name: str = "pysat"
) -> Explanation:
    """Returns a minimal set of inputs that suffices when it is kept.

    One incremental solver; inputs are let go in halves, so that few that are needed
    cost few calls.

    Args:
      network: the network.
      query: what the other inputs may do, and what is required.
      seconds: wall-clock limit of it all.
      name: the backend, a key of `jaxsnn.sat.backends.BACKENDS`.

    Raises:
      ValueError: the requirement does not even hold of the input itself, or inputs
        may fail, which keeping them does not forbid.

    >>> from jaxsnn.sat.spec import Dense
    >>> layer = Dense(np.array([[2, 0, 1], [0, 2, 0]]), np.array([1, 1]))
    >>> network = IntegerNetwork((layer,), num_steps=8)
    >>> steps = np.array([1, 4, 6])
    >>> query = Query(steps, np.zeros(3, int), np.full(3, 7), label=0)
    >>> sufficient_inputs(network, query, seconds=10.0).inputs
    array([0, 1])
    """
    if query.max_dropped or query.max_inserted:
        raise ValueError("inputs that may fail cannot be kept; allow no failures")
    if replay.falsifies(network, query, query.spike_steps):
        raise ValueError("what is required does not hold of the unperturbed input")
    deadline = time.monotonic() + seconds
    encoding = encode(network, [query])
    stays = {
        neuron: [lit for each in encoding.inputs for lit in each.stays(neuron)]
        for neuron in encoding.inputs[0].encoded()
    }
    session = backends.BACKENDS[name](encoding.problem)
    minimal = True

    def suffices(kept: set[int]) -> bool:
        nonlocal minimal
        held = [lit for neuron in sorted(kept) for lit in stays[neuron]]
        left = deadline - time.monotonic()
        answer = session.solve([*encoding.assumptions[0], *held], max(left, 0.0))
        minimal &= answer.status is not Status.INTERRUPTED
        return answer.status is Status.UNSATISFIABLE

    kept = set(stays)
    groups = [sorted(stays)]
    while groups:
        group = groups.pop()
        if suffices(kept - set(group)):
            kept -= set(group)
        elif len(group) > 1:
            middle = len(group) // 2
            groups += [group[middle:], group[:middle]]
    session.close()
    inputs = np.array(sorted(kept), np.int64)
    return Explanation(inputs, minimal, freeze(query, inputs))
