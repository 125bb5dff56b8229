"""Weights set to zero after blocks were removed, and the joint certificate of both."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from experiments.prune_task import Task
from jaxprune import certify, heal, sparsify
from jaxprune.prunable import Prunable, Variables

METHODS = ("magnitude", "wanda")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A pruned model with a share of its weights at zero.

    Attributes:
        sparsity: of each kernel, as asked for; 0 for the model as pruning left it.
        share: of all parameters that are zero by that.
        variables: of the model.
    """

    sparsity: float
    share: float
    variables: Mapping[str, Any]


def candidates(
    method: str,
    levels: Sequence[float],
    model: Prunable,
    variables: Variables,
    module: nn.Module | None,
    calibration: Sequence[Any],
    task: Task,
    *,
    reestimate: bool,
) -> list[Candidate]:
    """Returns the model as it is, and then at each level, increasing.

    Args:
        method: magnitude, or wanda (which needs the Linen module).
        levels: share of each kernel that goes, in (0, 1).
        model: after depth pruning.
        variables: of the model.
        module: that the model runs.
        calibration: batches of inputs.
        task: which tells padding from tokens.
        reestimate: whether BatchNorm is re-estimated after each.
    """
    found = [Candidate(0.0, 0.0, variables)]
    if not levels:
        return found
    params = variables["params"]
    inputs = None
    if method == "wanda":
        assert module is not None
        inputs = kernel_inputs(module, variables, calibration, task)
    for level in sorted(levels):
        if inputs is None:
            masks = sparsify.magnitude_masks(params, level)
        else:
            masks = sparsify.wanda_masks(params, inputs, level)
        sparse = {**variables, "params": sparsify.apply_masks(params, masks)}
        if reestimate:
            sparse = heal.reestimate_batch_norm(model, sparse, calibration)
        found.append(Candidate(level, sparsify.sparsity(params, masks), sparse))
    return found


def kernel_inputs(
    module: nn.Module, variables: Variables, calibration: Sequence[Any], task: Task
) -> dict[str, sparsify.KernelInputs]:
    """Returns the input norms of all layers, each over the tokens that it reads."""
    if not task.token_masks:
        return sparsify.linen_kernel_inputs(module, variables, calibration)
    of_stack = {
        stack: sparsify.linen_kernel_inputs(
            module, variables, calibration, mask_fn=mask_fn
        )
        for stack, mask_fn in task.token_masks.items()
    }
    paths = next(iter(of_stack.values()))
    return {path: of_stack[task.reads(path)][path] for path in paths}


def certified(
    base_correct: np.ndarray,
    correct: Sequence[np.ndarray],
    tolerance: float,
    confidence: float,
) -> tuple[int, list[certify.Certificate]]:
    """Returns which candidate is kept, and the certificates of those that were tested.

    Candidates are tested from the densest to the sparsest until one fails; all that
    pass are certified together. If even the first fails, it is kept, and nothing is
    claimed. A single candidate has its own bound rather than the tolerance.
    """
    if len(correct) == 1:
        alone = certify.accuracy_drop_certificate(
            base_correct, correct[0], tolerance, confidence
        )
        return 0, [alone]
    tested = certify.fixed_sequence(base_correct, correct, tolerance, confidence)
    return tested.selected or 0, list(tested.certificates)


def describe(
    found: Sequence[Candidate],
    correct: Sequence[np.ndarray],
    certificates: Sequence[certify.Certificate],
) -> list[dict[str, Any]]:
    """Returns a line for each candidate, none if nothing was sparsified.

    The certificate of a candidate that was not tested, because one before it failed,
    is None.
    """
    if len(found) == 1:
        return []
    told = [dataclasses.asdict(certificate) for certificate in certificates]
    padded = [*told, *([None] * (len(found) - len(told)))]
    return [
        {
            "sparsity": candidate.sparsity,
            "share_of_parameters": candidate.share,
            "accuracy": float(right.mean()),
            "certificate": certificate,
        }
        for candidate, right, certificate in zip(found, correct, padded, strict=True)
    ]
