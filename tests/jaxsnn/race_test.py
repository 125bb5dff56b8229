"""The race of the outputs, unit moves and the beam, held to plain simulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat import replay
from jaxsnn.sat.query import Query, Tie
from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.verify import bounds, flips, quotient, race, unit_moves

NUM_STEPS = 7
NUM_INPUTS = 4
LIMITS = bounds.Limits(max_total_shift=2)


def random_network(rng):
    """Shapes are always the same, so that programs are compiled once."""
    return IntegerNetwork(
        (
            Dense(rng.integers(-3, 5, (6, NUM_INPUTS)), rng.integers(0, 5, 6)),
            Dense(rng.integers(-3, 5, (3, 6)), rng.integers(0, 4, 3)),
        ),
        NUM_STEPS,
    )


LAYERS = random_network(np.random.default_rng(0)).layers


def random_query(rng, network, budget=2):
    steps = rng.integers(0, NUM_STEPS, NUM_INPUTS)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    tie = list(Tie)[rng.integers(3)]
    low, high = np.maximum(steps - 2, 0), np.minimum(steps + 2, NUM_STEPS - 1)
    return Query(steps, low, high, label, budget, tie=tie)


def random_case(rng, budget=2):
    """A network and a query about it, and both as arrays."""
    network = random_network(rng)
    query = random_query(rng, network, budget)
    return network, query, *as_arrays(network, query)


def as_arrays(network, query):
    kept = quotient.Quotient(
        np.arange(NUM_INPUTS)[None], np.ones((1, NUM_INPUTS), bool)
    )
    ball = jax.tree.map(
        lambda v: jnp.asarray(v[0]), quotient.balls(network, [query], kept)
    )
    against = race.Opponents(
        jnp.int32(query.label), jnp.asarray(query.tolerance(3), jnp.int32)
    )
    return simulate.device_weights(network), ball, against


def potentials_of(network, hidden):
    """`[T, C]` of the last layer, summed one by one."""
    weights = network.layers[1].weights
    return np.array(
        [weights[:, hidden <= step].sum(axis=1) for step in range(NUM_STEPS)]
    )


@jax.jit
def judge(weights, voltages, against):
    arguments = LAYERS[1], weights[1], voltages, against
    return race.gaps(*arguments), race.margin(*arguments)


def test_nothing_is_lacking_exactly_where_the_decision_breaks():
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(150):
        network, query, weights, _, against = random_case(rng)
        steps = rng.integers(0, NUM_STEPS, NUM_INPUTS)
        levels = replay.spike_steps(network, steps)
        voltages = jnp.asarray(potentials_of(network, levels[1]), jnp.float32)
        gaps, margin = judge(weights, voltages, against)
        expected = query.violated_by(levels[-1])
        assert (gaps.min() == 0) == (margin < 1) == expected
        broken += expected
    assert 20 < broken < 130


@jax.jit
def value(weights, voltages, against, now, then):
    arguments = LAYERS[1], weights[1], voltages, against
    return race.worth(*arguments, now, then), race.gaps(*arguments)


def test_worth_is_what_the_lead_of_a_class_changes_by():
    rng = np.random.default_rng(2)
    for _ in range(20):
        network, query, weights, _, against = random_case(rng)
        now = rng.integers(1, NUM_STEPS, 6)
        then = np.minimum(now + rng.integers(1, 4, 6), NUM_STEPS - 1)
        before = potentials_of(network, now)
        found, gaps = value(
            weights, jnp.asarray(before, jnp.float32), against, now, then
        )
        found, gaps = jax.tree.map(np.asarray, (found, gaps))
        for number, (step, lacking) in enumerate(
            zip(found.at, found.lacking, strict=True)
        ):
            rival = number % 3
            assert lacking == gaps[step, rival]
            for neuron in range(6):
                for change, spike in ((found.sooner, 0), (found.later, then[neuron])):
                    hidden = now.copy()
                    hidden[neuron] = min(spike, step) if spike == 0 else spike
                    if spike == 0 and now[neuron] <= step:
                        assert change[neuron, number] == 0
                        continue
                    after = potentials_of(network, hidden)
                    lead = (after - before)[step]
                    assert change[neuron, number] == lead[rival] - lead[query.label]


@jax.jit
def move(weights, ball, steps, against):
    voltages = simulate.potentials(
        LAYERS[0], weights[0], simulate.has_spiked(steps, NUM_STEPS)
    )
    excess = voltages - weights[0].thresholds[None, :]
    hidden = simulate.crossing_steps(excess > 0, 1)
    outputs = simulate.potentials(
        LAYERS[1], weights[1], simulate.has_spiked(hidden, NUM_STEPS)
    )
    worth = race.worth(LAYERS[1], weights[1], outputs, against, hidden, hidden)
    return unit_moves.effects(
        LAYERS, weights, ball, LIMITS, steps, excess, outputs, worth, 2 * NUM_INPUTS
    )


def test_unit_moves_do_what_simulation_says():
    rng = np.random.default_rng(3)
    spoiled = 0
    for _ in range(60):
        network, query, weights, ball, against = random_case(rng)
        points = [
            query.spike_steps + np.array(shift)
            for shift in itertools.product((-1, 0, 1), repeat=NUM_INPUTS)
        ]
        points = [point for point in points if query.admits(point)]
        start = points[rng.integers(len(points))]
        moves, potentials = jax.tree.map(
            np.asarray, move(weights, ball, jnp.asarray(start, jnp.int32), against)
        )
        found = {}
        for row, index in enumerate(moves.inputs):
            moved = start.copy()
            moved[index] = moves.moved[row]
            assert query.admits(moved) == moves.admissible[row]
            if moves.admissible[row]:
                found[tuple(moved)] = potentials[row]
        assert len(moves.inputs) == 2 * NUM_INPUTS
        for moved, seen in found.items():
            hidden = replay.spike_steps(network, np.array(moved))[1]
            # From the last step on nothing counts.
            expected = potentials_of(network, hidden)
            np.testing.assert_array_equal(seen[:-1], expected[:-1])
            spoiled += (hidden != replay.spike_steps(network, start)[1]).any()
    assert spoiled > 50


@jax.jit
def follow(weights, ball, against, key):
    return flips.search(
        LAYERS, weights, NUM_STEPS, ball, *against, key, LIMITS, 8, 2 * NUM_INPUTS, 4
    )


def test_the_beam_finds_what_breaks_small_balls():
    """Within one unit it tries everything, within two nearly."""
    rng = np.random.default_rng(4)
    exist = dict.fromkeys((1, 2), 0)
    found = dict.fromkeys((1, 2), 0)
    for number in range(150):
        network = random_network(rng)
        budget = 1 + number % 2
        query = random_query(rng, network, budget)
        if query.violated_by(replay.spike_steps(network, query.spike_steps)[-1]):
            continue
        weights, ball, against = as_arrays(network, query)
        beam = follow(weights, ball, against, jax.random.key(number))
        beam = jax.tree.map(np.asarray, beam)
        for steps, lacking in zip(beam.spike_steps, beam.lacking, strict=True):
            if np.isfinite(lacking):
                steps = np.asarray(steps, np.int64)
                assert query.admits(steps)
                assert (lacking == 0) == replay.falsifies(network, query, steps)
        points = itertools.product(
            *(
                range(low, high + 1)
                for low, high in zip(query.low, query.high, strict=True)
            )
        )
        breaks = any(
            query.admits(np.array(point))
            and replay.falsifies(network, query, np.array(point))
            for point in points
        )
        exist[budget] += breaks
        found[budget] += bool((beam.lacking == 0).any())
    assert exist[1] == found[1] > 5
    assert exist[2] >= found[2] >= 0.9 * exist[2] > 5


def test_only_two_dense_layers_have_unit_moves():
    deep = (*LAYERS, LAYERS[1])
    assert unit_moves.applies(LAYERS)
    assert not unit_moves.applies(deep)
    slow = Dense(LAYERS[0].weights, LAYERS[0].thresholds, delays=np.ones((6, 4), int))
    assert not unit_moves.applies((slow, LAYERS[1]))
