"""Batches of trees, and the last of them filled up."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prune_data, prune_evaluate, prune_task
from jaxprune import layouts, plan, prunable

STACK = "blocks"


def threshold_model():
    """Says class 1 where the sum of two inputs is above a threshold."""
    structure = prunable.Structure({STACK: (0,)})

    def apply(variables, inputs):
        total = inputs["a"].sum(-1) + inputs["b"]
        return jnp.stack([jnp.zeros_like(total), total - variables["params"]["t"]], -1)

    return prunable.Prunable(
        structure=structure,
        stacks=(plan.Stack(STACK, 1, {"params": layouts.Listed()}),),
        build=lambda _: threshold_model(),
        init=lambda _: {"params": {"t": jnp.float32(0)}},
        apply=apply,
        activations={},
    )


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1003])
def test_each_example_is_judged_once_and_in_order(count):
    rng = np.random.default_rng(count)
    inputs = {
        "a": rng.normal(size=(count, 3)).astype(np.float32),
        "b": rng.normal(size=count).astype(np.float32),
    }
    labels = rng.integers(0, 2, count).astype(np.int32)
    evaluator = prune_evaluate.Evaluator(prune_task.CLASSIFICATION)
    found = evaluator.correct(
        threshold_model(),
        {"params": {"t": np.float32(0.1)}},
        prune_data.Examples(inputs, labels),
    )
    expected = (inputs["a"].sum(-1) + inputs["b"] > np.float32(0.1)) == labels
    np.testing.assert_array_equal(found, expected)
