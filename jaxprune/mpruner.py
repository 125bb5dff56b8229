"""The outer loop: analyse, plan, heal, recover, evaluate, accept or restore.

MPruner (arXiv 2408.13482) repeats until nothing is removable: find clusters of similar
blocks, remove all but every K-th member, retrain, and accept if the accuracy is within
the budget of the unpruned model's; otherwise restore the last accepted model and raise
the stride K. `advance` takes one step of that from an explicit `State`; `run` repeats
it and hands every state to `save`, so that a run that is killed at any moment goes on
to the same result.

It always ends: an accepted round removes at least one block, a rejected one raises the
stride, and neither can happen for ever.
"""

import dataclasses
import enum
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxprune import checkpoints, prunable
from jaxprune import plan as plan_lib
from jaxprune.prunable import Prunable, Structure, Variables

Array = jax.Array
Removed = Mapping[str, tuple[int, ...]]
Plans = tuple[plan_lib.Plan, ...]

# (model, variables) -> similarity of the blocks, by stack.
AnalyseFn = Callable[[Prunable, Variables], Mapping[str, np.ndarray]]
# (model, variables, similarity, stride) -> blocks to remove, by stack.
SelectFn = Callable[[Prunable, Variables, Mapping[str, np.ndarray], int], Removed]
# (before, its variables, after, its variables, plans) -> healed model and variables.
HealFn = Callable[
    [Prunable, Variables, Prunable, Variables, Plans],
    tuple[Prunable, dict[str, Any]],
]
# (pruned model, its variables, plans, round) -> trained variables.
RecoverFn = Callable[[Prunable, Variables, Plans, int], dict[str, Any]]
EvaluateFn = Callable[[Prunable, Variables], float]


class Step(enum.Enum):
    """What is to be done next."""

    MEASURE = "measure the unpruned model"
    ANALYSE = "analyse similarity"
    PRUNE = "remove blocks"
    HEAL = "heal"
    RECOVER = "recover"
    JUDGE = "judge"
    DONE = "done"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the loop decides by.

    Attributes:
        max_accuracy_drop: largest accepted difference to the unpruned model.
        stride: K of the first round.
        max_stride: the loop ends when a round with this stride is rejected.
        max_rounds: the loop ends after this many rounds; None for no limit.
    """

    max_accuracy_drop: float
    stride: int = 1
    max_stride: int = 3
    max_rounds: int | None = None

    def __post_init__(self) -> None:
        """Checks ranges."""
        if not 0 <= self.max_accuracy_drop <= 1:
            raise ValueError(
                f"max_accuracy_drop={self.max_accuracy_drop} must be within 0..1"
            )
        if self.stride < 1:
            raise ValueError(f"stride={self.stride} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Functions:
    """What the loop calls; each is a function of its arguments alone."""

    analyse: AnalyseFn
    select: SelectFn
    heal: HealFn
    recover: RecoverFn
    evaluate: EvaluateFn


@dataclasses.dataclass(frozen=True)
class Round:
    """Record of one attempt.

    Attributes:
        stride: K.
        removed: by stack, blocks in the base model's numbering.
        accuracy_before_repair: right after removal.
        accuracy_after_heal: after the gradient-free repair.
        accuracy_after_recovery: after training.
        accepted: None while it is not decided.
        reason: why it was accepted or not.
        seconds: time spent in its steps.
    """

    stride: int
    removed: Removed
    accuracy_before_repair: float | None = None
    accuracy_after_heal: float | None = None
    accuracy_after_recovery: float | None = None
    accepted: bool | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A structure with its variables."""

    structure: Structure
    variables: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class State:
    """All that the loop carries.

    Attributes:
        step: what comes next.
        stride: K of the next or current round.
        accepted: the smallest model accepted so far, the unpruned one at first.
        base_accuracy: of the unpruned model, None before it is measured.
        accepted_accuracy: of `accepted`.
        candidate: the model of the round under way.
        similarity: of the accepted model, by stack.
        base_similarity: of the unpruned model, by stack.
        rounds: so far, the one under way last.
    """

    step: Step
    stride: int
    accepted: Candidate
    base_accuracy: float | None = None
    accepted_accuracy: float | None = None
    candidate: Candidate | None = None
    similarity: Mapping[str, np.ndarray] | None = None
    base_similarity: Mapping[str, np.ndarray] | None = None
    rounds: tuple[Round, ...] = ()


def init(model: Prunable, variables: Variables, settings: Settings) -> State:
    """Returns the state before anything was done."""
    candidate = Candidate(model.structure, dict(variables))
    return State(Step.MEASURE, settings.stride, candidate)


