"""What a model costs and how often it is right, on examples used for nothing else."""

import json
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
    # Models of one structure are one program, and are timed once.
    programs = {
        name: json.dumps(model.structure.to_json())
        for name, (model, _) in models.items()
    }
    size = num_examples(inputs)
    arguments, compiled, flops = {}, {}, {}
    for name, (model, variables) in models.items():
        if (program := programs[name]) not in compiled:
            arguments[program] = (variables, inputs)
            lowered = jax.jit(model.apply).lower(variables, inputs)
            compiled[program] = lowered.compile()
            counted = cost.count_flops(model.apply, variables, inputs)
            flops[program] = counted and counted / size
    latency = cost.compare_latency(compiled, arguments)
    measured = {}
    for name, (model, variables) in models.items():
        program = programs[name]
        measured[name] = {
            "accuracy": float(correct[name].mean()),
            "num_params": cost.count_parameters(variables["params"]),
            "num_blocks": sum(stack.num_blocks for stack in model.stacks),
            "flops": flops[program],
            "latency_ms": latency[program].median_ms,
            "latency_quartiles_ms": latency[program][1:3],
            "latency_batch_size": size,
        }
    return measured
