"""Delays and responses through everything that simulates, bounds, proves and solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import simulate
from jaxsnn.sat import backends, contributions, intervals, replay, response
from jaxsnn.sat.backends import Status
from jaxsnn.sat.check import intervals as checker
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.manifest import network_digest
from jaxsnn.sat.encode import encode
from jaxsnn.sat.query import Verdict
from jaxsnn.sat.spec import Conv2D, Dense, IntegerNetwork
from jaxsnn.verify import bounds, cascade
from tests.jaxsnn import bounds_test, cascade_test, small_networks

RESPONSES = [(1,), (2, 1, 0), (1, 2, 3), (1, 3, 1, 0), (0, 2, -1), (3,)]


@st.composite
def networks(draw, max_steps=6):
    """As `small_networks.networks`, with responses and delays of both layers."""
    network = draw(small_networks.networks(max_steps))
    layers = []
    for layer in network.layers:
        delays = draw(
            st.none()
            | st.lists(
                st.integers(0, 3),
                min_size=layer.weights.size,
                max_size=layer.weights.size,
            )
        )
        layers.append(
            Dense(
                layer.weights,
                layer.thresholds,
                draw(st.sampled_from(RESPONSES)),
                None if delays is None else np.reshape(delays, layer.weights.shape),
            )
        )
    return IntegerNetwork(tuple(layers), network.num_steps)


def naive_spike_steps(network, inputs):
    """The definition, neuron by neuron and step by step."""
    levels = [list(inputs)]
    for layer in network.layers:
        fires = []
        for row in range(layer.num_outputs):
            fire = network.num_steps - 1
            for step in reversed(range(network.num_steps - 1)):
                potential = 0
                for source, spike in enumerate(levels[-1]):
                    delay = 0 if layer.delays is None else layer.delays[row, source]
                    age = step - spike - delay
                    if age >= 0:
                        kappa = layer.response[min(age, len(layer.response) - 1)]
                        potential += layer.weights[row, source] * kappa
                if potential > layer.thresholds[row]:
                    fire = step + 1
            fires.append(fire)
        levels.append(fires)
    return levels


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_replay_is_the_definition(data):
    network = data.draw(networks())
    steps = [
        data.draw(st.integers(0, network.num_steps - 1))
        for _ in range(network.num_inputs)
    ]
    expected = naive_spike_steps(network, steps)
    for level, naive in zip(
        replay.spike_steps(network, np.array(steps)), expected, strict=True
    ):
        assert level.tolist() == naive


@pytest.mark.parametrize("backend", sorted(backends.BACKENDS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_backend_equals_enumeration(backend, data):
    if backend not in backends.installed():
        pytest.skip(f"{backend} is not installed")
    network = data.draw(networks(max_steps=5))
    queries = data.draw(small_networks.nested_queries(network))
    encoding = encode(network, queries)
    session = backends.BACKENDS[backend](encoding.problem)
    for index, query in enumerate(queries):
        answer = session.solve(encoding.assumptions[index], seconds=10.0)
        expected = small_networks.is_robust(network, query)
        assert (answer.status is Status.UNSATISFIABLE) == expected
        if not expected:
            steps = encoding.decode(index, answer.model)
            assert query.admits(steps)
            assert query.violated_by(replay.spike_steps(network, steps)[-1])
    session.close()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranges_of_potentials_are_attained(data):
    network = data.draw(networks())
    layer, num_steps = network.layers[0], network.num_steps
    query = data.draw(small_networks.nested_queries(network))[-1]
    lowest, highest = intervals.input_potentials(layer, query, num_steps)
    seen = np.array(
        [
            replay.potentials(layer, point, num_steps)
            for point in small_networks.admissible(query)
        ]
    )
    assert (lowest <= seen.min(axis=0)).all()
    assert (seen.max(axis=0) <= highest).all()
    if query.max_changed is None or query.max_total_shift is None:
        told = slice(0, num_steps - 1 - layer.delay)  # later crossings tell nothing
        np.testing.assert_array_equal(lowest[:, told], seen.min(axis=0)[:, told])
        np.testing.assert_array_equal(highest[:, told], seen.max(axis=0)[:, told])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_general_ranges_equal_those_of_instant_layers(data):
    network = data.draw(small_networks.networks())
    layer, num_steps = network.layers[0], network.num_steps
    query = data.draw(small_networks.nested_queries(network))[-1]
    expected = intervals.input_potentials(layer, query, num_steps)
    found = contributions.potential_range(layer, query.low, query.high, num_steps)
    if query.max_total_shift is not None or query.max_changed is not None:
        least, most = contributions.within_budget(layer, query, num_steps)
        found = np.maximum(found[0], least), np.minimum(found[1], most)
    told = num_steps - 1 - layer.delay  # later crossings tell nothing
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours[:, :told], theirs[:, :told])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_claimed_intervals_are_checked_and_tight(data):
    network = data.draw(networks())
    query = data.draw(small_networks.nested_queries(network))[-1]
    levels = intervals.propagate(network, query)
    for point in small_networks.admissible(query)[:200]:
        for interval, steps in zip(
            levels, replay.spike_steps(network, point), strict=True
        ):
            assert (interval.low <= steps).all()
            assert (steps <= interval.high).all()
    claims = [checker.Claim(*level) for level in levels[1:]]
    checker.check_intervals(network, query, claims)
    # The checker computes the same ranges, so that any tighter claim is refused.
    neuron = data.draw(st.integers(0, len(claims[0].low) - 1))
    for name, change in (("low", 1), ("high", -1)):
        altered = claims[0]._asdict()
        altered[name] = altered[name].copy()
        altered[name][neuron] += change
        if 0 <= altered[name][neuron] < network.num_steps:
            with pytest.raises(ProofError, match=f"neuron {neuron}"):
                checker.check_intervals(
                    network, query, [checker.Claim(**altered), *claims[1:]]
                )


def delayed_network(rng, kind):
    delays = rng.integers(0, 3, (4, 5))
    match kind:
        case "response":
            first = Dense(rng.integers(-3, 5, (4, 5)), rng.integers(0, 9, 4), (3, 1, 0))
        case "delays":
            first = Dense(
                rng.integers(-3, 5, (4, 5)), rng.integers(0, 5, 4), delays=delays
            )
        case "both":
            first = Dense(
                rng.integers(-3, 5, (4, 5)), rng.integers(0, 9, 4), (1, 2, 1), delays
            )
        case "conv":
            first = Conv2D(
                rng.integers(-3, 5, (2, 2, 1, 2)),
                rng.integers(0, 9, 2),
                (2, 3, 1),
                padding=((0, 1), (0, 0)),
                response=(1, 2, 0),
                delays=rng.integers(0, 2, (2, 2, 1, 2)),
            )
    second = Dense(
        rng.integers(-3, 6, (3, first.num_outputs)), rng.integers(0, 5, 3), (2, 1)
    )
    return IntegerNetwork((first, second), num_steps=6)


@pytest.mark.parametrize("kind", ["response", "delays", "both", "conv"])
def test_accelerated_forms_equal_the_reference(kind):
    rng = np.random.default_rng(len(kind))
    network = delayed_network(rng, kind)
    inputs = rng.integers(0, 6, (60, network.num_inputs))
    outputs = jax.jit(simulate.output_steps, static_argnums=0)(
        network, jnp.asarray(inputs, jnp.int32)
    )
    expected = [replay.spike_steps(network, steps)[-1] for steps in inputs]
    np.testing.assert_array_equal(outputs, expected)
    assert len(np.unique(expected, axis=0)) > 3  # or the comparison says little


@pytest.mark.parametrize(
    ("kind", "total", "changed"),
    [("both", None, None), ("conv", 4, None), ("both", None, 2), ("conv", 3, 2)],
)
def test_bounds_equal_the_reference_intervals(kind, total, changed):
    rng = np.random.default_rng(len(kind))
    network = delayed_network(rng, kind)
    queries = list(bounds_test.random_queries(rng, network, 20, total, changed))
    weights = simulate.device_weights(network)

    def propagate(ball):
        limits = bounds.Limits(total, changed)
        return bounds.propagate(network.layers, weights, 6, ball, limits)

    ball = bounds.Ball(
        *(
            jnp.asarray([getattr(query, name) for query in queries], jnp.int32)
            for name in bounds.Ball._fields[:3]
        ),
        *(
            jnp.asarray([getattr(query, name) or 0 for query in queries], jnp.int32)
            for name in bounds.Ball._fields[3:]
        ),
    )
    levels = jax.jit(jax.vmap(propagate))(ball)
    for row, query in enumerate(queries):
        expected = intervals.propagate(network, query)
        for level, reference in zip(levels, expected, strict=True):
            np.testing.assert_array_equal(level.low[row], reference.low)
            np.testing.assert_array_equal(level.high[row], reference.high)


def test_the_cascade_equals_enumeration():
    rng = np.random.default_rng(3)
    layers = [
        Dense(rng.integers(-3, 5, (4, 4)), rng.integers(0, 6, 4), (2, 1, 0)),
        Dense(
            rng.integers(-3, 5, (3, 4)),
            rng.integers(0, 3, 3),
            delays=rng.integers(0, 2, (3, 4)),
        ),
    ]
    network = IntegerNetwork(tuple(layers), num_steps=8)
    samples = cascade_test.random_samples(rng, network, 8, "l1")
    config = cascade.CascadeConfig(
        backends=("pysat",), batch_size=8, effort=cascade_test.EFFORT
    )
    decisions = list(cascade.verify(network, samples, config, jax.random.key(0)))
    cascade_test.check(network, samples, decisions, complete=True)
    verdicts = {decision.result.verdict for decision in decisions}
    assert verdicts == {Verdict.ROBUST, Verdict.FALSIFIED}


def test_sums_that_float32_cannot_hold_name_the_neuron():
    weights = np.array([[1, 1], [2**14, -(2**14)]])
    Dense(weights, np.array([0, 0]), (100, 0))
    with pytest.raises(ValueError, match=r"neuron 1: sum \|w\| \* 256 .* 2\^24"):
        Dense(weights * 2, np.array([0, 0]), (256, 0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: response.canonical([]), "must be integers"),
        (lambda: response.canonical([0, 0]), "not all 0"),
        (lambda: response.canonical([0.5]), "must be integers"),
        (lambda: response.canonical([257]), "exceeds 256"),
        (lambda: response.leak(0.0), "time_constant"),
        (lambda: response.alpha(np.inf), "time_constant"),
        (lambda: response.leak(2.0, -1), "bits=-1"),
        (lambda: response.ramp(0), "duration=0"),
        (
            lambda: Dense(np.ones((1, 2), int), np.zeros(1, int), delays=[[0, -1]]),
            "from -1 to 0",
        ),
        (
            lambda: Dense(np.ones((1, 2), int), np.zeros(1, int), delays=[[0]]),
            r"one a weight \(1, 2\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_digests_tell_delays_apart_and_keep_those_without():
    weights, thresholds = np.ones((1, 2), int), np.ones(1, int)
    plain = IntegerNetwork((Dense(weights, thresholds),), 5)
    zeros = IntegerNetwork(
        (Dense(weights, thresholds, delays=np.zeros((1, 2), int)),), 5
    )
    moved = IntegerNetwork((Dense(weights, thresholds, delays=[[0, 1]]),), 5)
    assert network_digest(plain) == network_digest(zeros) != network_digest(moved)
    assert network_digest(plain).startswith("3a065b1d273b0293")
