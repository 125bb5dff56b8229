"""Exact ranges of potentials for layers with delays or responses: one query.

The batched form of `jaxsnn.sat.contributions`, equal to it bit for bit. An input and a
neuron share at most one weight, so what an input adds ranges between its weight times
the least and the most of its response.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat.response import Response, by_age
from jaxsnn.sat.spec import Conv2D, Dense


def potential_range(
    layer: Dense | Conv2D,
    arrays: simulate.Weights,
    low: jax.Array,
    high: jax.Array,
    num_steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the lowest and highest potentials, each `[T, N]`.

    Args:
      layer: the layer.
      arrays: its weights.
      low: `[D]` int32, the earliest step of each input.
      high: `[D]` int32, the latest.
      num_steps: `T`.
    """
    least, most = response_range(layer.response, low, high, num_steps)
    lowest = jnp.zeros((num_steps, layer.num_outputs), jnp.float32)
    highest = lowest
    for delay in simulate.distinct_delays(layer):
        part = simulate.delayed_by(arrays, delay)
        excites = part._replace(weights=jnp.maximum(part.weights, 0))
        inhibits = part._replace(weights=jnp.minimum(part.weights, 0))
        both = jnp.concatenate(
            [simulate.later(least, delay), simulate.later(most, delay)]
        )
        exciting = simulate.weighted_sums(layer, excites, both)
        inhibiting = simulate.weighted_sums(layer, inhibits, both)
        lowest += exciting[:num_steps] + inhibiting[num_steps:]
        highest += exciting[num_steps:] + inhibiting[:num_steps]
    return lowest, highest


def response_range(
    response: Response, low: jax.Array, high: jax.Array, num_steps: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the least and the most of the responses to inputs in their windows.

    Range minima by doubling: a window of any length is the union of two windows whose
    length is a power of two.

    Args:
      response: `kappa`.
      low: `[D]` int32.
      high: `[D]` int32, not below `low`.
      num_steps: `T`.

    Returns:
      `[T, D]` float32 each: extremes of `kappa(t - s)` over `low <= s <= high`.

    >>> windows = jnp.array([0, 1]), jnp.array([1, 1])
    >>> least, most = response_range((2, 1, 0), *windows, num_steps=4)
    >>> least.T.tolist(), most.T.tolist()  # doctest: +NORMALIZE_WHITESPACE
    ([[0.0, 1.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0]],
     [[2.0, 2.0, 1.0, 0.0], [0.0, 2.0, 1.0, 0.0]])
    """
    window = high - low + 1
    doublings = max(1, num_steps.bit_length())
    level = sum(
        (window >= 2**power).astype(jnp.int32) for power in range(1, doublings)
    ) + jnp.zeros_like(window)
    steps = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    first = steps - high[None, :] + num_steps
    second = steps - low[None, :] + num_steps - (2**level)[None, :] + 1
    extremes = []
    for better in (np.minimum, np.maximum):
        rows = [by_age(response, num_steps)]
        for power in range(1, doublings):
            half = 2 ** (power - 1)
            moved = np.append(rows[-1][half:], np.repeat(rows[-1][-1], half))
            rows.append(better(rows[-1], moved[: len(rows[-1])]))
        table = jnp.asarray(np.stack(rows))
        pick = jnp.minimum if better is np.minimum else jnp.maximum
        extremes.append(pick(table[level[None, :], first], table[level[None], second]))
    return extremes[0], extremes[1]


def best_changes(
    layer: Dense | Conv2D,
    arrays: simulate.Weights,
    windows: tuple[jax.Array, jax.Array, jax.Array],
    budget: int,
    num_steps: int,
    by_distance: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns how far potentials can rise and fall for every budget.

    A knapsack for each step and neuron that takes one move of each input.

    Args:
      layer: the layer.
      arrays: its weights.
      windows: unperturbed, earliest and latest steps of the inputs, `[D]` int32 each.
      budget: the largest one, static.
      num_steps: `T`.
      by_distance: whether a move costs its distance, or one.

    Returns:
      `[budget + 1, T, N]` float32 each, not negative.
    """
    delays = simulate.distinct_delays(layer)
    units = jnp.eye(len(windows[0]), dtype=jnp.float32)
    columns = jnp.stack(
        [
            simulate.weighted_sums(layer, simulate.delayed_by(arrays, delay), units)
            for delay in delays
        ],
        axis=1,
    )  # [D, G, N]
    response = jnp.asarray(by_age(layer.response, num_steps))
    clock = jnp.arange(num_steps, dtype=jnp.int32)
    costs = range(1, min(budget, num_steps - 1) + 1) if by_distance else range(1, 2)

    def sent_at(step: jax.Array) -> jax.Array:
        """`[T]` responses to a spike at a step."""
        return response[jnp.clip(clock - step, -num_steps, num_steps - 1) + num_steps]

    def take(table: jax.Array, one: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        columns, clean, low, high = one
        steps = jnp.arange(num_steps, dtype=jnp.int32)
        changes = jax.vmap(sent_at)(steps) - sent_at(clean)[None]
        distance = jnp.abs(steps - clean)
        allowed = (low <= steps) & (steps <= high)
        new = table
        for cost in costs:
            if cost > budget:
                break
            moves = allowed & ((distance == cost) if by_distance else True)
            up = jnp.where(moves[:, None], changes, 0.0).max(axis=0)
            down = jnp.where(moves[:, None], -changes, 0.0).max(axis=0)
            rise, fall = jnp.zeros((2, *table.shape[2:]), jnp.float32)
            for weights, delay in zip(columns, delays, strict=True):
                ups = simulate.later(up, delay)[:, None]
                downs = simulate.later(down, delay)[:, None]
                excites = jnp.maximum(weights, 0)[None]
                inhibits = jnp.maximum(-weights, 0)[None]
                rise += excites * ups + inhibits * downs
                fall += excites * downs + inhibits * ups
            gain = jnp.stack([rise, fall])[:, None]
            new = new.at[:, cost:].max(table[:, : budget + 1 - cost] + gain)
        return new, None

    start = jnp.zeros((2, budget + 1, num_steps, columns.shape[2]), jnp.float32)
    (rise, fall), _ = jax.lax.scan(take, start, (columns, *windows))
    return rise, fall
