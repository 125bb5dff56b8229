"""Models by name, and their weights from and to files."""

import dataclasses
import importlib
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

from experiments import json_files, run_state
from jaxprune import checkpoints, prunable
from jaxprune.models import resnet, weights


@dataclasses.dataclass(frozen=True)
class Source:
    """A model by name.

    Attributes:
        name: as given to --model.
        model: unpruned.
        config: of a network of this project, None for a user's own.
    """

    name: str
    model: prunable.Prunable
    config: resnet.ResNetConfig | None = None


def make(name: str, image_shape: tuple[int, ...], num_classes: int) -> Source:
    """Returns the unpruned model.

    Args:
        name: as given to --model.
        image_shape: height, width and channels of the images.
        num_classes: of the data set.

    Raises:
        run_state.UsageError: if a user's function cannot be called or returns
            something else.
    """
    if ":" in name:
        return Source(name, _own(name))
    if depth := re.fullmatch(r"resnet(\d+)", name):
        config = resnet.cifar_config(int(depth[1]))
    else:
        config = resnet.small_config()
    config = dataclasses.replace(
        config,
        image_shape=(image_shape[0], image_shape[1], image_shape[2]),
        num_classes=num_classes,
    )
    return Source(name, resnet.prunable_resnet(config), config)


def _own(name: str) -> prunable.Prunable:
    module_name, _, function_name = name.partition(":")
    try:
        function: Callable[[], Any] = getattr(
            importlib.import_module(module_name), function_name
        )
        model = function()
    except (ImportError, AttributeError, TypeError) as error:
        reason = f"cannot be made: {error}"
        raise run_state.usage_error("model", name, reason) from error
    if not isinstance(model, prunable.Prunable):
        kind = type(model).__name__
        raise run_state.usage_error(
            "model", name, f"returned a {kind}; it must return a jaxprune.Prunable"
        )
    return model


def read(source: Source, path: str) -> dict[str, Any]:
    """Returns the variables of the unpruned model from a file.

    Raises:
        run_state.UsageError: listing what does not fit.
    """
    like = jax.eval_shape(source.model.init, jax.random.key(0))
    try:
        if checkpoints.exists(path):
            variables, description = checkpoints.load(path)
            if "structure" in description:
                described = prunable.Structure.from_json(description["structure"])
                if described != source.model.structure:
                    raise ValueError("it holds a pruned model; give the unpruned one")
            return checkpoints.checked(variables, like)
        if source.config is None:
            raise ValueError("a model of your own is read from a checkpoint directory")
        tensors = checkpoints.load_safetensors(path)
        return weights.read(resnet.weight_table(source.config), tensors, like)
    except ValueError as error:
        raise run_state.usage_error("weights", path, str(error)) from error


def write(
    source: Source, model: prunable.Prunable, variables: Any, workdir: pathlib.Path
) -> None:
    """Writes the pruned model as a checkpoint and, for our networks, as safetensors."""
    description: dict[str, Any] = {
        "model": source.name,
        "structure": model.structure.to_json(),
    }
    if source.config is not None:
        config = resnet.pruned_config(source.config, model.structure)
        description["config"] = dataclasses.asdict(config)
        json_files.write_json_atomic(
            workdir / "config.json", {"model": source.name, **description["config"]}
        )
        checkpoints.save_safetensors(
            workdir / "pruned.safetensors",
            weights.write(resnet.weight_table(config), variables),
            {"format": "pt", "model": source.name},
        )
    checkpoints.save(workdir / "checkpoint", variables, description)
