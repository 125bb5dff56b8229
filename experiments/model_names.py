"""Names that --model takes: what each model reads, and what must be there for it.

Nothing here imports jax, so that a wrong name is told at once.
"""

import enum
import importlib.util
import json
import pathlib
import re
from typing import Any

from experiments import run_state

IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
_VALID = (
    "small_resnet, resnet20, resnet32, resnet44, resnet56, resnet110 (6n + 2), "
    "resnet18, resnet34, resnet50, resnet101, resnet152, vit, bert, t5, "
    "or module:function"
)
# What config.json calls them, too.
_TRANSFORMERS = ("bert", "t5", "vit")


class Kind(enum.Enum):
    """What a model reads; the values are the data sets that hold it."""

    IMAGES = ("digits", "mnist", "fashion_mnist", "cifar10_jpeg", "image_folder")
    TEXTS = ("emotion", "sst2")
    # Texts whose answers are more than the name of a class.
    PAIRS = ("sorted_digits",)


def kind(name: str, dataset: str) -> Kind:
    """Returns what a model reads; a user's own reads what the data set holds.

    Raises:
        run_state.UsageError: if there is no such model, or it cannot read this.
    """
    kinds = {k: f"these models take {k.name.lower()}" for k in Kind}
    holds = next((k for k in Kind if dataset in k.value), None)
    reads: Kind | None
    if ":" in name:
        _check_own(name)
        if holds is Kind.PAIRS:
            raise run_state.usage_error("dataset", dataset, "is for --model=t5")
        reads = holds
    elif name in ("bert", "t5"):
        pairs = name == "t5" and holds is Kind.PAIRS
        reads = Kind.PAIRS if pairs else Kind.TEXTS
    elif name in ("small_resnet", "vit") or resnet_depth(name):
        reads = Kind.IMAGES
    else:
        raise run_state.usage_error("model", name, f"valid are {_VALID}")
    if holds is None or reads is not holds:
        known = Kind.IMAGES if reads is None else reads
        valid = [*known.value, *(Kind.PAIRS.value if name == "t5" else ())]
        raise run_state.usage_error(
            "dataset", dataset, f"{kinds[known]}: {', '.join(valid)}"
        )
    if holds is not Kind.IMAGES and importlib.util.find_spec("tokenizers") is None:
        raise run_state.usage_error(
            "model",
            name,
            "needs tokenizers, which is not installed; "
            "pip install 'prune-and-prove[experiments]'",
        )
    return holds


def resnet_depth(name: str) -> int | None:
    """Returns the depth of a ResNet by name, None if there is none of that name.

    >>> resnet_depth("resnet56"), resnet_depth("resnet50"), resnet_depth("resnet51")
    (56, 50, None)
    """
    found = re.fullmatch(r"resnet([1-9]\d{0,3})", name)
    if not found:
        return None
    depth = int(found[1])
    fits = depth in IMAGENET_DEPTHS or (depth % 6 == 2 and depth >= 8)
    return depth if fits else None


def _check_own(name: str) -> None:
    module, _, function = name.partition(":")
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if not (found and function.isidentifier()):
        raise run_state.usage_error(
            "model",
            name,
            f"no module {module!r} on the path; write package.module:function",
        )


def is_hugging_face(path: str | None) -> bool:
    """Says whether a directory is in Hugging Face layout."""
    return path is not None and (pathlib.Path(path) / "config.json").is_file()


def read_config(path: str, model_type: str) -> dict[str, Any]:
    """Returns config.json of a directory in Hugging Face layout.

    Raises:
        run_state.UsageError: if it is missing, damaged or of another architecture.
    """
    file = pathlib.Path(path) / "config.json"
    if not file.is_file():
        raise run_state.usage_error(
            "weights",
            path,
            "must be a directory with config.json and model.safetensors",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        reason = f"config.json cannot be read: {error}"
        raise run_state.usage_error("weights", path, reason) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise run_state.usage_error(
            "weights", path, "config.json names no model_type, such as 'bert'"
        )
    if (found := config["model_type"]) != model_type:
        raise run_state.usage_error(
            "weights", path, f"holds a model of type {found!r}, not {model_type!r}"
        )
    return config


def check_weights(name: str, path: str, reads: Kind) -> None:
    """Checks what can be known of weights without reading them.

    Raises:
        run_state.UsageError: naming what is missing.
    """
    directory = pathlib.Path(path)
    if not directory.exists():
        raise run_state.usage_error("weights", path, "no such file or directory")
    if (directory / "manifest.json").is_file():
        return  # a checkpoint of this project
    if directory.is_dir() and not any(directory.glob("*.safetensors")):
        raise run_state.usage_error(
            "weights", path, "holds neither *.safetensors nor a checkpoint"
        )
    if name in _TRANSFORMERS:
        read_config(path, name)
    files = ("tokenizer.json", "vocab.txt")
    has_tokenizer = any((directory / file).is_file() for file in files)
    reads_texts = name in _TRANSFORMERS and reads is not Kind.IMAGES
    if reads_texts and not has_tokenizer:
        raise run_state.usage_error("weights", path, f"holds no {' or '.join(files)}")


def learning_rate(name: str, path: str | None) -> float:
    """Returns the peak rate of training when none is given.

    >>> learning_rate("resnet56", None), learning_rate("bert", "DIR")
    (0.002, 5e-05)
    """
    if name in _TRANSFORMERS:
        return 1e-3 if path is None else 5e-5
    return 2e-3


def is_transformer(name: str) -> bool:
    """Says whether a model is one of those that transformers reads and writes.

    >>> is_transformer("resnet56"), is_transformer("bert")
    (False, True)
    """
    return name in _TRANSFORMERS