def advance(
    base: Prunable, settings: Settings, functions: Functions, state: State
) -> State:
    """Returns the state after the next step; a state that is done stays as it is."""
    started = time.perf_counter()
    state = _TRANSITIONS[state.step](base, settings, functions, state)
    if state.rounds and state.rounds[-1].accepted is None:
        spent = state.rounds[-1].seconds + time.perf_counter() - started
        state = _with_round(state, seconds=spent)
    return state


def run(
    base: Prunable,
    settings: Settings,
    functions: Functions,
    state: State,
    save: Callable[[State], None] | None = None,
) -> State:
    """Advances until the loop is done and returns the last state.

    Args:
        base: the unpruned model, from which pruned ones are built.
        settings: what the loop decides by.
        functions: what it calls.
        state: from `init`, or from `load_state`.
        save: called with every new state.
    """
    while state.step is not Step.DONE:
        state = advance(base, settings, functions, state)
        if save is not None:
            save(state)
    return state


def plans_of(base: Prunable, before: Structure, after: Structure) -> Plans:
    """Returns what was removed between two structures of the same base model.

    The plans are in the numbering of `before`; stacks that lost nothing have none.
    """
    model = base.build(before)
    plans = []
    for name, kept in before.kept.items():
        removed = [i for i, block in enumerate(kept) if block not in after.kept[name]]
        if removed:
            plans.append(plan_lib.make_plan(model.stack(name), removed))
    return tuple(plans)


def _with_round(state: State, **changes: Any) -> State:
    last = dataclasses.replace(state.rounds[-1], **changes)
    return dataclasses.replace(state, rounds=(*state.rounds[:-1], last))


def _measure(base: Prunable, _: Settings, functions: Functions, state: State) -> State:
    accuracy = functions.evaluate(base, state.accepted.variables)
    return dataclasses.replace(
        state, step=Step.ANALYSE, base_accuracy=accuracy, accepted_accuracy=accuracy
    )


def _analyse(base: Prunable, _: Settings, functions: Functions, state: State) -> State:
    model = base.build(state.accepted.structure)
    similarity = functions.analyse(model, state.accepted.variables)
    return dataclasses.replace(
        state,
        step=Step.PRUNE,
        similarity=similarity,
        base_similarity=state.base_similarity or similarity,
    )


def _prune(
    base: Prunable, settings: Settings, functions: Functions, state: State
) -> State:
    done = dataclasses.replace(state, step=Step.DONE)
    if not _may_go_on(settings, state):
        return done
    model, variables = base.build(state.accepted.structure), state.accepted.variables
    assert state.similarity is not None
    proposed = functions.select(model, variables, state.similarity, state.stride)
    removed: dict[str, tuple[int, ...]] = {}
    for name, blocks in proposed.items():
        refused = plan_lib.refusals(model.stack(name), blocks)
        if chosen := [block for block in sorted(blocks) if block not in refused]:
            kept = model.structure.kept[name]
            removed[name] = tuple(kept[block] for block in chosen)
            made = plan_lib.make_plan(model.stack(name), chosen)
            model, variables = prunable.prune(model, variables, made)
    if not removed:
        return done
    tried = Round(state.stride, removed)
    since = _rejected_since_accepted(state.rounds)
    if any(removed == attempt.removed for attempt in since):
        # The same blocks were rejected at a smaller stride; nothing would change.
        reason = "rejected before: the same blocks at a smaller stride"
        attempted = dataclasses.replace(tried, accepted=False, reason=reason)
        state = dataclasses.replace(state, rounds=(*state.rounds, attempted))
        return _raise_stride(settings, state)
    state = dataclasses.replace(
        state,
        step=Step.HEAL,
        candidate=Candidate(model.structure, variables),
        rounds=(*state.rounds, tried),
    )
    accuracy = functions.evaluate(model, variables)
    return _with_round(state, accuracy_before_repair=accuracy)


def _may_go_on(settings: Settings, state: State) -> bool:
    return settings.max_rounds is None or len(state.rounds) < settings.max_rounds


def _rejected_since_accepted(rounds: tuple[Round, ...]) -> list[Round]:
    since: list[Round] = []
    for attempt in rounds:
        since = [] if attempt.accepted else [*since, attempt]
    return since


def _heal(base: Prunable, _: Settings, functions: Functions, state: State) -> State:
    assert state.candidate is not None
    before, after = state.accepted.structure, state.candidate.structure
    model, variables = functions.heal(
        base.build(before),
        state.accepted.variables,
        base.build(after),
        state.candidate.variables,
        plans_of(base, before, after),
    )
    candidate = Candidate(model.structure, variables)
    state = dataclasses.replace(state, step=Step.RECOVER, candidate=candidate)
    return _with_round(state, accuracy_after_heal=functions.evaluate(model, variables))


