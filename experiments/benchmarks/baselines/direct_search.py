"""The direct counterexample search of arXiv 2408.10900: try every perturbation.

Depth first over the inputs, each is given every shift that the remaining budget
allows, and each perturbed input is simulated until one changes the decision. The
order is the published one; the simulations run in batches, which the published code
does not do, so that this baseline is the faster for it.
"""

import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.baselines import outcome
from jaxsnn import simulate
from jaxsnn.sat.query import Query, Result
from jaxsnn.sat.spec import IntegerNetwork

NAME = "search"

# Elements of the largest array of one batch.
_BATCH_ELEMENTS = 2**22


def solve(network: IntegerNetwork, query: Query, seconds: float) -> Result:
    """Decides one query; compilation, once a network, is not counted.

    Args:
        network: the network.
        query: the question; it must have a budget.
        seconds: wall-clock limit, checked after each batch.

    Raises:
        ValueError: a query without a budget, whose ball is a full product.
    """
    if query.max_total_shift is None and query.max_changed is None:
        raise ValueError(
            "the direct search enumerates what a budget allows; "
            "give max_total_shift or max_changed"
        )
    size = max(16, _BATCH_ELEMENTS // (network.num_steps * network.num_inputs))
    run = _compiled(network, size)
    started = time.monotonic()
    tolerance = query.tolerance(network.num_classes)
    counted = np.arange(network.num_classes) != query.label
    if query.target is not None:
        counted &= np.arange(network.num_classes) == query.target
    for batch in _batches(query, size):
        outputs = np.asarray(run(batch))
        beats = outputs < outputs[:, query.label, None] + tolerance
        flips = np.flatnonzero((beats & counted).any(axis=1))
        if flips.size:
            steps = batch[flips[0]]
            return outcome.falsified(network, query, steps, NAME, started)
        if time.monotonic() - started > seconds:
            return outcome.timeout(started)
    return outcome.robust(NAME, started)


@functools.lru_cache(maxsize=1)
def _compiled(network: IntegerNetwork, size: int) -> Callable[[np.ndarray], jax.Array]:
    """Compiled simulation of `[size, D]` inputs."""
    run = jax.jit(functools.partial(simulate.output_steps, network))
    shape = jax.ShapeDtypeStruct((size, network.num_inputs), jnp.int32)
    return run.lower(shape).compile()


def _batches(query: Query, size: int) -> Iterator[np.ndarray]:
    """Perturbed inputs `[size, D]`, the last batch filled with the unperturbed one."""
    clean = np.tile(query.spike_steps.astype(np.int32), (size, 1))
    batch = clean.copy()
    filled = 0
    for changes in perturbations(query):
        for neuron, step in changes:
            batch[filled, neuron] = step
        filled += 1
        if filled == size:
            yield batch
            batch = clean.copy()
            filled = 0
    if filled:
        yield batch


def perturbations(query: Query) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yields every admissible input once, as its changes `(input, step)`.

    >>> from jaxsnn.sat.query import l1_query
    >>> query = l1_query(np.array([0, 1]), label=0, radius=1, num_steps=3)
    >>> list(perturbations(query))
    [(), ((0, 1),), ((1, 0),), ((1, 2),)]
    """
    clean, low, high = (
        values.tolist() for values in (query.spike_steps, query.low, query.high)
    )
    num_inputs = len(clean)
    shift = query.max_total_shift
    changed = query.max_changed

    def extend(
        first: int, shift: int, changed: int, changes: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[tuple[int, int], ...]]:
        yield changes
        if not (shift and changed):
            return
        for neuron in range(first, num_inputs):
            at = clean[neuron]
            for step in range(
                max(low[neuron], at - shift), min(high[neuron], at + shift) + 1
            ):
                if step != at:
                    yield from extend(
                        neuron + 1,
                        shift - abs(step - at),
                        changed - 1,
                        (*changes, (neuron, step)),
                    )

    unlimited = sum(high) - sum(low) + 1
    return extend(
        0,
        unlimited if shift is None else shift,
        unlimited if changed is None else changed,
        (),
    )
