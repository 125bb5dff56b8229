"""Training inside a pruning run: shown step by step, resumed after each epoch."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import progress
from experiments.prune_data import Examples
from experiments.prune_task import Task
from jaxprune import checkpoints, recover, teaching
from jaxprune.models import text
from jaxprune.prunable import Prunable, Variables

# Of training state in the workdir.
DIRECTORY = "training"


def train(
    workdir: pathlib.Path,
    task: Task,
    examples: Examples,
    score: Callable[[Prunable, Variables], float],
    augment: recover.AugmentFn | None,
    model: Prunable,
    variables: Variables,
    recipe: recover.Recipe,
    key: jax.Array,
    *,
    name: str,
    mask: Any = None,
    teacher: recover.Teacher | None = None,
) -> dict[str, Any]:
    """Trains, or goes on where an earlier process stopped training of this name.

    Args:
        workdir: where the state is kept between epochs.
        task: loss and weights.
        examples: to learn from.
        score: higher is better; the best epoch is returned.
        augment: random change of a batch.
        model: what to train.
        variables: where to start.
        recipe: numbers of the training.
        key: of order and augmentation.
        name: tells trainings of one run apart.
        mask: parameters that are trained, all if None.
        teacher: to distil from.
    """
    path = workdir / DIRECTORY
    start = recover.init(variables, recipe, len(examples), mask=mask)
    leaves, structure = jax.tree.flatten(start)
    resume = None
    if checkpoints.exists(path) and checkpoints.describe(path)["name"] == name:
        arrays, facts = checkpoints.load(path)
        saved = [arrays[f"{i:05d}"] for i in range(len(leaves))]
        resume = jax.tree.unflatten(structure, saved)._replace(**facts["counters"])

    def save(state: recover.TrainState) -> None:
        counters = {
            name: getattr(state, name)
            for name in ("epoch", "best_score", "epochs_since_best")
        }
        arrays = {
            f"{i:05d}": np.asarray(leaf)
            for i, leaf in enumerate(jax.tree.leaves(state))
        }
        checkpoints.save(path, arrays, {"name": name, "counters": counters})

    done = 0 if resume is None else int(resume.epoch)
    steps = recover.steps_per_epoch(recipe, len(examples))
    buckets = None
    if isinstance(examples.inputs, (text.Text, text.Seq2Seq)):
        buckets = text.buckets(examples.inputs)
    # A condition of the arguments alone, so that a resumed run does the same.
    if teacher and recipe.distillation and recipe.epochs > 1 and augment is None:
        teacher = teaching.with_logits(
            teacher,
            examples.inputs,
            min(recipe.batch_size, len(examples)),
            buckets=buckets,
            track=functools.partial(progress.track, description="teacher"),
        )
    with progress.Progress(name, recipe.epochs * steps, done=done * steps) as bar:
        return recover.fine_tune(
            model,
            variables,
            examples.inputs,
            examples.labels,
            recipe,
            key,
            loss=task.loss,
            weights=task.weights,
            mask=mask,
            teacher=teacher,
            augment=augment,
            buckets=buckets,
            evaluate=functools.partial(score, model),
            resume=resume,
            save=save,
            on_epoch=lambda epoch: bar.advance(
                0, epoch=epoch.number, loss=epoch.loss, accuracy=epoch.score
            ),
            on_step=bar.advance,
        )
