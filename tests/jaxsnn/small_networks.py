"""Networks small enough to enumerate, and the enumeration: the oracle."""

import itertools

import numpy as np
from hypothesis import strategies as st

from jaxsnn.sat import replay
from jaxsnn.sat.query import Query, Tie, window_ball
from jaxsnn.sat.spec import Dense, IntegerNetwork


@st.composite
def networks(draw, max_steps=6):
    """Two or three weight layers; small weights of both signs make ties common."""
    widths = draw(
        st.sampled_from([(3, 3, 2), (4, 2, 3), (3, 4, 3), (3, 2, 3, 2), (2, 3, 2, 3)])
    )
    num_steps = draw(st.integers(3, max_steps))
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        weights = draw(
            st.lists(
                st.integers(-3, 4), min_size=inputs * outputs, max_size=inputs * outputs
            )
        )
        thresholds = draw(
            st.lists(st.integers(-1, 4), min_size=outputs, max_size=outputs)
        )
        layers.append(
            Dense(np.array(weights).reshape(outputs, inputs), np.array(thresholds))
        )
    return IntegerNetwork(tuple(layers), num_steps)


@st.composite
def nested_queries(draw, network):
    """A few nested balls of one kind, or of all kinds at once."""
    steps = np.array(
        draw(
            st.lists(
                st.integers(0, network.num_steps - 1),
                min_size=network.num_inputs,
                max_size=network.num_inputs,
            )
        )
    )
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    tie = draw(st.sampled_from(list(Tie)))
    target = draw(st.sampled_from([None, *range(network.num_classes)]))
    target = None if target == label else target
    kind = draw(st.sampled_from(["linf", "l1", "l0", "all"]))
    radii = sorted(draw(st.sets(st.integers(0, 4), min_size=1, max_size=3)))
    queries = []
    for radius in radii:
        window = radius if kind in ("linf", "all") else network.num_steps
        low, high = window_ball(steps, window, network.num_steps)
        queries.append(
            Query(
                steps,
                low,
                high,
                label,
                max_total_shift=radius + (kind == "all")
                if kind in ("l1", "all")
                else None,
                max_changed=radius if kind in ("l0", "all") else None,
                tie=tie,
                target=target,
            )
        )
    return queries


def admissible(query):
    """Every input of the ball, as `[M, D]`."""
    windows = (
        range(low, high + 1) for low, high in zip(query.low, query.high, strict=True)
    )
    points = np.array(list(itertools.product(*windows)))
    return points[[query.admits(point) for point in points]]


def is_robust(network, query):
    """Whether no admissible input breaks the decision, by trying all of them."""
    return not any(
        query.violated_by(replay.spike_steps(network, point)[-1])
        for point in admissible(query)
    )
