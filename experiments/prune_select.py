"""The rule that chooses which blocks go."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import run_state
from jaxprune import baselines, clusters, cost, plan, prunable
from jaxprune.batches import MaskFn
from jaxprune.prunable import Prunable, Variables

_RESCORED = 8  # plans that are compared by their loss

# (model, variables) -> loss on calibration examples.
LossFn = Callable[[Prunable, Variables], float]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How blocks are chosen.

    Attributes:
        score: cka, or the baseline that removes as many blocks as cka would.
        clusters: anchored (the paper's rule), optimal, or rescored: of the
            clusterings that remove the most, the one of least loss.
        block_cost: what optimal clusters save the most of, parameters or latency.
        threshold: similarity that makes a cluster.
        calibration: batches of inputs, for scores that look at activations.
        token_masks: by stack, which tokens of a batch count; all by default.
        loss: after the repair that needs no gradients, for the score of that name.
        key: of the random choice.
        given: blocks of the unpruned model that the user chose, by stack; they are
            removed at once, and nothing else is.
    """

    score: str
    clusters: str
    block_cost: str
    threshold: float
    calibration: Sequence[Any]
    token_masks: Mapping[str, MaskFn]
    loss: LossFn
    key: jax.Array
    given: Mapping[str, Sequence[int]] | None = None


def given(entries: Sequence[str], model: Prunable) -> dict[str, tuple[int, ...]]:
    """Returns the blocks that --remove names, by stack.

    Args:
        entries: `BLOCK`, or `STACK:BLOCK` where there are several stacks.
        model: unpruned.

    Raises:
        run_state.UsageError: if there is no such block, or it must stay.
    """
    chosen: dict[str, list[int]] = {stack.name: [] for stack in model.stacks}
    for entry in entries:
        name, _, block = entry.rpartition(":")
        if not name and len(chosen) == 1:
            (name,) = chosen
        if name not in chosen:
            stacks = ", ".join(f"{stack}:{block}" for stack in chosen)
            raise run_state.usage_error(
                "remove", entry, f"say of which stack: {stacks}"
            )
        chosen[name].append(int(block))
    for stack in model.stacks:
        try:
            plan.make_plan(stack, chosen[stack.name])
        except ValueError as error:
            value = ",".join(entries)
            raise run_state.usage_error("remove", value, str(error)) from error
    return {name: tuple(sorted(set(blocks))) for name, blocks in chosen.items()}


def select(
    rule: Rule,
    model: Prunable,
    variables: Variables,
    matrices: Mapping[str, np.ndarray],
    stride: int,
) -> dict[str, tuple[int, ...]]:
    """Returns the blocks to remove, by stack."""
    if rule.given is not None:
        return {
            name: tuple(new for new, old in enumerate(kept) if old in rule.given[name])
            for name, kept in model.structure.kept.items()
        }
    chosen = {
        stack.name: _by_similarity(
            rule, model, stack, variables, matrices[stack.name], stride
        )
        for stack in model.stacks
    }
    if rule.score == "cka":
        return chosen
    return {
        stack.name: _by_baseline(rule, model, variables, stack, len(chosen[stack.name]))
        for stack in model.stacks
    }


def _by_similarity(
    rule: Rule,
    model: Prunable,
    stack: plan.Stack,
    variables: Variables,
    matrix: np.ndarray,
    stride: int,
) -> tuple[int, ...]:
    if rule.clusters == "anchored":
        found = clusters.anchored(matrix, rule.threshold)
        removed = clusters.removable(found, stride)
        return tuple(block for block in removed if block not in stack.protected)
    best = clusters.best_clusters(
        matrix,
        rule.threshold,
        _block_costs(rule, model, variables, stack),
        stack.stages,
        tuple(stack.protected),
        num_plans=_RESCORED if rule.clusters == "rescored" else 1,
        stride=stride,
    )
    plans = [clusters.removable(found, stride) for found in best]
    # The last of few may be the one that removes nothing, at no loss.
    if len(proper := [removed for removed in plans if removed]) < 2:
        return plans[0]
    return baselines.rescore(proper, _loss_without(rule, model, variables, stack))[0][1]


def _block_costs(
    rule: Rule, model: Prunable, variables: Variables, stack: plan.Stack
) -> list[float]:
    """Returns what the removal of each block saves."""
    layouts = {
        name: layout
        for name, layout in stack.layouts.items()
        if layout is not None and name in variables
    }
    blocks = [
        dict(zip(layouts, parts, strict=True))
        for parts in zip(
            *(layouts[name].blocks(variables[name]) for name in layouts), strict=True
        )
    ]
    if rule.block_cost == "parameters" or stack.name not in model.refit:
        return [float(cost.count_parameters(block["params"])) for block in blocks]
    hook = model.refit[stack.name]
    return cost.block_latencies(hook, blocks, variables, rule.calibration[0])


def _loss_without(
    rule: Rule, model: Prunable, variables: Variables, stack: plan.Stack
) -> Callable[[tuple[int, ...]], float]:
    def loss(removed: tuple[int, ...]) -> float:
        made = plan.make_plan(stack, removed)
        return rule.loss(*prunable.prune(model, variables, made))

    return loss


def _by_baseline(
    rule: Rule, model: Prunable, variables: Variables, stack: plan.Stack, count: int
) -> tuple[int, ...]:
    """Returns as many blocks as CKA would remove, chosen by another rule."""
    protected = {*stack.protected, 0}
    if not count:
        return ()
    if rule.score == "last":
        return baselines.last_blocks(stack.num_blocks, count, protected)
    if rule.score == "random":
        key = jax.random.fold_in(rule.key, 1000 + stack.num_blocks)
        return baselines.random_blocks(key, stack.num_blocks, count, protected)
    if rule.score == "loss":
        loss = _loss_without(rule, model, variables, stack)
        return baselines.greedy_by_loss(loss, stack.num_blocks, count, protected)[-1]
    cosines = baselines.cosine_state(
        model.activations[stack.name],
        variables,
        rule.calibration,
        mask_fn=rule.token_masks.get(stack.name),
    )
    if rule.score == "block_influence":
        scores = np.asarray(baselines.block_influence(cosines))
        return baselines.lowest_scores(scores, count, protected)
    # A span of neighbours: as long as fits between the blocks that must stay.
    for length in range(count, 0, -1):
        try:
            return baselines.closest_span(cosines, length, protected)
        except ValueError:
            continue
    return ()
