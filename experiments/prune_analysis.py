"""Similarity of the blocks, and what it takes beside a plain forward pass."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import json_files, progress
from experiments.prune_task import Task
from jaxprune import similarity, uncertainty
from jaxprune.batches import MaskFn
from jaxprune.prunable import Prunable, Variables

TIMING_FILE = "analysis.json"
NOISE_FILE = "noise.json"


def analyse(
    workdir: pathlib.Path,
    task: Task,
    calibration: Sequence[Any],
    model: Prunable,
    variables: Variables,
) -> dict[str, np.ndarray]:
    """Returns similarity by stack; times the first analysis of a run.

    Args:
        workdir: for the seconds it took.
        task: says which tokens count and how similarity is estimated.
        calibration: batches of inputs, all of one size.
        model: whose blocks are compared.
        variables: of the model.
    """
    functions = {
        name: similarity.batch_total_fn(activations_fn, task.estimator)
        for name, activations_fn in model.activations.items()
    }

    @jax.jit
    def step(variables: Variables, inputs: Any, masks: Any) -> Any:
        # XLA merges the repeated forward passes of a model with several stacks.
        return {
            name: function(variables, inputs, masks[name])
            for name, function in functions.items()
        }

    def analysis(inputs: Any) -> Any:
        masks = {name: _mask(task.token_masks.get(name), inputs) for name in functions}
        return step(variables, inputs, masks)

    path = workdir / TIMING_FILE
    forward = None if path.exists() else jax.jit(model.apply)
    if forward is not None:
        # Compiled before anything is timed.
        jax.block_until_ready(analysis(calibration[0]))
        jax.block_until_ready(forward(variables, calibration[0]))
    states: Any = None
    seconds = {"analysis_seconds": 0.0, "forward_seconds": 0.0}
    for inputs in progress.track(list(calibration), "similarity"):
        added, spent = _timed(analysis, inputs)
        seconds["analysis_seconds"] += spent
        if forward is not None:
            # In turns, so that a change of the machine's load favours neither.
            seconds["forward_seconds"] += _timed(forward, variables, inputs)[1]
        states = added if states is None else _merged(states, added)
    if forward is not None:
        json_files.write_json_atomic(path, seconds)
    return {
        name: np.asarray(similarity.finish(state)) for name, state in states.items()
    }


def _mask(mask_fn: MaskFn | None, inputs: Any) -> np.ndarray | None:
    """Returns None where everything counts: that program is faster."""
    mask = None if mask_fn is None else np.asarray(mask_fn(inputs), bool)
    return None if mask is None or mask.all() else mask


def check_noise(
    task: Task,
    threshold: float,
    num_permutations: int,
    key: jax.Array,
    model: Prunable,
    variables: Variables,
    batch: Any,
) -> dict[str, float | None]:
    """Warns, by stack, of a threshold that unrelated blocks reach by chance.

    Args:
        task: says which tokens count and how similarity is estimated.
        threshold: of clusters.
        num_permutations: of the examples.
        key: of the permutations.
        model: whose blocks are compared.
        variables: of the model.
        batch: of inputs.

    Returns:
        The similarity that is reached by chance in one of twenty permutations of this
        batch; None where it is undefined.
    """
    floors: dict[str, float | None] = {}
    for name, activations_fn in model.activations.items():
        floor = uncertainty.noise_floor(
            activations_fn,
            variables,
            [batch],
            key,
            estimator=task.estimator,
            mask_fn=task.token_masks.get(name),
            num_permutations=num_permutations,
        )
        uncertainty.warn_if_noise(threshold, floor)
        floors[name] = floor if np.isfinite(floor) else None
    return floors


def _merged(states: Any, added: Any) -> Any:
    return {name: similarity.merge(states[name], added[name]) for name in states}


def _timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - started
