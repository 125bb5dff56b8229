"""What a model costs and how often it is right, on examples used for nothing else."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.prune_data import batch_size, batches
from jaxprune import cost
from jaxprune.batches import num_examples
from jaxprune.prunable import Prunable, Variables

_LATENCY_BATCH = 32


def measure(
    models: Mapping[str, tuple[Prunable, Variables]],
    correct: Mapping[str, np.ndarray],
    inputs: Any,
) -> dict[str, dict[str, Any]]:
    """Returns the measures of several models, their latency taken in turns.

    Args:
        models: by name, with their variables.
        correct: by the same names, whether each example is got right.
        inputs: from which the batch is taken that is timed.
    """
    inputs = batches(inputs, batch_size(inputs, _LATENCY_BATCH))[0]
    arguments = {name: (variables, inputs) for name, (_, variables) in models.items()}
    compiled = {
        name: jax.jit(model.apply).lower(variables, inputs).compile()
        for name, (model, variables) in models.items()
    }
    latency = cost.compare_latency(compiled, arguments)
    size = num_examples(inputs)
    measured = {}
    for name, (model, variables) in models.items():
        flops = cost.count_flops(compiled[name])
        measured[name] = {
            "accuracy": float(correct[name].mean()),
            "num_params": cost.count_parameters(variables["params"]),
            "num_blocks": sum(stack.num_blocks for stack in model.stacks),
            "flops": flops and flops / size,
            "latency_ms": latency[name].median_ms,
            "latency_quartiles_ms": latency[name][1:3],
            "latency_batch_size": size,
        }
    return measured
