"""Similarity of the blocks, and what it takes beside a plain forward pass."""

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import json_files, progress
from experiments.prune_task import Task
from jaxprune import similarity
from jaxprune.batches import MaskFn
from jaxprune.prunable import Prunable, Variables

TIMING_FILE = "analysis.json"


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
    path = workdir / TIMING_FILE
    matrices, seconds = {}, 0.0
    for name, activations_fn in model.activations.items():
        mask_fn = task.token_masks.get(name)
        masks = [_mask(mask_fn, inputs) for inputs in calibration]
        step = jax.jit(similarity.batch_total_fn(activations_fn, task.estimator))
        matrices[name], spent = _timed_similarity(
            functools.partial(step, variables), calibration, masks
        )
        seconds += spent
    if not path.exists():
        forward = _timed_forward(model, variables, calibration)
        json_files.write_json_atomic(
            path, {"analysis_seconds": seconds, "forward_seconds": forward}
        )
    return matrices


def _mask(mask_fn: MaskFn | None, inputs: Any) -> np.ndarray | None:
    """Returns None where all count: that program is faster."""
    mask = None if mask_fn is None else np.asarray(mask_fn(inputs), bool)
    return None if mask is None or mask.all() else mask


def _timed_similarity(
    step: Callable[[Any, np.ndarray | None], similarity.SimilarityState],
    batches: Sequence[Any],
    masks: Sequence[np.ndarray | None],
) -> tuple[np.ndarray, float]:
    """Returns the matrix, and the seconds it took once compiled."""
    merge, finish = jax.jit(similarity.merge), jax.jit(similarity.finish)
    # All that is compiled is compiled before the clock starts.
    for mask in {mask is None: mask for mask in masks}.values():
        first = step(batches[0], mask)
    jax.block_until_ready(finish(merge(first, first)))
    started = time.perf_counter()
    state = None
    for inputs, mask in progress.track(
        list(zip(batches, masks, strict=True)), "similarity"
    ):
        added = step(inputs, mask)
        state = added if state is None else merge(state, added)
        jax.block_until_ready(state)  # so that the progress shown is true
    assert state is not None
    matrix = np.asarray(finish(state))
    return matrix, time.perf_counter() - started


def _timed_forward(
    model: Prunable, variables: Variables, batches: Sequence[Any]
) -> float:
    forward = jax.jit(model.apply)
    jax.block_until_ready(forward(variables, batches[0]))
    started = time.perf_counter()
    for inputs in batches:
        jax.block_until_ready(forward(variables, inputs))
    return time.perf_counter() - started
