"""Published weights in and out, by one declarative table per architecture.

A table lists every tensor once: its name in the file, its place in our variables, and
the order in which the file stores its axes. The same table reads and writes. Reading is
strict: missing, unexpected and misshapen tensors are listed, and nothing is loaded.

What files differ in without being of another model is in the table, too: further names
of a tensor (older spellings, copies of a tied one, a prefix that some leave out), and
tensors that this model has no use for, such as the head of another task.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Path = tuple[str, ...]
Tensors = Mapping[str, np.ndarray]

CONVOLUTION = (2, 3, 1, 0)  # OIHW in the file, HWIO here
DENSE = (1, 0)  # [out, in] in the file, [in, out] here
VECTOR = (0,)


class Entry(NamedTuple):
    """One tensor: where it is in the file and in our variables.

    Attributes:
        name: in the file; written under this name only.
        path: in our variables; empty for a tensor that is passed over, whose name may
            then be a pattern such as `cls.*`.
        axes: our axis k is the file's axis `axes[k]`.
        aliases: further names that a file may have instead, or besides for a copy.
    """

    name: str
    path: Path
    axes: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()


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


def convolution(name: str, *path: str) -> list[Entry]:
    """Returns the two entries of a convolution called `name` in the file."""
    return [
        Entry(f"{name}.weight", ("params", *path, "kernel"), CONVOLUTION),
        Entry(f"{name}.bias", ("params", *path, "bias"), VECTOR),
    ]


def layer_norm(name: str, *path: str) -> list[Entry]:
    """Returns the two entries of a LayerNorm called `name` in the file.

    >>> [entry.aliases for entry in layer_norm("LayerNorm", "norm")]
    [('LayerNorm.gamma',), ('LayerNorm.beta',)]
    """
    return [
        Entry(f"{name}.weight", ("params", *path, "scale"), VECTOR, (f"{name}.gamma",)),
        Entry(f"{name}.bias", ("params", *path, "bias"), VECTOR, (f"{name}.beta",)),
    ]


def unused(*patterns: str) -> list[Entry]:
    """Returns entries for tensors that a file may hold and the model does not need.

    >>> unused("cls.*")[0].path
    ()
    """
    return [Entry(pattern, ()) for pattern in patterns]


def prefixed(prefix: str, table: Table, *, write: bool = True) -> list[Entry]:
    """Returns entries that are read with and without a prefix before their names.

    Args:
        prefix: such as `bert.`.
        table: entries without the prefix.
        write: whether the prefix is written.

    >>> prefixed("bert.", dense("pooler.dense", "pooler"))[0][::3]
    ('bert.pooler.dense.weight', ('pooler.dense.weight',))
    """
    result = []
    for entry in table:
        plain = [entry.name, *entry.aliases]
        longer = [prefix + name for name in plain]
        first, *others = longer + plain if write else plain + longer
        aliases = tuple(others) if entry.path else ()
        result.append(entry._replace(name=first, aliases=aliases))
    return result


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


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Returns how many blocks are numbered after each prefix: `encoder.layer.` has 6.

    >>> _depths(["layer.0.norm.weight", "layer.1.norm.weight", "head.bias"])
    {'layer.': 2}
    """
    depths: dict[str, int] = {}
    for name in names:
        if match := re.search(r"(?<=\.)\d+(?=\.)", name):
            prefix = name[: match.start()]
            depths[prefix] = max(depths.get(prefix, 0), int(match.group()) + 1)
    return depths


def _tensors(table: Table) -> list[Entry]:
    return [entry for entry in table if entry.path]


def _check_table(table: Table, paths: Mapping[Path, Any]) -> None:
    if difference := {entry.path for entry in _tensors(table)} ^ set(paths):
        told = ["/".join(path) for path in sorted(difference)[:5]]
        raise ValueError(f"the table does not describe this model: {told}")


def _find(entry: Entry, tensors: Tensors) -> tuple[np.ndarray | None, list[str]]:
    """Returns the tensor of an entry, and names of copies of it that differ."""
    found = [name for name in (entry.name, *entry.aliases) if name in tensors]
    if not found:
        return None, []
    tensor = np.asarray(tensors[found[0]])
    copies = [name for name in found[1:] if not np.array_equal(tensors[name], tensor)]
    return tensor, [found[0], *copies] if copies else []


def read(
    table: Table, tensors: Tensors, like: Any, *, new: Any = None
) -> dict[str, Any]:
    """Returns variables of the structure `like` from the tensors of a file.

    Args:
        table: every tensor of the architecture.
        tensors: arrays by their names in the file, of any floating type; the counters
            `num_batches_tracked` that PyTorch adds and inference does not use are
            passed over.
        like: variables, or their shapes as `jax.eval_shape` gives them.
        new: parts of variables that stand in for layers of which the file has nothing,
            such as `{"params": {"classifier": ...}}` for a head yet to be trained.

    Raises:
        ValueError: listing tensors that are missing, unexpected, of another shape, not
            finite, or tied in this model and different in the file; and the depth of
            the file where it is another than the model's.
    """
    wanted, stand_ins = _paths(like), _paths(new or {})
    _check_table(table, wanted)
    names = {n for e in _tensors(table) for n in (e.name, *e.aliases)}
    passed = [entry.name for entry in table if not entry.path]
    passed.append("*num_batches_tracked")
    given = {
        name
        for name in tensors
        if name in names or not any(fnmatch.fnmatchcase(name, p) for p in passed)
    }
    begun = {entry.path[:-1] for entry in table if _find(entry, tensors)[0] is not None}
    missing, misshapen, infinite, untied = [], [], [], []
    result: dict[Path, Any] = {}
    for entry in _tensors(table):
        tensor, copies = _find(entry, tensors)
        if copies:
            untied.append(" and ".join(copies))
        if tensor is None:
            if entry.path in stand_ins and entry.path[:-1] not in begun:
                result[entry.path] = stand_ins[entry.path]
            else:
                missing.append(entry.name)
            continue
        shape, dtype = wanted[entry.path].shape, wanted[entry.path].dtype
        theirs = tuple(shape[entry.axes.index(axis)] for axis in range(len(shape)))
        if tensor.shape != theirs:
            misshapen.append(f"{entry.name} is {tensor.shape}, not {theirs}")
        elif not np.isfinite(tensor).all():
            infinite.append(entry.name)
        else:
            result[entry.path] = tensor.transpose(entry.axes).astype(dtype)
    problems = _other_depths(given, names)
    for what, listed in (
        ("missing", sorted(missing)),
        ("unexpected", sorted(given - names)),
        ("misshapen", misshapen),
        ("with values that are not finite", infinite),
        ("that should be equal and are not", untied),
    ):
        if listed:
            problems.append(_list(what, listed))
    if problems:
        raise ValueError("the weights do not fit the model: " + "; ".join(problems))
    leaves = {path: jax.numpy.asarray(array) for path, array in result.items()}
    return _nest(leaves)


def _other_depths(given: Iterable[str], known: Iterable[str]) -> list[str]:
    theirs, ours = _depths(given), _depths(known)
    return [
        f"{prefix}N has depth {theirs[prefix]} in the file and {depth} in the model"
        for prefix, depth in ours.items()
        if theirs.get(prefix, depth) != depth
    ]


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
    _check_table(table, ours)
    return {
        entry.name: np.ascontiguousarray(
            np.asarray(ours[entry.path]).transpose(np.argsort(entry.axes))
        )
        for entry in _tensors(table)
    }
