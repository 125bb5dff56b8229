"""Directories of Hugging Face models: read, and written again for pruned ones."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune import checkpoints

JsonObject = Mapping[str, Any]
PathLike = str | os.PathLike[str]


def read_directory(directory: PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `config.json` and the tensors of a directory.

    They are in the files that `model.safetensors.index.json` lists, in
    `model.safetensors`, or else in all safetensors files.

    Raises:
        ValueError: if one of them is not there or cannot be read.
    """
    path = pathlib.Path(directory) / "config.json"
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    return config, _tensors(pathlib.Path(directory))


def _tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
    index = directory / "model.safetensors.index.json"
    whole = directory / "model.safetensors"
    if not index.exists():
        return checkpoints.load_safetensors(whole if whole.exists() else directory)
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(index)!r} cannot be read: {error!r}") from error
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        tensors.update(checkpoints.load_safetensors(directory / name))
    return tensors


def write_directory(
    directory: PathLike, config: JsonObject, tensors: Mapping[str, np.ndarray]
) -> None:
    """Writes `config.json` and `model.safetensors`, which `from_pretrained` reads.

    The tokenizer is not looked at: copy its files from the directory that was read.

    Args:
        directory: made if it is not there; its parent must exist.
        config: see `config_to_hf` of the models.
        tensors: see `weights.write`.
    """
    path = pathlib.Path(directory)
    path.mkdir(exist_ok=True)
    checkpoints.save_safetensors(path / "model.safetensors", tensors, {"format": "pt"})
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def require(config: JsonObject, allowed: Mapping[str, Sequence[Any]]) -> None:
    """Refuses a configuration that asks for what a model here does not do.

    Args:
        config: as in `config.json`.
        allowed: by key, the values that are fine; the first stands for a missing key.

    Raises:
        ValueError: naming each key whose value is another one.

    >>> require({"is_decoder": True}, {"is_decoder": (False,)})
    Traceback (most recent call last):
    ValueError: this configuration is not supported: is_decoder is True, not False
    """
    told = [
        f"{key} is {value!r}, not {' or '.join(map(repr, values))}"
        for key, values in allowed.items()
        if (value := config.get(key, values[0])) not in values
    ]
    if told:
        raise ValueError(f"this configuration is not supported: {'; '.join(told)}")


def value(config: JsonObject, key: str, default: Any = None) -> Any:
    """Returns a value of a configuration; missing or null, the default.

    Raises:
        ValueError: if it has neither a value nor a default.
    """
    found = config.get(key)
    if found is None:
        found = default
    if found is None:
        raise ValueError(f"the configuration has no {key!r}")
    return found


def size(
    config: JsonObject, key: str, default: int | None = None, *, least: int = 1
) -> int:
    """Returns a whole number of a configuration, `least` or more; see `value`.

    Raises:
        ValueError: also for anything else.

    >>> size({"hidden_size": "768"}, "hidden_size")
    Traceback (most recent call last):
    ValueError: the configuration has hidden_size='768', not a whole number above 0
    """
    found = value(config, key, default)
    if not isinstance(found, int) or isinstance(found, bool) or found < least:
        raise ValueError(
            f"the configuration has {key}={found!r}, not a whole number above "
            f"{least - 1}"
        )
    return found


def number(config: JsonObject, key: str, default: float | None = None) -> float:
    """Returns a positive number of a configuration; see `value`.

    Raises:
        ValueError: also for anything else, NaN and infinity among it.
    """
    found = value(config, key, default)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not 0 < found < math.inf:
        raise ValueError(
            f"the configuration has {key}={found!r}, not a positive number"
        )
    return float(found)


def num_labels(config: JsonObject) -> int:
    """Returns the number of classes; two, as transformers has it, where not told.

    >>> num_labels({"id2label": {"0": "joy", "1": "anger", "2": "fear"}})
    3
    """
    named = config.get("id2label")
    return int(config.get("num_labels") or (len(named) if named else 2))


def pruned(base: JsonObject, num_layers: int, **changes: Any) -> dict[str, Any]:
    """Returns `base` for a model of another depth whose tensors are float32.

    Args:
        base: the configuration of the unpruned model.
        num_layers: blocks that are left.
        **changes: further values that are others now.

    >>> pruned({"num_hidden_layers": 12, "dtype": "bfloat16"}, 7)
    {'num_hidden_layers': 7, 'dtype': 'float32'}
    """
    return float32({**base, **changes, "num_hidden_layers": num_layers})


def float32(config: JsonObject) -> dict[str, Any]:
    """Returns a configuration that says, if it names a type, that tensors are float32.

    >>> float32({"torch_dtype": "bfloat16"})
    {'torch_dtype': 'float32'}
    """
    types = {key: "float32" for key in ("dtype", "torch_dtype") if config.get(key)}
    return {**config, **types}


def labels(base: JsonObject, count: int) -> dict[str, Any]:
    """Returns the names of classes that `base` must have to tell `count` of them.

    >>> labels({"id2label": {"0": "spam", "1": "ham"}}, 2)
    {}
    """
    if num_labels(base) == count:
        return {}
    names = {str(index): f"LABEL_{index}" for index in range(count)}
    changed: dict[str, Any] = {
        "id2label": names,
        "label2id": {name: int(index) for index, name in names.items()},
    }
    return changed | ({"num_labels": count} if "num_labels" in base else {})


def refuse_adapters(adapters: Sequence[int]) -> None:
    """Refuses to describe a model with linear maps: transformers has no place for them.

    Raises:
        ValueError: if there are any.
    """
    if adapters:
        raise ValueError(
            f"blocks {list(adapters)} end in linear maps, which transformers has no "
            "place for: prune without them, or keep the checkpoint of this library"
        )
