"""Networks small enough to enumerate, and the enumeration: the oracle."""

import dataclasses
import itertools

import numpy as np
from hypothesis import strategies as st

from jaxsnn.sat import replay
from jaxsnn.sat.query import Query, window_ball
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Tie
from jaxsnn.sat.spec import Dense, IntegerNetwork


@st.composite
def networks(draw, max_steps=6):
    """Two or three weight layers; small weights of both signs make ties common."""
    widths = draw(
        st.sampled_from([(3, 3, 2), (4, 2, 3), (3, 4, 3), (3, 2, 3, 2), (2, 3, 2, 3)])
    )
    return draw(_with_sizes(widths, draw(st.integers(3, max_steps))))


@st.composite
def _with_sizes(draw, widths, num_steps):
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


def drawn(rng, widths, num_steps, weights=(-3, 5), thresholds=(0, 5)):
    """A network of dense layers from a generator, weights before thresholds."""
    layers = tuple(
        Dense(
            rng.integers(*weights, (outputs, inputs)),
            rng.integers(*thresholds, outputs),
        )
        for inputs, outputs in itertools.pairwise(widths)
    )
    return IntegerNetwork(layers, num_steps)


@st.composite
def delayed_networks(draw):
    """Some synapses take a step or two longer than others."""
    network = draw(networks(max_steps=5))
    first, *rest = network.layers
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    delays = rng.integers(0, 3, first.weights.shape)
    return dataclasses.replace(
        network, layers=(dataclasses.replace(first, delays=delays), *rest)
    )


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


@st.composite
def failures(draw, queries, num_steps):
    """The same queries where a few inputs may fail as well."""
    dropped, inserted = draw(
        st.sampled_from([(0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (2, 2)])
    )
    more = draw(st.booleans())
    return [
        dataclasses.replace(
            query,
            max_dropped=dropped + (more and index > 0),
            max_inserted=inserted,
            silent_step=num_steps - 1,
        )
        for index, query in enumerate(queries)
    ]


@st.composite
def requirements(draw, network):
    """Anything that may be required but robustness."""
    kind = draw(st.sampled_from([Latency, Monotone, Alike]))
    if kind is Latency:
        return Latency(draw(st.integers(0, network.num_steps - 1)), draw(st.booleans()))
    if kind is Monotone:
        return Monotone(
            draw(st.integers(0, network.num_inputs - 1)),
            draw(st.integers(0, network.num_classes - 1)),
        )
    widths = draw(st.sampled_from([(), (2,), (3, 2)]))
    sizes = (network.num_inputs, *widths, network.num_classes)
    return Alike(draw(_with_sizes(sizes, network.num_steps)))


@st.composite
def questions(draw, network, what="both"):
    """Nested queries with failing inputs, another requirement, or both."""
    queries = draw(nested_queries(network))
    if what != "requirement":
        queries = draw(failures(queries, network.num_steps))
    if what != "failures":
        requires = draw(requirements(network))
        queries = [
            dataclasses.replace(query, requires=requires, target=None)
            for query in queries
        ]
    return queries


def admissible(query):
    """Every admissible input, as `[M, D]`."""
    windows = (
        range(low, high + 1)
        for low, high in zip(query.earliest, query.latest, strict=True)
    )
    points = np.array(list(itertools.product(*windows)))
    return points[[query.admits(point) for point in points]]


def is_robust(network, query):
    """Whether nothing admissible breaks the requirement, by trying everything."""
    points = admissible(query)
    runs = [replay.spike_steps(network, point)[-1] for point in points]
    match query.requires:
        case Monotone(moved, output):
            by_rest = {}
            for point, outputs in zip(points, runs, strict=True):
                key = tuple(np.delete(point, moved))
                by_rest.setdefault(key, []).append((point[moved], outputs[output]))
            pairs = (
                itertools.pairwise(fires for _, fires in sorted(each))
                for each in by_rest.values()
            )
            return all(early <= late for each in pairs for early, late in each)
        case Alike(other):
            others = [replay.spike_steps(other, point)[-1] for point in points]
            return all(
                _decide_alike(query.tie, *pair)
                for pair in zip(runs, others, strict=True)
            )
        case Latency(max_step, of_label):
            times = [run[query.label] if of_label else min(run) for run in runs]
            return max(times) <= max_step
    return not any(query.violated_by(run) for run in runs)


def _decide_alike(tie, ours, theirs):
    ours, theirs = (
        {c for c, step in enumerate(run) if step == min(run)} for run in (ours, theirs)
    )
    match tie:
        case Tie.ADVERSARIAL:
            return ours == theirs
        case Tie.ARGMIN:
            return min(ours) == min(theirs)
    return bool(ours & theirs)
