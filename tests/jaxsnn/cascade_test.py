"""The whole cascade, and each stage alone, against exhaustive enumeration."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxsnn.sat import replay
from jaxsnn.sat.query import Query, Stage, Verdict, linf_query, window_ball
from jaxsnn.sat.requirement import Tie
from jaxsnn.sat.solve import solve
from jaxsnn.sat.spec import Dense, IntegerNetwork
from jaxsnn.verify import attack, batched, cascade
from tests.jaxsnn import small_networks

EFFORT = attack.AttackConfig(
    num_restarts=4, num_iterations=30, num_draws=4, num_goals=8, beam_width=2
)


def random_network(rng, widths=(4, 4, 3), num_steps=6):
    layers = tuple(
        Dense(rng.integers(-3, 5, (b, a)), rng.integers(0, 5, b))
        for a, b in itertools.pairwise(widths)
    )
    return IntegerNetwork(layers, num_steps)


def random_samples(rng, network, count, kind, tie=Tie.ADVERSARIAL):
    samples = []
    for _ in range(count):
        steps = rng.integers(0, network.num_steps, network.num_inputs)
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        queries = []
        for radius in (1, 2):
            reach = radius if kind == "linf" else network.num_steps
            low, high = window_ball(steps, reach, network.num_steps)
            shift = radius if kind == "l1" else None
            changed = radius if kind == "l0" else None
            queries.append(Query(steps, low, high, label, shift, changed, tie))
        samples.append(queries)
    return samples


def open_questions(rng, kind):
    """A network and samples of which some are robust and some are not, none tied."""
    for _ in range(100):
        widths = (3, 3, 3, 2) if kind == "l1" else (4, 4, 3)
        # Balls of any window are enumerated: few steps.
        num_steps = 6 if kind == "l0" else len(widths) + 4
        network = random_network(rng, widths, num_steps)
        samples = [
            queries
            for queries in random_samples(rng, network, 16, kind)
            if not replay.falsifies(network, queries[0], queries[0].spike_steps)
        ][:12]
        robust = [small_networks.is_robust(network, queries[-1]) for queries in samples]
        if 2 <= sum(robust) <= len(robust) - 2:
            return network, samples
    raise AssertionError("no such network")


def check(network, samples, decisions, complete):
    """Returns how many counterexamples were found beyond clean ties, and exist."""
    seen = set()
    num_found = num_existing = 0
    for decision in decisions:
        seen.add((decision.sample, decision.query))
        query, result = samples[decision.sample][decision.query], decision.result
        expected = small_networks.is_robust(network, query)
        if result.stage is not Stage.CLEAN:
            num_found += result.verdict is Verdict.FALSIFIED
            num_existing += not expected
        if result.verdict is Verdict.ROBUST:
            assert expected
        elif result.verdict is Verdict.FALSIFIED:
            assert not expected
            assert query.admits(result.counterexample)
            outputs = replay.spike_steps(network, result.counterexample)[-1]
            assert query.violated_by(outputs)
        else:
            assert not complete
        assert result.seconds >= 0
    assert seen == {(s, q) for s in range(len(samples)) for q in range(2)}
    return num_found, num_existing


@pytest.mark.parametrize("kind", ["linf", "l1", "l0"])
@pytest.mark.parametrize(
    "stages",
    [
        cascade.STAGES,
        (Stage.BOUNDS,),
        (Stage.ATTACK,),
        (Stage.SOLVE,),
    ],
    ids=lambda stages: "-".join(stage.value for stage in stages),
)
def test_verdicts_equal_enumeration(kind, stages):
    rng = np.random.default_rng(len(kind) * 7 + len(stages))
    network, samples = open_questions(rng, kind)
    config = cascade.CascadeConfig(
        stages=stages, backends=("pysat",), batch_size=8, effort=EFFORT
    )
    decisions = list(cascade.verify(network, samples, config, jax.random.key(0)))
    complete = Stage.SOLVE in stages
    num_found, num_existing = check(network, samples, decisions, complete)
    if stages == (Stage.ATTACK,):
        assert num_existing > 0
        assert num_found >= 0.9 * num_existing


def test_balls_with_many_undecided_spikes_are_attacked_again(monkeypatch):
    network, samples = open_questions(np.random.default_rng(3), "linf")
    config = cascade.CascadeConfig(
        stages=(Stage.BOUNDS, Stage.ATTACK),
        effort=attack.AttackConfig(
            num_restarts=1, num_iterations=3, num_draws=1, beam_width=0
        ),
    )

    def count_found(spikes_per_attack, seconds=60.0):
        monkeypatch.setattr(batched, "SPIKES_PER_ATTACK", spikes_per_attack)
        limited = dataclasses.replace(config, seconds=seconds)
        decisions = cascade.verify(network, samples, limited, jax.random.key(0))
        return check(network, samples, decisions, complete=False)[0]

    once = count_found(1000)
    assert count_found(0.1) > once
    # Where the first attack has taken as long as a solver may, it stays the only one.
    assert count_found(0.1, seconds=1e-9) == once


@pytest.mark.parametrize("tie", list(Tie))
def test_every_reading_of_ties_equals_enumeration(tie):
    rng = np.random.default_rng(5)
    network = random_network(rng)
    samples = random_samples(rng, network, 10, "linf", tie)
    config = cascade.CascadeConfig(
        stages=(Stage.BOUNDS, Stage.SOLVE), backends=("pysat",)
    )
    decisions = list(cascade.verify(network, samples, config, jax.random.key(1)))
    check(network, samples, decisions, complete=True)


def test_worker_processes_give_the_same_verdicts():
    rng = np.random.default_rng(3)
    network = random_network(rng)
    samples = random_samples(rng, network, 6, "linf")
    verdicts = []
    for workers in (0, 2):
        config = cascade.CascadeConfig(
            stages=(Stage.SOLVE,), backends=("pysat",), workers=workers
        )
        decisions = cascade.verify(network, samples, config, jax.random.key(0))
        verdicts.append({(d.sample, d.query): d.result.verdict for d in decisions})
    assert verdicts[0] == verdicts[1]


def test_clean_ties_are_told_apart():
    network = IntegerNetwork((Dense(np.array([[1], [1]]), np.array([0, 0])),), 4)
    query = linf_query(np.array([1]), 0, 0, 4)
    (decision,) = cascade.verify(
        network, [[query]], cascade.CascadeConfig(), jax.random.key(0)
    )
    assert decision.result.verdict is Verdict.FALSIFIED
    assert decision.result.stage is Stage.CLEAN


def test_a_limit_that_is_too_short_is_a_timeout():
    rng = np.random.default_rng(0)
    network = random_network(rng, (40, 40, 10), num_steps=16)
    steps = rng.integers(0, 16, 40)
    label = replay.prediction(replay.spike_steps(network, steps)[-1])
    query = Query(steps, *window_ball(steps, 3, 16), label, tie=Tie.S4NN)
    (result,) = solve(network, [query], seconds=1e-4, names=("pysat",))
    assert result.verdict is Verdict.TIMEOUT
    assert result.stage is None


def test_unknown_backends_and_limits_are_refused():
    network = IntegerNetwork((Dense(np.array([[1], [1]]), np.array([0, 0])),), 4)
    query = linf_query(np.array([1]), 0, 0, 4)
    with pytest.raises(ValueError, match="kissat"):
        solve(network, [query], 1.0, ("kissat",))
    with pytest.raises(ValueError, match="seconds"):
        cascade.CascadeConfig(seconds=0)
