"""Models that a run can prune, and their weights from and to files."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from experiments import json_files, progress, run_state, text_tokenizers
from experiments.prune_task import Task
from jaxprune import checkpoints
from jaxprune.models import weights
from jaxprune.prunable import Prunable, Structure

# Of the pruned model in Hugging Face layout, in the workdir.
FOLDER = "pruned"
_COPIED = (*text_tokenizers.ALL_FILES, "preprocessor_config.json")


class Folder(NamedTuple):
    """What stands beside the weights of a model in Hugging Face layout.

    Attributes:
        directory: the weights came from; None if they were made here.
        tokenizer: of a model that reads texts.
    """

    directory: pathlib.Path | None
    tokenizer: Any = None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What this project knows about a network of its own, by its configuration.

    Attributes:
        prunable: the unpruned network as the pruner sees it.
        pruned_config: the configuration of what a structure leaves.
        module: the Flax module.
        weight_table: how files name its tensors.
        to_json: what config.json says about a configuration; ValueError if it cannot.
        new_head: from variables, the part that a file of another task lacks.
        folder: of a model in Hugging Face layout.
    """

    prunable: Callable[[Any], Prunable]
    pruned_config: Callable[[Any, Structure], Any]
    module: Callable[[Any], nn.Module]
    weight_table: Callable[[Any], weights.Table]
    to_json: Callable[[Any], dict[str, Any]] = dataclasses.asdict
    new_head: Callable[[Any], dict[str, Any]] | None = None
    folder: Folder | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A model by name.

    Attributes:
        name: as given to --model.
        model: unpruned, or what an earlier run has left of it.
        task: what it is for.
        architecture: of a network of this project, None for a user's own.
        config: its configuration.
        origin: which blocks of the model of that name it has, if not all.
    """

    name: str
    model: Prunable
    task: Task
    architecture: Architecture | None = None
    config: Any = None
    origin: Structure | None = None

    def module(self, structure: Structure) -> nn.Module | None:
        """Returns the Flax module of a structure, None for a user's own model."""
        if self.architecture is None:
            return None
        config = self.architecture.pruned_config(self.config, structure)
        return self.architecture.module(config)

    def named(self, structure: Structure) -> Structure:
        """Returns a structure, numbered as in the model of that name."""
        return structure if self.origin is None else structure.within(self.origin)


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


def begun_from(source: Source, path: str | None) -> Source:
    """Returns the model that a checkpoint of an earlier run holds, as the unpruned one.

    Args:
        source: the model of that name.
        path: as given to --weights; other files than checkpoints of pruned models
            leave the source as it is.

    Raises:
        run_state.UsageError: if it is of another model, or cannot be taken further.
    """
    if path is None or not checkpoints.exists(path):
        return source
    if (pathlib.Path(path) / "config.json").is_file():
        return source  # made by that configuration, which has what is left
    try:
        description = checkpoints.describe(path)
        if "structure" not in description:
            return source
        whole = source.model.structure
        left = Structure.from_json(description["structure"])
        if left == whole:
            return source
        fits = left.kept.keys() == whole.kept.keys() and all(
            {*left.kept[name]} <= {*blocks} for name, blocks in whole.kept.items()
        )
        if not fits:
            raise ValueError(f"it holds blocks {left.kept} of another model")
        if source.architecture is None or left.adapters:
            kind = "ends in linear maps" if left.adapters else "is of your own"
            raise ValueError(
                f"it holds a pruned model that {kind}, which is not pruned further; "
                "give the unpruned one"
            )
    except ValueError as error:
        raise run_state.usage_error("weights", path, str(error)) from error
    config = source.architecture.pruned_config(source.config, left)
    return dataclasses.replace(
        source, model=source.architecture.prunable(config), config=config, origin=left
    )


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
            variables, _ = checkpoints.load(path)
            return Weights(checkpoints.checked(variables, like), True)
        if source.architecture is None:
            raise ValueError("a model of your own is read from a checkpoint directory")
        return _from_safetensors(source, source.architecture, path, like, key)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path!r} ")
        raise run_state.usage_error("weights", path, reason) from error


def _from_safetensors(
    source: Source, architecture: Architecture, path: str, like: Any, key: jax.Array
) -> Weights:
    tensors = checkpoints.load_safetensors(path)
    table = architecture.weight_table(source.config)
    if architecture.new_head is None:
        return Weights(weights.read(table, tensors, like), True)
    new = architecture.new_head(jax.jit(source.model.init)(key))
    in_head = [e for e in table if e.path[1:2] and e.path[1] in new["params"]]
    has_head = all(
        any(name in tensors for name in (entry.name, *entry.aliases))
        for entry in in_head
    )
    stand_ins = None if has_head else new
    return Weights(weights.read(table, tensors, like, new=stand_ins), has_head)


def write(
    source: Source,
    model: Prunable,
    variables: Mapping[str, Any],
    workdir: pathlib.Path,
) -> None:
    """Writes the pruned model: a checkpoint and, for our networks, safetensors.

    A model in Hugging Face layout goes into a directory of that layout as well,
    `pruned/`, unless it ends in linear maps, for which that layout has no place.
    """
    description: dict[str, Any] = {
        "model": source.name,
        "structure": source.named(model.structure).to_json(),
    }
    if (architecture := source.architecture) is not None:
        config = architecture.pruned_config(source.config, model.structure)
        try:
            written = architecture.to_json(config)
        except ValueError as error:
            progress.note(f"no directory for transformers: {error}")
            written = json_files.as_plain(dataclasses.asdict(config))
        else:
            write_folder(source, model.structure, variables, workdir / FOLDER)
        description["config"] = written
        named = written if architecture.folder else {"model": source.name, **written}
        json_files.write_json_atomic(workdir / "config.json", named)
        checkpoints.save_safetensors(
            workdir / "pruned.safetensors",
            weights.write(architecture.weight_table(config), variables),
            {"format": "pt", "model": source.name},
        )
    checkpoints.save(workdir / "checkpoint", variables, description)


def write_folder(
    source: Source,
    structure: Structure,
    variables: Mapping[str, Any],
    path: pathlib.Path,
) -> None:
    """Writes a model of Hugging Face layout as transformers reads it, others not.

    Raises:
        ValueError: if it ends in linear maps.
    """
    architecture = source.architecture
    if architecture is None or architecture.folder is None:
        return
    config = architecture.pruned_config(source.config, structure)
    written = architecture.to_json(config)
    path.mkdir(exist_ok=True)
    checkpoints.save_safetensors(
        path / "model.safetensors",
        weights.write(architecture.weight_table(config), variables),
        {"format": "pt"},
    )
    directory, tokenizer = architecture.folder
    for name in _COPIED:
        if directory is not None and (directory / name).is_file():
            shutil.copyfile(directory / name, path / name)
    if directory is None and tokenizer is not None:
        text_tokenizers.write(tokenizer, path)
    # Last: its presence says that the directory is complete.
    json_files.write_json_atomic(path / "config.json", written)
