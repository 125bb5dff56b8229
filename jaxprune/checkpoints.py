"""Variables on disk: orbax for ours, safetensors for everyone's.

A checkpoint is a directory with `manifest.json` (what the model is, and name, shape and
type of every array) and `variables/` (orbax). It appears whole or not at all. Loading
compares three things, because orbax alone restores a tree of the wrong depth without a
word: the manifest, the arrays found, and the model that they are meant for.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

FORMAT = "jaxprune checkpoint, version 1"
PathLike = str | os.PathLike[str]


def _describe(tree: Any) -> dict[str, list[Any]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [
            list(np.shape(leaf)),
            str(np.dtype(leaf.dtype)),
        ]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    told = [f"{name} is missing" for name in sorted(set(wanted) - set(found))]
    told += [f"{name} is unexpected" for name in sorted(set(found) - set(wanted))]
    told += [
        f"{name} is {found[name]}, not {wanted[name]}"
        for name in sorted(set(found) & set(wanted))
        if found[name] != wanted[name]
    ]
    return told


def _require_equal(
    what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    if told := _differences(found, wanted):
        more = f" and {len(told) - 4} more" if len(told) > 4 else ""
        raise ValueError(f"{what}: {'; '.join(told[:4])}{more}")


def save(directory: PathLike, tree: Any, description: Mapping[str, Any]) -> None:
    """Writes a checkpoint, replacing one that is there.

    Args:
        directory: to be written; its parent must exist.
        tree: dictionaries of arrays.
        description: plain data that says what the model is; `load` gives it back.

    Raises:
        OSError: if it cannot be written; a checkpoint that was there is still there.
    """
    path = pathlib.Path(directory).absolute()
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, jax.tree.map(np.asarray, tree), description)
    except BaseException:
        # What is half written would only take the room that may be lacking.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # A directory cannot be replaced in one step: the old one is moved aside first, and
    # `_settled` finds it there if the machine stops in between.
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _write(directory: pathlib.Path, tree: Any, description: Mapping[str, Any]) -> None:
    import orbax.checkpoint as ocp

    directory.mkdir()
    manifest = {
        "format": FORMAT,
        "description": dict(description),
        "arrays": _describe(tree),
    }
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(directory / "variables", tree)
            checkpointer.wait_until_finished()
    except ValueError as error:  # tensorstore's, for a full disk
        reason = str(error).split("\n")[0]
        raise OSError(f"{str(directory)!r} cannot be written: {reason}") from error
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _settled(path: pathlib.Path) -> pathlib.Path:
    old = path.with_name(f".{path.name}.old")
    return old if not path.exists() and old.exists() else path


def exists(directory: PathLike) -> bool:
    """Says whether a checkpoint stands there."""
    return (_settled(pathlib.Path(directory)) / "manifest.json").exists()


def describe(directory: PathLike) -> dict[str, Any]:
    """Returns the description of a checkpoint without reading its arrays.

    Raises:
        ValueError: if there is no checkpoint of this format.
    """
    return dict(_manifest(_settled(pathlib.Path(directory)))["description"])


def _manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"no checkpoint at {str(path)!r}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} holds no {FORMAT!r}")
    return manifest


def load(directory: PathLike, like: Any = None) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        directory: that `save` wrote.
        like: what the model expects, arrays or their shapes; compared strictly.

    Returns:
        The tree, arrays on the default device, and the description.

    Raises:
        ValueError: listing arrays that are missing, unexpected or of another shape.
    """
    import orbax.checkpoint as ocp

    path = _settled(pathlib.Path(directory).absolute())
    manifest = _manifest(path)
    if like is not None:
        _require_equal(
            f"the checkpoint {str(path)!r} is of another model",
            manifest["arrays"],
            _describe(like),
        )
    shapes = _nest(manifest["arrays"])
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            tree = checkpointer.restore(path / "variables", shapes)
        except (KeyError, OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(f"the checkpoint {str(path)!r} is damaged: {reason}")  # noqa: B904
    _require_equal(
        f"the checkpoint {str(path)!r} is damaged",
        _describe(tree),
        manifest["arrays"],
    )
    return jax.tree.map(jax.numpy.asarray, tree), dict(manifest["description"])


def checked(tree: Any, like: Any) -> Any:
    """Returns `tree` if its arrays are those of `like` by name, shape and type.

    Raises:
        ValueError: listing those that are not.
    """
    _require_equal("the arrays are of another model", _describe(tree), _describe(like))
    return tree


def _nest(arrays: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, (shape, dtype) in arrays.items():
        node = tree
        *parents, last = name.split("/")
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
    return tree


def load_safetensors(path: PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file, or of all those in a directory.

    Arrays of bfloat16 have jax's type of that name, which NumPy computes with.

    Raises:
        ValueError: if there is none, one cannot be read, or two hold the same name.
    """
    from safetensors import SafetensorError

    path = pathlib.Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no file *.safetensors in {str(path)!r}")
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            part = _load_file(file)
        except (OSError, SafetensorError) as error:
            reason = f"cannot be read as safetensors: {error}"
            raise ValueError(f"{str(file)!r} {reason}") from error
        if twice := sorted(set(part) & set(tensors)):
            raise ValueError(f"{str(file)!r} holds {twice[0]!r} a second time")
        tensors.update(part)
    return tensors


def _load_file(file: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    # The NumPy side of safetensors does not know bfloat16.
    with safe_open(file, "np") as plain, safe_open(file, "flax") as with_bfloat16:
        return {
            name: np.asarray(with_bfloat16.get_tensor(name))
            if plain.get_slice(name).get_dtype() == "BF16"
            else plain.get_tensor(name)
            for name in plain.keys()  # noqa: SIM118
        }


def save_safetensors(
    path: PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes tensors and metadata as one safetensors file, whole or not at all.

    Raises:
        OSError: if it cannot be written; a file that was there is still there.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    partial = pathlib.Path(f"{os.fspath(path)}.partial")
    try:
        # safetensors lets only the owner read its files.
        partial.touch()
        mode = partial.stat().st_mode
        save_file(dict(tensors), partial, metadata=dict(metadata))
        partial.chmod(mode)
        partial.replace(path)
    except SafetensorError as error:
        raise OSError(f"{os.fspath(path)!r} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
