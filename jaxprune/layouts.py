"""Where a model keeps its blocks: under names, in a list, or stacked on an axis.

A layout is told once per variable collection. It counts the blocks that stand in a
pytree, hands them out one by one, and takes a selection of them, renumbered, leaving
everything else in the tree as it is. The same layout serves parameters, batch
statistics, and the moments that an optimizer keeps in the shape of the parameters.
"""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
Path = tuple[str | int, ...]


@runtime_checkable
class Layout(Protocol):
    """What the pruner needs to know about where blocks are stored."""

    def count(self, tree: Tree) -> int:
        """Returns the number of blocks in `tree`; raises ValueError without any."""

    def blocks(self, tree: Tree) -> list[Tree]:
        """Returns the subtree of each block, in order."""

    def put(self, tree: Tree, blocks: Sequence[Tree]) -> Tree:
        """Returns `tree` with `blocks` instead of its own: the inverse of `blocks`."""

    def take(self, tree: Tree, kept: Sequence[int]) -> Tree:
        """Returns `tree` with the blocks `kept` only, renumbered from zero."""


def _checked(kept: Sequence[int], count: int) -> list[int]:
    kept = [int(block) for block in kept]
    if kept != sorted(set(kept)) or (kept and not 0 <= kept[0] <= kept[-1] < count):
        raise ValueError(
            f"kept blocks {kept} must be increasing indices within 0..{count - 1}"
        )
    return kept


def _is_sequence(tree: Tree) -> bool:
    return isinstance(tree, list | tuple) and not hasattr(tree, "_fields")


def _child(tree: Tree, key: str | int, path: Path) -> Tree:
    if isinstance(tree, Mapping) and key in tree:
        return tree[key]
    if _is_sequence(tree) and isinstance(key, int) and key < len(tree):
        return tree[key]
    found = sorted(map(str, tree)) if isinstance(tree, Mapping) else type(tree).__name__
    raise ValueError(f"no {key!r} on the way to {path}: found {found}")


def _at(tree: Tree, path: Path) -> Tree:
    for key in path:
        tree = _child(tree, key, path)
    return tree


def _rewrap(like: Tree, children: Any) -> Tree:
    return type(like)(children)


def _replace(tree: Tree, path: Path, change: Callable[[Tree], Tree]) -> Tree:
    if not path:
        return change(tree)
    new = _replace(_child(tree, path[0], path), path[1:], change)
    if isinstance(tree, Mapping):
        return _rewrap(tree, {**tree, path[0]: new})
    children = list(tree)
    children[int(path[0])] = new
    return _rewrap(tree, children)


