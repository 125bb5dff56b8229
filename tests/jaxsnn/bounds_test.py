"""Batched bounds against the NumPy intervals, bit for bit; those are tested apart."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import simulate
from jaxsnn.sat import intervals
from jaxsnn.sat.query import Query, window_ball
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork
from jaxsnn.verify import bounds


def dense_network(rng, widths):
    layers = tuple(
        Dense(rng.integers(-3, 5, (b, a)), rng.integers(-1, 6, b))
        for a, b in itertools.pairwise(widths)
    )
    return IntegerNetwork(layers, num_steps=6)


def conv_network(rng):
    conv = Conv2D(rng.integers(-3, 5, (2, 2, 1, 3)), rng.integers(0, 5, 3), (4, 4, 1))
    pool = EarliestPool2D(conv.output_shape, window=(2, 1), strides=(1, 1))
    dense = Dense(rng.integers(-3, 5, (3, pool.num_outputs)), rng.integers(0, 5, 3))
    return IntegerNetwork((conv, pool, dense), num_steps=6)


def random_queries(rng, network, count, total, changed):
    for _ in range(count):
        steps = rng.integers(0, network.num_steps, network.num_inputs)
        low, high = window_ball(steps, int(rng.integers(0, 4)), network.num_steps)
        # Unequal windows, too.
        low = np.minimum(low + rng.integers(0, 2, len(low)), steps)
        label = int(rng.integers(network.num_classes))
        target = (label + 1) % network.num_classes if rng.random() < 0.3 else None
        yield Query(
            steps,
            low,
            high,
            label,
            max_total_shift=total and int(rng.integers(0, total + 1)),
            max_changed=changed and int(rng.integers(0, changed + 1)),
            target=target,
        )


@pytest.mark.parametrize(
    ("total", "changed"), [(None, None), (4, None), (None, 3), (3, 2)]
)
@pytest.mark.parametrize("kind", ["dense", "deep", "conv"])
def test_bounds_equal_the_reference_intervals(kind, total, changed):
    rng = np.random.default_rng(len(kind))
    network = {
        "dense": lambda: dense_network(rng, (5, 6, 3)),
        "deep": lambda: dense_network(rng, (4, 5, 5, 3)),
        "conv": lambda: conv_network(rng),
    }[kind]()
    queries = list(random_queries(rng, network, 20, total, changed))
    weights = simulate.device_weights(network)

    def propagate(ball):
        limits = bounds.Limits(total, changed)
        return bounds.propagate(network.layers, weights, 6, ball, limits)

    ball = bounds.Ball(
        *(
            jnp.asarray(
                np.array([getattr(query, name) or 0 for query in queries])
                if name.startswith("max")
                else np.array([getattr(query, name) for query in queries]),
                jnp.int32,
            )
            for name in bounds.Ball._fields
        )
    )
    levels = jax.jit(jax.vmap(propagate))(ball)
    decided = set()
    for row, query in enumerate(queries):
        expected = intervals.propagate(network, query)
        for level, reference in zip(levels, expected, strict=True):
            np.testing.assert_array_equal(level.low[row], reference.low)
            np.testing.assert_array_equal(level.high[row], reference.high)
        tolerance = query.tolerance(network.num_classes)
        if query.target is not None:
            others = np.arange(network.num_classes) != query.target
            tolerance[others] = -2 * network.num_steps
        outputs = bounds.Interval(levels[-1].low[row], levels[-1].high[row])
        proved = bounds.decided(
            outputs, jnp.int32(query.label), jnp.asarray(tolerance, jnp.int32)
        )
        assert bool(proved) == intervals.decided([expected[-1]], query)
        decided.add(bool(proved))
    assert decided == {True, False}  # or the comparison says little
