"""Repair of a pruned model, as the flags ask for it."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune import heal, mpruner, recover
from jaxprune.prunable import Prunable, Variables


def without_gradients(
    methods: Collection[str],
    calibration: Sequence[Any],
    before: Prunable,
    before_variables: Variables,
    after: Prunable,
    variables: Variables,
    plans: mpruner.Plans,
) -> tuple[Prunable, dict[str, Any]]:
    """Repairs in closed form.

    Args:
        methods: among batchnorm and linear.
        calibration: batches of inputs.
        before: the model that blocks were removed from.
        before_variables: of that model.
        after: the model they are missing from.
        variables: of that one.
        plans: what was removed.
    """
    variables = dict(variables)
    if "linear" in methods and after.attach is not None:
        for plan in plans:
            after, variables, _ = heal.fit_linear_maps(
                before,
                before_variables,
                after,
                variables,
                plan,
                calibration,
                reestimate="batchnorm" in methods,
            )
    elif "batchnorm" in methods:
        variables = heal.reestimate_batch_norm(after, variables, calibration)
    return after, variables


def next_to_cuts(model: Prunable, variables: Variables, plans: mpruner.Plans) -> Any:
    """Returns the mask of what is trained when all but the neighbours are frozen."""
    mask: Any = None
    for plan in plans:
        layout = model.stack(plan.stack).layouts["params"]
        assert layout is not None
        part = recover.trainable_mask(
            variables["params"], layout, recover.blocks_next_to_cuts(plan)
        )
        mask = part if mask is None else jax.tree.map(np.logical_and, mask, part)
    return mask