def _take(leaf: Any, indices: Any, axis: int) -> Any:
    """Takes slices of an array, or tells the shape that they would have."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda x: x.take(indices, axis=axis), leaf)
    return leaf.take(indices, axis=axis)


@dataclasses.dataclass(frozen=True)
class Named:
    """Blocks are the children `pattern.format(index)` of a mapping.

    >>> tree = {"stem": 0, "block_0": 1, "block_1": 2, "block_2": 3}
    >>> Named("block_{}").take(tree, [0, 2])
    {'stem': 0, 'block_0': 1, 'block_1': 3}

    Attributes:
        pattern: name of a block with one `{}` for its index.
        path: keys that lead from the root of the collection to the mapping.
    """

    pattern: str
    path: Path = ()

    def __post_init__(self) -> None:
        """Checks that the pattern has one place for the index."""
        fields = [name for _, name, _, _ in string.Formatter().parse(self.pattern)]
        if [name for name in fields if name is not None] != [""]:
            raise ValueError(f"pattern {self.pattern!r} must hold exactly one '{{}}'")

    def _index(self, key: Any) -> int | None:
        before, after = self.pattern.split("{}")
        text = str(key)
        if text.startswith(before) and text.endswith(after):
            middle = text[len(before) : len(text) - len(after)]
            if middle.isdecimal():
                return int(middle)
        return None

    def count(self, tree: Tree) -> int:
        """Returns the number of blocks; raises ValueError if there is none or a gap."""
        node = _at(tree, self.path)
        indices = sorted(
            index for key in node if (index := self._index(key)) is not None
        )
        if not indices or indices != list(range(len(indices))):
            raise ValueError(
                f"names {self.pattern!r} at {self.path} must count from 0 without a "
                f"gap: found indices {indices} among {sorted(map(str, node))}"
            )
        return len(indices)

    def blocks(self, tree: Tree) -> list[Tree]:
        """Returns the subtree of each block, in order."""
        node = _at(tree, self.path)
        return [node[self.pattern.format(i)] for i in range(self.count(tree))]

    def put(self, tree: Tree, blocks: Sequence[Tree]) -> Tree:
        """Returns `tree` with `blocks` instead of its own, named from zero."""

        def change(node: Tree) -> Tree:
            others = {key: node[key] for key in node if self._index(key) is None}
            named = {self.pattern.format(i): block for i, block in enumerate(blocks)}
            return _rewrap(node, {**others, **named})

        return _replace(tree, self.path, change)

    def take(self, tree: Tree, kept: Sequence[int]) -> Tree:
        """Returns `tree` with the blocks `kept` only, renamed from zero."""
        blocks = self.blocks(tree)
        return self.put(tree, [blocks[i] for i in _checked(kept, len(blocks))])


@dataclasses.dataclass(frozen=True)
class Listed:
    """Blocks are the items of a list or tuple, or a mapping with integer keys (NNX).

    >>> Listed(("layers",)).take({"layers": ["a", "b", "c"], "head": 1}, [1, 2])
    {'layers': ['b', 'c'], 'head': 1}

    Attributes:
        path: keys that lead from the root of the collection to the list.
    """

    path: Path = ()

    def blocks(self, tree: Tree) -> list[Tree]:
        """Returns the subtree of each block, in order."""
        node = _at(tree, self.path)
        if isinstance(node, Mapping):
            if sorted(node) != list(range(len(node))):
                raise ValueError(
                    f"keys at {self.path} must be the integers from 0: {list(node)}"
                )
            return [node[index] for index in range(len(node))]
        if not _is_sequence(node):
            raise ValueError(
                f"no list of blocks at {self.path}: found a {type(node).__name__}"
            )
        return list(node)

    def count(self, tree: Tree) -> int:
        """Returns the length of the list; raises ValueError if it is empty."""
        if not (count := len(self.blocks(tree))):
            raise ValueError(f"the list of blocks at {self.path} is empty")
        return count

    def put(self, tree: Tree, blocks: Sequence[Tree]) -> Tree:
        """Returns `tree` with `blocks` instead of its own."""

        def change(node: Tree) -> Tree:
            is_mapping = isinstance(node, Mapping)
            return _rewrap(node, dict(enumerate(blocks)) if is_mapping else blocks)

        return _replace(tree, self.path, change)

    def take(self, tree: Tree, kept: Sequence[int]) -> Tree:
        """Returns `tree` with the items `kept` only."""
        blocks = self.blocks(tree)
        return self.put(tree, [blocks[i] for i in _checked(kept, len(blocks))])


@dataclasses.dataclass(frozen=True)
class Stacked:
    """Each array under `path` holds all blocks, one after the other on `axis`.

    This is how `nn.scan` and `nnx.scan` store layers; the axis need not be the first
    (MaxText scans parameters on axis 1), and may differ between collections.

    >>> Stacked(("layers",), axis=1).take({"layers": np.array([[1, 2, 3]])}, [0, 2])
    {'layers': array([[1, 3]])}

    Attributes:
        path: keys that lead from the root of the collection to the stacked subtree.
        axis: the axis of every array there that counts blocks.
    """

    path: Path = ()
    axis: int = 0

    def count(self, tree: Tree) -> int:
        """Returns the common length of `axis`; raises ValueError if arrays differ."""
        node = _at(tree, self.path)
        lengths: dict[int | None, str] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(node):
            shape = np.shape(leaf)
            fits = -len(shape) <= self.axis < len(shape)
            lengths[shape[self.axis] if fits else None] = jax.tree_util.keystr(path)
        if len(lengths) != 1 or None in lengths or 0 in lengths:
            raise ValueError(
                f"arrays at {self.path} must have the same number of blocks on axis "
                f"{self.axis}: found {lengths or 'no array'}"
            )
        (length,) = lengths
        assert length is not None
        return length

    def blocks(self, tree: Tree) -> list[Tree]:
        """Returns the subtree of each block, without the stacked axis."""
        node = _at(tree, self.path)
        return [
            jax.tree.map(lambda leaf, i=i: _take(leaf, i, self.axis), node)
            for i in range(self.count(tree))
        ]

    def put(self, tree: Tree, blocks: Sequence[Tree]) -> Tree:
        """Returns `tree` with `blocks`, stacked, instead of its own."""

        def stack(*leaves: Any) -> Any:
            on_device = any(isinstance(leaf, jax.Array) for leaf in leaves)
            return (jnp if on_device else np).stack(leaves, axis=self.axis)

        return _replace(tree, self.path, lambda _: jax.tree.map(stack, *blocks))

    def take(self, tree: Tree, kept: Sequence[int]) -> Tree:
        """Returns `tree` with the slices `kept` of each stacked array."""
        indices = np.asarray(_checked(kept, self.count(tree)), np.int32)

        def change(node: Tree) -> Tree:
            return jax.tree.map(lambda leaf: _take(leaf, indices, self.axis), node)

        return _replace(tree, self.path, change)
