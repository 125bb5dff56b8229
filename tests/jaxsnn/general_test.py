"""Queries of every kind through the cascade, against enumeration."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.sat import replay
from jaxsnn.sat.query import Query, Stage, Verdict, window_ball
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Robust, Tie
from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.verify import cascade, general, points
from tests.jaxsnn import small_networks

SEARCH = general.SearchConfig(num_points=16, num_rounds=3)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_points_are_admissible_and_reach_everything(data):
    network = data.draw(small_networks.networks(max_steps=4))
    query = data.draw(small_networks.questions(network, "failures"))[-1]
    found = points.random_points(query, np.random.default_rng(0), 300)
    assert all(query.admits(point) for point in found)
    everything = {tuple(point) for point in small_networks.admissible(query)}
    reached = {tuple(point) for point in found}
    assert reached <= everything
    if len(everything) <= 4:
        assert reached == everything


def network_of(rng, num_steps=6):
    return IntegerNetwork(
        (
            Dense(rng.integers(-3, 5, (4, 4)), rng.integers(0, 5, 4)),
            Dense(rng.integers(-3, 5, (3, 4)), rng.integers(0, 5, 3)),
        ),
        num_steps,
    )


def samples_of(rng, network, requires, dropped, inserted, tie):
    last = network.num_steps - 1
    samples = []
    for _ in range(8):
        steps = rng.integers(0, network.num_steps, network.num_inputs)
        steps[rng.integers(4)] = last
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        samples.append(
            [
                Query(
                    steps,
                    *window_ball(steps, radius, network.num_steps),
                    label,
                    tie=tie,
                    max_dropped=dropped,
                    max_inserted=inserted,
                    silent_step=last,
                    requires=requires,
                )
                for radius in (0, 1)
            ]
        )
    return samples


OTHER = network_of(np.random.default_rng(8))


@pytest.mark.parametrize(
    ("requires", "dropped", "inserted", "tie"),
    [
        (Robust(), 1, 0, Tie.ADVERSARIAL),
        (Robust(), 1, 1, Tie.S4NN),
        (Latency(3), 0, 0, Tie.ADVERSARIAL),
        (Latency(4, of_label=True), 1, 0, Tie.ADVERSARIAL),
        (Monotone(1, 0), 0, 1, Tie.ADVERSARIAL),
        (Alike(OTHER), 0, 0, Tie.ADVERSARIAL),
        (Alike(OTHER), 0, 0, Tie.S4NN),
        (Alike(OTHER), 1, 0, Tie.ARGMIN),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_verdicts_equal_enumeration(requires, dropped, inserted, tie):
    rng = np.random.default_rng(28)
    network = network_of(rng)
    samples = samples_of(rng, network, requires, dropped, inserted, tie)
    expected = {
        (sample, index): small_networks.is_robust(network, query)
        for sample, queries in enumerate(samples)
        for index, query in enumerate(queries)
    }
    assert len(set(expected.values())) == 2
    for stages in (cascade.STAGES, (Stage.ATTACK, Stage.BOUNDS)):
        config = cascade.CascadeConfig(
            stages=stages, backends=("pysat",), search=SEARCH
        )
        seen = {}
        for sample, index, result in cascade.verify(
            network, samples, config, jax.random.key(0)
        ):
            seen[sample, index] = result.verdict
            if result.verdict is Verdict.FALSIFIED:
                query = samples[sample][index]
                assert replay.falsifies(network, query, result.counterexample)
        decided = {
            key: verdict is Verdict.ROBUST
            for key, verdict in seen.items()
            if verdict is not Verdict.UNKNOWN
        }
        assert decided == {key: expected[key] for key in decided}
        if Stage.SOLVE in stages:
            assert decided == expected


def test_the_search_finds_what_is_there_on_its_own():
    rng = np.random.default_rng(2)
    network = network_of(rng)
    stages = general.GeneralStages(network, (Stage.ATTACK,))
    found = missed = 0
    for requires in (Latency(3), Alike(OTHER), Monotone(0, 1)):
        samples = samples_of(rng, network, requires, 1, 0, Tie.ARGMIN)
        for queries, results in zip(
            samples, stages.run(samples, jax.random.key(1)), strict=True
        ):
            for index, query in enumerate(queries):
                if not small_networks.is_robust(network, query):
                    hit = results[index].verdict is Verdict.FALSIFIED
                    found, missed = found + hit, missed + (not hit)
    assert found > 9 * missed
    assert found > 10


def test_plain_robustness_keeps_its_own_stages():
    steps = np.array([1, 2])
    plain = Query(steps, steps, steps, 0)
    assert not general.is_general(plain)
    for change in (
        {"requires": Latency(2)},
        {"max_dropped": 1, "silent_step": 5},
        {"max_inserted": 1, "silent_step": 5},
    ):
        assert general.is_general(dataclasses.replace(plain, **change))
