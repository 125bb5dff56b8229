"""The loop, with a model of numbers instead of a network.

Its accuracy is known in closed form, so that what the loop must decide is too.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import checkpoints, clusters, layouts, mpruner, plan, prunable

STACK = "blocks"


def toy_model(structure):
    depth = len(structure.kept[STACK])
    layout = layouts.Named("block_{}")
    protected = {
        i: "must stay" for i, block in enumerate(structure.kept[STACK]) if block == 4
    }
    return prunable.Prunable(
        structure=structure,
        stacks=(plan.Stack(STACK, depth, {"params": layout}, protected=protected),),
        build=toy_model,
        init=lambda key: {"params": {f"block_{i}": jnp.ones(2) for i in range(depth)}},
        apply=lambda variables, x: x,
        activations={},
    )


def base(depth=6):
    model = toy_model(prunable.Structure({STACK: tuple(range(depth))}))
    return model, jax.device_get(model.init(jax.random.key(0)))


def functions(importance, similar=1.0, log=None, select=None):
    """Accuracy is one minus the importance of the blocks that are gone."""

    def told(name):
        if log is not None:
            log.append(name)

    def analyse(model, variables):
        told("analyse")
        depth = model.stack(STACK).num_blocks
        return {STACK: np.full((depth, depth), similar, np.float32)}

    def choose(model, variables, similarity, stride):
        found = clusters.anchored(similarity[STACK], 0.9)
        return {STACK: clusters.removable(found, stride)}

    def heal(before, before_variables, after, variables, plans):
        told("heal")
        return after, jax.tree.map(lambda x: x * np.float32(1.5), variables)

    def recover(model, variables, plans, number):
        told("recover")
        return jax.tree.map(lambda x: x + np.float32(number), variables)

    def evaluate(model, variables):
        kept = model.structure.kept[STACK]
        gone = [i for i in range(len(importance)) if i not in kept]
        return 1.0 - sum(importance[i] for i in gone)

    return mpruner.Functions(analyse, select or choose, heal, recover, evaluate)


def run(importance, settings=None, **options):
    model, variables = base(len(importance))
    settings = settings or mpruner.Settings(max_accuracy_drop=0.1)
    state = mpruner.init(model, variables, settings)
    return mpruner.run(model, settings, functions(importance, **options), state)


def test_all_of_a_cluster_goes_when_nothing_is_lost():
    state = run([0.0] * 6)
    assert state.accepted.structure.kept == {STACK: (0, 4)}
    assert [r.accepted for r in state.rounds] == [True]
    assert state.accepted_accuracy == state.base_accuracy == 1.0


def test_what_costs_too_much_is_restored_and_the_stride_raised():
    """Worked by hand: stride 1 removes 1,2,3,5; 2 removes 1,3,5; 3 removes 1."""
    state = run([0, 0, 0.2, 0.2, 0, 0.2])
    assert [(r.stride, r.removed[STACK], r.accepted) for r in state.rounds] == [
        (1, (1, 2, 3, 5), False),
        (2, (1, 3, 5), False),
        (3, (1,), True),
        (3, (2, 5), False),
    ]
    assert state.accepted.structure.kept == {STACK: (0, 2, 3, 4, 5)}
    assert "drop 0.6000 is above 0.1" in state.rounds[0].reason
    variables = state.accepted.variables["params"]
    # Healed once and trained once, in round 3; the rejected rounds left no trace.
    assert all((block == 1.5 + 3).all() for block in variables.values())


def test_records_say_what_each_repair_gained():
    accuracies = iter([1.0, 0.2, 0.5, 0.95, 0.2, 0.5, 0.9])
    made = dataclasses.replace(
        functions([0] * 3), evaluate=lambda model, variables: next(accuracies)
    )
    model, variables = base(3)
    settings = mpruner.Settings(0.1, stride=2)
    state = mpruner.run(model, settings, made, mpruner.init(model, variables, settings))
    first, second = state.rounds
    assert first.accuracy_before_repair == 0.2
    assert first.accuracy_after_heal == 0.5
    assert first.accuracy_after_recovery == 0.95
    assert first.accepted
    # 1.0 - 0.9 is a little less than 0.1 in binary.
    assert second.accuracy_after_recovery == 0.9
    assert first.seconds > 0


def test_the_same_blocks_are_not_tried_twice():
    log = []
    state = run([0, 1.0], log=log)
    assert [r.stride for r in state.rounds] == [1, 2, 3]
    assert [r.accepted for r in state.rounds] == [False] * 3
    assert "rejected before" in state.rounds[1].reason
    assert log == ["analyse", "heal", "recover"]


@pytest.mark.parametrize("accuracy", [float("nan"), -1.0])
def test_accuracies_that_are_no_number_reject(accuracy):
    made = dataclasses.replace(
        functions([0] * 4),
        evaluate=lambda model, variables: (
            1.0 if model.stack(STACK).num_blocks == 4 else accuracy
        ),
    )
    model, variables = base(4)
    settings = mpruner.Settings(0.5)
    state = mpruner.run(model, settings, made, mpruner.init(model, variables, settings))
    assert state.accepted.structure == model.structure
    assert not any(r.accepted for r in state.rounds)


@pytest.mark.parametrize("similar", [float("nan"), 0.0])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_similar_ends_at_once(similar):
    """The published code loops for ever on NaN."""
    state = run([0.0] * 4, similar=similar)
    assert state.rounds == ()
    assert state.step is mpruner.Step.DONE


def test_protected_blocks_alone_end_the_loop():
    state = run([0.0] * 6, select=lambda *_: {STACK: (4,)})
    assert state.rounds == ()


def test_one_block_is_nothing_to_prune():
    assert run([0.0]).rounds == ()


def test_rounds_are_limited():
    settings = mpruner.Settings(0.0, max_rounds=1)
    assert len(run([0, 0.5, 0.5], settings).rounds) == 1
    assert not run([0, 0.5, 0.5], mpruner.Settings(0.0, max_rounds=0)).rounds


def test_no_similarity_is_measured_that_no_round_would_use():
    log = []
    state = run([0.0] * 4, mpruner.Settings(0.1, max_rounds=1), log=log)
    assert state.rounds[-1].accepted
    assert state.step is mpruner.Step.DONE
    assert log.count("analyse") == 1


@settings(max_examples=40, deadline=None)
@given(
    importance=st.lists(st.sampled_from([0.0, 0.05, 0.3]), min_size=1, max_size=7),
    drop=st.sampled_from([0.0, 0.1, 1.0]),
    stride=st.integers(1, 4),
)
def test_the_loop_ends_within_its_budget(importance, drop, stride):
    state = run(importance, mpruner.Settings(drop, stride, max_stride=3))
    accepted = [r for r in state.rounds if r.accepted]
    assert len(state.rounds) <= len(importance) + 3
    assert state.base_accuracy - state.accepted_accuracy <= drop + 1e-9
    removed = [block for r in accepted for block in r.removed[STACK]]
    kept = state.accepted.structure.kept[STACK]
    assert sorted([*removed, *kept]) == list(range(len(importance)))


def same(a, b):
    """Equality of states, the time they took aside."""
    timeless = [
        dataclasses.replace(
            s, rounds=tuple(dataclasses.replace(r, seconds=0.0) for r in s.rounds)
        )
        for s in (a, b)
    ]
    plain = [
        dataclasses.replace(
            s, accepted=None, candidate=None, similarity=None, base_similarity=None
        )
        for s in timeless
    ]
    arrays = [jax.tree.leaves(part(s)) for s in (a, b)]
    return (
        plain[0] == plain[1]
        and a.accepted.structure == b.accepted.structure
        and len(arrays[0]) == len(arrays[1])
        and all(map(np.array_equal, *arrays))
    )


def part(state):
    candidate = state.candidate.variables if state.candidate else {}
    return (state.accepted.variables, candidate, state.similarity)


IMPORTANCE = [0, 0, 0.2, 0.2, 0, 0.2]


def test_a_loop_resumed_after_any_step_ends_the_same(tmp_path):
    model, variables = base()
    settings = mpruner.Settings(0.1)
    made = functions(IMPORTANCE)
    states = []
    start = mpruner.init(model, variables, settings)
    whole = mpruner.run(model, settings, made, start, states.append)
    for state in [start, *states[:-1]]:
        mpruner.save_state(tmp_path / "loop", state)
        loaded = mpruner.load_state(tmp_path / "loop")
        assert same(loaded, state)
        assert same(mpruner.run(model, settings, made, loaded), whole)


def test_the_loop_resumes_wherever_it_was_stopped(tmp_path):
    """An exception in any call stands for a kill; the state on disk goes on."""
    model, variables = base()
    settings = mpruner.Settings(0.1)
    whole = run(IMPORTANCE, settings)

    class Stop(Exception):
        pass

    for fatal in itertools.count(step=2):
        directory = tmp_path / str(fatal)
        calls = itertools.count()

        def stopping(function, fatal=fatal, calls=calls):
            def call(*args):
                if next(calls) == fatal:
                    raise Stop
                return function(*args)

            return call

        made = functions(IMPORTANCE)
        named = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
        fatal_functions = mpruner.Functions(
            **{name: stopping(function) for name, function in named.items()}
        )
        start = mpruner.init(model, variables, settings)

        def save(state, directory=directory):
            mpruner.save_state(directory, state)

        try:
            mpruner.run(model, settings, fatal_functions, start, save)
        except Stop:
            loaded = mpruner.load_state(directory) or start
            assert same(mpruner.run(model, settings, made, loaded), whole)
        else:
            break
    assert fatal > 10


def test_a_full_disk_leaves_the_previous_state(tmp_path, monkeypatch):
    model, variables = base()
    settings = mpruner.Settings(0.1)
    state = mpruner.init(model, variables, settings)
    mpruner.save_state(tmp_path / "loop", state)
    later = mpruner.advance(model, settings, functions(IMPORTANCE), state)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.json, "dumps", full)
    with pytest.raises(OSError, match="No space"):
        mpruner.save_state(tmp_path / "loop", later)
    monkeypatch.undo()
    assert same(mpruner.load_state(tmp_path / "loop"), state)


def test_no_state_is_none(tmp_path):
    assert mpruner.load_state(tmp_path / "loop") is None


@pytest.mark.parametrize(
    "arguments", [{"max_accuracy_drop": -0.1}, {"max_accuracy_drop": 0, "stride": 0}]
)
def test_settings_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        mpruner.Settings(**arguments)
