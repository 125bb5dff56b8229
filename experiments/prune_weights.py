"""Models that a run can prune, and their weights from and to files."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from experiments import json_files, run_state
from experiments.prune_task import Task
from jaxprune import checkpoints
from jaxprune.models import weights
from jaxprune.prunable import Prunable, Structure


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What this project knows about a network of its own, by its configuration.

    Attributes:
        prunable: the unpruned network as the pruner sees it.
        pruned_config: the configuration of what a structure leaves.
        module: the Flax module.
        weight_table: how files name its tensors.
        to_json: what config.json says about a configuration.
        head: keys in `params` of what a checkpoint of another task lacks.
    """

    prunable: Callable[[Any], Prunable]
    pruned_config: Callable[[Any, Structure], Any]
    module: Callable[[Any], nn.Module]
    weight_table: Callable[[Any], weights.Table]
    to_json: Callable[[Any], dict[str, Any]] = dataclasses.asdict
    head: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """A model by name.

    Attributes:
        name: as given to --model.
        model: unpruned.
        task: what it is for.
        architecture: of a network of this project, None for a user's own.
        config: its configuration.
        tokenizer: of a model that reads texts.
    """

    name: str
    model: Prunable
    task: Task
    architecture: Architecture | None = None
    config: Any = None
    tokenizer: Any = None

    def module(self, structure: Structure) -> nn.Module | None:
        """Returns the Flax module of a structure, None for a user's own model."""
        if self.architecture is None:
            return None
        config = self.architecture.pruned_config(self.config, structure)
        return self.architecture.module(config)


class Weights(NamedTuple):
    """What was read.

    Attributes:
        variables: of the unpruned model.
        has_head: False if the head is drawn at random, because the file has none.
    """

    variables: dict[str, Any]
    has_head: bool


def own(name: str, task: Task) -> Source:
    """Returns the model of a user's `module:function`.

    Raises:
        run_state.UsageError: if the function cannot be called or returns something
            else.
    """
    import importlib

    module_name, _, function_name = name.partition(":")
    try:
        function: Callable[[], Any] = getattr(
            importlib.import_module(module_name), function_name
        )
        model = function()
    except (ImportError, AttributeError, TypeError) as error:
        reason = f"cannot be made: {error}"
        raise run_state.usage_error("model", name, reason) from error
    if not isinstance(model, Prunable):
        kind = type(model).__name__
        raise run_state.usage_error(
            "model", name, f"returned a {kind}; it must return a jaxprune.Prunable"
        )
    return Source(name, model, task)


def read(source: Source, path: str, key: jax.Array) -> Weights:
    """Returns the variables of the unpruned model from a file.

    Args:
        source: the model.
        path: safetensors file or directory, or a checkpoint of this project.
        key: of a head that the file lacks.

    Raises:
        run_state.UsageError: listing what does not fit.
    """
    like = jax.eval_shape(source.model.init, jax.random.key(0))
    try:
        if checkpoints.exists(path):
            variables, description = checkpoints.load(path)
            if "structure" in description:
                described = Structure.from_json(description["structure"])
                if described != source.model.structure:
                    raise ValueError("it holds a pruned model; give the unpruned one")
            return Weights(checkpoints.checked(variables, like), True)
        if source.architecture is None:
            raise ValueError("a model of your own is read from a checkpoint directory")
        return _from_safetensors(source, source.architecture, path, like, key)
    except ValueError as error:
        raise run_state.usage_error("weights", path, str(error)) from error


def _from_safetensors(
    source: Source, architecture: Architecture, path: str, like: Any, key: jax.Array
) -> Weights:
    tensors = checkpoints.load_safetensors(path)
    table = architecture.weight_table(source.config)
    in_head = [
        entry
        for entry in table
        if len(entry.path) > 1 and entry.path[1] in architecture.head
    ]
    names = {name for entry in in_head for name in (entry.name, *entry.aliases)}
    if not in_head or names & set(tensors):
        return Weights(weights.read(table, tensors, like), True)
    drawn = jax.jit(source.model.init)(key)["params"]
    new = {name: drawn[name] for name in architecture.head if name in drawn}
    return Weights(weights.read(table, tensors, like, new={"params": new}), False)


def write(
    source: Source,
    model: Prunable,
    variables: Mapping[str, Any],
    workdir: pathlib.Path,
) -> None:
    """Writes the pruned model: a checkpoint and, for our networks, safetensors."""
    description: dict[str, Any] = {
        "model": source.name,
        "structure": model.structure.to_json(),
    }
    if source.architecture is not None:
        config = source.architecture.pruned_config(source.config, model.structure)
        description["config"] = dataclasses.asdict(config)
        written = {"model": source.name, **source.architecture.to_json(config)}
        tensors = weights.write(source.architecture.weight_table(config), variables)
        json_files.write_json_atomic(workdir / "config.json", written)
        checkpoints.save_safetensors(
            workdir / "pruned.safetensors",
            tensors,
            {"format": "pt", "model": source.name},
        )
    checkpoints.save(workdir / "checkpoint", variables, description)
