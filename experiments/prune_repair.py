"""Repair of a pruned model, as the flags ask for it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import model_names, progress
from jaxprune import freezing, heal, mpruner, refit
from jaxprune.batches import MaskFn
from jaxprune.prunable import Prunable, Variables


def default_methods(name: str, model: Prunable) -> tuple[str, ...]:
    """Returns the repairs of a model when none are asked for.

    Args:
        name: as given to --model.
        model: unpruned.
    """
    if model.refit:
        return ("refit",)
    # The files of transformers have no place for linear maps.
    return () if model_names.is_transformer(name) else ("batchnorm", "linear")


def methods_for(asked: Collection[str], model: Prunable) -> tuple[str, ...]:
    """Returns those of the repairs asked for that a model allows, for the report."""
    allowed = {
        "refit": any(stack.name in model.refit for stack in model.stacks),
        "linear": model.attach is not None,
        "batchnorm": model.batch_statistics is not None,
    }
    return tuple(method for method in asked if allowed[method])


def without_gradients(
    methods: Collection[str],
    calibration: Sequence[Any],
    before: Prunable,
    before_variables: Variables,
    after: Prunable,
    variables: Variables,
    plans: mpruner.Plans,
    *,
    token_masks: Mapping[str, MaskFn],
) -> tuple[Prunable, dict[str, Any]]:
    """Repairs in closed form, stack by stack.

    Args:
        methods: among refit (the last linear operation of each kept block is fitted
            anew, BatchNorm with it), linear (maps in the place of what was removed,
            which cost parameters) and batchnorm (statistics estimated anew).
        calibration: batches of inputs.
        before: the model that blocks were removed from.
        before_variables: of that model.
        after: the model they are missing from.
        variables: of that one.
        plans: what was removed.
        token_masks: by stack, which tokens of a batch count; all by default.
    """
    variables = dict(variables)
    methods = methods_for(methods, after)
    if methods:
        progress.note(f"repairing without gradients: {', '.join(methods)}")
    linear, reestimate = "linear" in methods, "batchnorm" in methods
    fitted = False
    for plan in plans:
        cut = (before, before_variables, after, variables, plan, calibration)
        if "refit" in methods and plan.stack in after.refit:
            after, variables, _ = refit.refit(*cut, linear_maps=linear)
            fitted = True
        elif linear:
            mask_fn = token_masks.get(plan.stack)
            after, variables, _ = heal.fit_linear_maps(
                *cut, reestimate=reestimate, mask_fn=mask_fn
            )
            fitted = True
    if reestimate and not fitted:
        variables = heal.reestimate_batch_norm(after, variables, calibration)
    return after, variables


def next_to_cuts(model: Prunable, variables: Variables, plans: mpruner.Plans) -> Any:
    """Returns the mask of what is trained when all but the neighbours are frozen."""
    mask: Any = None
    for plan in plans:
        layout = model.stack(plan.stack).layouts["params"]
        assert layout is not None
        part = freezing.trainable_mask(
            variables["params"], layout, freezing.blocks_next_to_cuts(plan)
        )
        mask = part if mask is None else jax.tree.map(np.logical_and, mask, part)
    return mask
