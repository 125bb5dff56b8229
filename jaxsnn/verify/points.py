"""Admissible inputs by chance, whatever the query admits; NumPy, many at once."""

import numpy as np

from jaxsnn.sat.query import Query


def random_points(query: Query, rng: np.random.Generator, count: int) -> np.ndarray:
    """Returns `[count, D]` admissible inputs; few to all inputs move in each.

    Half of the moves go to the ends of what is admissible, where potentials are
    extreme.
    """
    shape = (count, len(query.spike_steps))
    low, high = query.earliest, query.latest
    anywhere = rng.integers(low, high + 1, shape)
    ends = np.where(rng.random(shape) < 0.5, low, high)
    wanted = np.where(rng.random(shape) < 0.5, anywhere, ends)
    share = rng.choice([0.05, 0.2, 0.5, 1.0], (count, 1))
    wanted = np.where(rng.random(shape) < share, wanted, query.spike_steps)
    return project(query, rng, wanted)


def project(query: Query, rng: np.random.Generator, wanted: np.ndarray) -> np.ndarray:
    """Returns admissible inputs `[P, D]` near those wanted.

    What exceeds a limit stays in its window or where it was, by chance.

    Guarantees:
      `query.admits` each row.
    """
    held = np.clip(wanted, query.low, query.high)
    priority = rng.random(wanted.shape)
    failed = np.zeros(wanted.shape, bool)
    lost = (wanted > query.high) | (wanted == query.silent_step)
    for fails, limit in (
        (query.can_drop & lost, query.max_dropped),
        (query.can_insert & (wanted != query.silent_step), query.max_inserted),
    ):
        failed |= fails & (_ranks(np.where(fails, priority, 2.0)) < limit)
    shift = np.where(failed, 0, held - query.spike_steps)
    order = np.argsort(np.where(shift != 0, priority, 2.0), axis=1)
    ordered = np.take_along_axis(shift, order, axis=1)
    if query.max_changed is not None:
        ordered[:, query.max_changed :] = 0
    if query.max_total_shift is not None:
        spent = np.cumsum(np.abs(ordered), axis=1) - np.abs(ordered)
        left = np.maximum(query.max_total_shift - spent, 0)
        ordered = np.clip(ordered, -left, left)
    np.put_along_axis(shift, order, ordered, axis=1)
    silent = wanted if query.silent_step is None else query.silent_step
    gone = np.where(query.can_drop, silent, np.clip(wanted, 0, silent))
    return np.where(failed, gone, query.spike_steps + shift)


def _ranks(values: np.ndarray) -> np.ndarray:
    """The position of each value in its sorted row."""
    ranks = np.empty(values.shape, np.int64)
    places = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    np.put_along_axis(ranks, np.argsort(values, axis=1), places, axis=1)
    return ranks