def _recover(base: Prunable, _: Settings, functions: Functions, state: State) -> State:
    assert state.candidate is not None
    before, after = state.accepted.structure, state.candidate.structure
    model = base.build(after)
    plans = plans_of(base, before, after)
    variables = functions.recover(
        model, state.candidate.variables, plans, len(state.rounds)
    )
    state = dataclasses.replace(
        state, step=Step.JUDGE, candidate=Candidate(after, variables)
    )
    accuracy = functions.evaluate(model, variables)
    return _with_round(state, accuracy_after_recovery=accuracy)


def _judge(_: Prunable, settings: Settings, __: Functions, state: State) -> State:
    candidate, accuracy = state.candidate, state.rounds[-1].accuracy_after_recovery
    assert candidate is not None
    assert accuracy is not None
    assert state.base_accuracy is not None
    drop = state.base_accuracy - accuracy
    # `not <=` rejects an accuracy that is not a number, too.
    if not drop <= settings.max_accuracy_drop:
        reason = f"accuracy drop {drop:.4f} is above {settings.max_accuracy_drop:g}"
        state = _with_round(state, accepted=False, reason=reason)
        return _raise_stride(settings, dataclasses.replace(state, candidate=None))
    reason = f"accuracy drop {drop:.4f} is within {settings.max_accuracy_drop:g}"
    state = _with_round(state, accepted=True, reason=reason)
    return dataclasses.replace(
        state,
        # Similarity serves the next round.
        step=Step.ANALYSE if _may_go_on(settings, state) else Step.DONE,
        accepted=candidate,
        accepted_accuracy=accuracy,
        candidate=None,
        similarity=None,
    )


def _raise_stride(settings: Settings, state: State) -> State:
    if state.stride >= settings.max_stride:
        return dataclasses.replace(state, step=Step.DONE)
    return dataclasses.replace(state, step=Step.PRUNE, stride=state.stride + 1)


def _stay(_: Prunable, __: Settings, ___: Functions, state: State) -> State:
    return state


_TRANSITIONS: dict[Step, Callable[[Prunable, Settings, Functions, State], State]] = {
    Step.MEASURE: _measure,
    Step.ANALYSE: _analyse,
    Step.PRUNE: _prune,
    Step.HEAL: _heal,
    Step.RECOVER: _recover,
    Step.JUDGE: _judge,
    Step.DONE: _stay,
}


def save_state(directory: str | os.PathLike[str], state: State) -> None:
    """Writes a state as a checkpoint, whole or not at all.

    Raises:
        OSError: if it cannot be written; the state that was there is still there.
    """
    arrays: dict[str, Any] = {"accepted": state.accepted.variables}
    if state.candidate is not None:
        arrays["candidate"] = state.candidate.variables
    for name in ("similarity", "base_similarity"):
        if (matrices := getattr(state, name)) is not None:
            arrays[name] = {k: np.asarray(v) for k, v in matrices.items()}
    facts = {
        "step": state.step.name,
        "stride": state.stride,
        "base_accuracy": state.base_accuracy,
        "accepted_accuracy": state.accepted_accuracy,
        "accepted": state.accepted.structure.to_json(),
        "candidate": state.candidate and state.candidate.structure.to_json(),
        "rounds": [dataclasses.asdict(attempt) for attempt in state.rounds],
    }
    checkpoints.save(directory, arrays, facts)


def load_state(directory: str | os.PathLike[str]) -> State | None:
    """Returns the state that `save_state` wrote, or None if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    if not checkpoints.exists(pathlib.Path(directory)):
        return None
    arrays, facts = checkpoints.load(directory)
    candidate = None
    if facts["candidate"] is not None:
        candidate = Candidate(
            Structure.from_json(facts["candidate"]), arrays["candidate"]
        )
    return State(
        step=Step[facts["step"]],
        stride=facts["stride"],
        accepted=Candidate(Structure.from_json(facts["accepted"]), arrays["accepted"]),
        base_accuracy=facts["base_accuracy"],
        accepted_accuracy=facts["accepted_accuracy"],
        candidate=candidate,
        similarity=_on_host(arrays.get("similarity")),
        base_similarity=_on_host(arrays.get("base_similarity")),
        rounds=tuple(_round(attempt) for attempt in facts["rounds"]),
    )


def _on_host(matrices: Any) -> dict[str, np.ndarray] | None:
    return matrices and {name: np.asarray(x) for name, x in matrices.items()}


def _round(facts: dict[str, Any]) -> Round:
    removed = {name: tuple(blocks) for name, blocks in facts.pop("removed").items()}
    return Round(removed=removed, **facts)
