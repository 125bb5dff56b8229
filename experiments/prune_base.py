"""The unpruned model: read, trained, or fine-tuned to a fair baseline."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from experiments import progress, prune_weights
from jaxprune import checkpoints, recover

DIRECTORY = "base"

# (model, variables, recipe, key, name=...) -> trained variables
TrainFn = Callable[..., dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Base:
    """The unpruned model's variables and where they came from, in words."""

    variables: dict[str, Any]
    origin: str


def obtain(
    source: prune_weights.Source,
    weights: str | None,
    workdir: pathlib.Path,
    train: TrainFn,
    recipe: recover.Recipe,
    finetune_epochs: int,
    key: jax.Array,
) -> Base:
    """Returns the unpruned model, from the workdir if it is there already.

    Args:
        source: the model.
        weights: file or directory; None to train from scratch.
        workdir: the model is kept in `base/`, which --weights takes in later runs; for
            models in Hugging Face layout it is such a directory, too.
        train: resumable training.
        recipe: of training from scratch, and of weights that have no head for the task.
        finetune_epochs: of training of complete weights.
        key: of everything random in that.
    """
    path = workdir / DIRECTORY
    if checkpoints.exists(path):
        variables, description = checkpoints.load(path)
        if not (path / "config.json").is_file():
            prune_weights.write_folder(source, source.model.structure, variables, path)
        return Base(variables, description["origin"])
    init_key, order_key = jax.random.split(key)
    if weights is None:
        variables = jax.jit(source.model.init)(init_key)
        origin = f"trained here for {_in_words(recipe.epochs)}"
    else:
        variables, has_head = prune_weights.read(source, weights, init_key)
        origin = "the weights as they were given"
        if has_head:
            recipe = dataclasses.replace(recipe, epochs=finetune_epochs)
        else:
            origin = "the weights given, with a new head for this task"
        if recipe.epochs:
            origin += f", fine-tuned here for {_in_words(recipe.epochs)}"
    progress.note(f"unpruned model: {origin}")
    if recipe.epochs:
        name = "train" if weights is None else "fine-tune"
        variables = train(source.model, variables, recipe, order_key, name=name)
    structure = source.named(source.model.structure)
    description = {"model": source.name, "structure": structure.to_json()}
    checkpoints.save(path, variables, {**description, "origin": origin})
    prune_weights.write_folder(source, source.model.structure, variables, path)
    return Base(variables, origin)


def _in_words(epochs: int) -> str:
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"
