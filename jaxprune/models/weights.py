"""Published weights in and out, by one declarative table per architecture.

A table lists every tensor once: its name in the file, its place in our variables, and
the order in which the file stores its axes. The same table reads and writes. Reading is
strict: missing, unexpected and misshapen tensors are listed, and nothing is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Path = tuple[str, ...]
Tensors = Mapping[str, np.ndarray]

CONVOLUTION = (2, 3, 1, 0)  # OIHW in the file, HWIO here
DENSE = (1, 0)  # [out, in] in the file, [in, out] here
VECTOR = (0,)


class Entry(NamedTuple):
    """One tensor: where it is in the file and in our variables."""

    name: str
    path: Path
    axes: tuple[int, ...]  # our axis k is the file's axis axes[k]


Table = Sequence[Entry]


def batch_norm(name: str, *path: str) -> list[Entry]:
    """Returns the four entries of a BatchNorm called `name` in the file."""
    return [
        Entry(f"{name}.weight", ("params", *path, "scale"), VECTOR),
        Entry(f"{name}.bias", ("params", *path, "bias"), VECTOR),
        Entry(f"{name}.running_mean", ("batch_stats", *path, "mean"), VECTOR),
        Entry(f"{name}.running_var", ("batch_stats", *path, "var"), VECTOR),
    ]


def dense(name: str, *path: str) -> list[Entry]:
    """Returns the two entries of a linear layer called `name` in the file."""
    return [
        Entry(f"{name}.weight", ("params", *path, "kernel"), DENSE),
        Entry(f"{name}.bias", ("params", *path, "bias"), VECTOR),
    ]


def _paths(tree: Any, prefix: Path = ()) -> dict[Path, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found: dict[Path, Any] = {}
    for key, child in tree.items():
        found.update(_paths(child, (*prefix, key)))
    return found


def _list(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {', '.join(names[:5])}{more}"


def read(table: Table, tensors: Tensors, like: Any) -> dict[str, Any]:
    """Returns variables of the structure `like` from the tensors of a file.

    Args:
        table: every tensor of the architecture.
        tensors: arrays by their names in the file; the counters `num_batches_tracked`
            that PyTorch adds and inference does not use are passed over.
        like: variables, or their shapes as `jax.eval_shape` gives them.

    Raises:
        ValueError: listing tensors that are missing, unexpected, of another shape, or
            not finite.
    """
    wanted = _paths(like)
    if {entry.path for entry in table} != set(wanted):
        difference = sorted({entry.path for entry in table} ^ set(wanted))
        raise ValueError(f"the table does not describe this model: {difference[:5]}")
    given = {n for n in tensors if not n.endswith("num_batches_tracked")}
    problems = []
    if missing := sorted({entry.name for entry in table} - given):
        problems.append(_list("missing", missing))
    if unexpected := sorted(given - {entry.name for entry in table}):
        problems.append(_list("unexpected", unexpected))
    misshapen, infinite, result = [], [], {}
    for entry in table:
        if entry.name not in given:
            continue
        tensor = np.asarray(tensors[entry.name])
        shape = wanted[entry.path].shape
        theirs = tuple(shape[entry.axes.index(axis)] for axis in range(len(shape)))
        if tensor.shape != theirs:
            misshapen.append(f"{entry.name} is {tensor.shape}, not {theirs}")
        elif not np.isfinite(tensor).all():
            infinite.append(entry.name)
        else:
            dtype = wanted[entry.path].dtype
            result[entry.path] = tensor.transpose(entry.axes).astype(dtype)
    if misshapen:
        problems.append(_list("misshapen", misshapen))
    if infinite:
        problems.append(_list("with values that are not finite", infinite))
    if problems:
        raise ValueError("the weights do not fit the model: " + "; ".join(problems))
    leaves = {path: jax.numpy.asarray(array) for path, array in result.items()}
    return _nest(leaves)


def _nest(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def write(table: Table, variables: Any) -> dict[str, np.ndarray]:
    """Returns the tensors of a file from variables; the inverse of `read`.

    Raises:
        ValueError: if the table does not cover the variables exactly.
    """
    ours = _paths(variables)
    if {entry.path for entry in table} != set(ours):
        difference = sorted({entry.path for entry in table} ^ set(ours))
        raise ValueError(f"the table does not describe this model: {difference[:5]}")
    return {
        entry.name: np.ascontiguousarray(
            np.asarray(ours[entry.path]).transpose(np.argsort(entry.axes))
        )
        for entry in table
    }
