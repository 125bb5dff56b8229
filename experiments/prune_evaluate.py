"""Which examples a model gets right."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.prune_data import Examples, batch_size, batches
from experiments.prune_task import Task
from jaxprune.batches import pad_batches
from jaxprune.prunable import Prunable, Variables

_BATCH_SIZE = 500


class Evaluator:
    """Runs models over examples; each structure is compiled once.

    Args:
        task: says what is correct.
    """

    def __init__(self, task: Task):
        self._task = task
        self._compiled: dict[str, Callable[..., Any]] = {}

    def correct(
        self, model: Prunable, variables: Variables, examples: Examples
    ) -> np.ndarray:
        """Returns `[N]` booleans: whether the model gets each example right."""
        structure = json.dumps(model.structure.to_json())
        if structure not in self._compiled:
            self._compiled[structure] = jax.jit(
                lambda variables, inputs, labels: self._task.correct(
                    model.apply(variables, inputs), labels
                )
            )
        judge = self._compiled[structure]
        size = batch_size(examples.inputs, _BATCH_SIZE)
        parts = batches((examples.inputs, examples.labels), size)
        # Filled up, so that all batches share one compiled program.
        judged = [
            np.asarray(judge(variables, inputs, labels))[counts]
            for (inputs, labels), counts in pad_batches(parts)
        ]
        return np.concatenate(judged)

    def accuracy(
        self, model: Prunable, variables: Variables, examples: Examples
    ) -> float:
        """Returns the share of examples that the model gets right."""
        return float(self.correct(model, variables, examples).mean())
