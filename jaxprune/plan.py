"""Which blocks stay, and what that does to every array that belongs to them.

A `Stack` states the facts of one stack of blocks: how many, where they are stored, and
which must stay and why. `make_plan` turns indices to remove into a `Plan` or refuses
with the reasons; `apply_plan` and `apply_plan_to_optimizer` carry it out on variables
and optimizer state together, so that nothing is left behind at the old depth.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxprune import layouts

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Static facts about one stack of residual blocks, numbered `0 .. num_blocks-1`.

    Attributes:
        name: label of the stack, for example `"blocks"`, `"encoder"`, `"decoder"`.
        num_blocks: how many blocks there are.
        layouts: where each variable collection keeps them; `None` for a collection that
            holds nothing of any block. A collection that is not listed is refused,
            never silently left at the old depth.
        stages: stage of each block; blocks of one stage share the shape of their
            output. Empty means one stage.
        protected: blocks that must stay, with the reason.

    >>> layout = layouts.Named("block_{}")
    >>> Stack("blocks", 3, {"params": layout}, protected={0: "widens"}).stages
    (0, 0, 0)
    """

    name: str
    num_blocks: int
    layouts: Mapping[str, layouts.Layout | None]
    stages: tuple[int, ...] = ()
    protected: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that the facts agree with each other."""
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks={self.num_blocks} must be at least 1")
        if not self.stages:
            object.__setattr__(self, "stages", (0,) * self.num_blocks)
        if len(self.stages) != self.num_blocks:
            raise ValueError(
                f"{len(self.stages)} stages given for {self.num_blocks} blocks"
            )
        if outside := [b for b in self.protected if not 0 <= b < self.num_blocks]:
            raise ValueError(
                f"protected blocks {outside} are not within 0..{self.num_blocks - 1}"
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which blocks of one stack stay and which go, both increasing."""

    stack: str
    kept: tuple[int, ...]
    removed: tuple[int, ...]

    def spans(self) -> tuple[tuple[int, int], ...]:
        """Returns the first and last block of each run of removed neighbours.

        >>> Plan("blocks", kept=(0, 3), removed=(1, 2, 4)).spans()
        ((1, 2), (4, 4))
        """
        runs: list[list[int]] = []
        for block in self.removed:
            if runs and runs[-1][1] == block - 1:
                runs[-1][1] = block
            else:
                runs.append([block, block])
        return tuple((first, last) for first, last in runs)


def refusals(stack: Stack, removed: Collection[int]) -> dict[int, str]:
    """Returns those of `removed` that may not be removed, each with the reason."""
    reasons: dict[int, str] = {}
    for block in sorted(set(removed)):
        if not 0 <= block < stack.num_blocks:
            reasons[block] = f"not within 0..{stack.num_blocks - 1}"
        elif block in stack.protected:
            reasons[block] = stack.protected[block]
    return reasons


def make_plan(stack: Stack, removed: Collection[int]) -> Plan:
    """Returns the plan that removes the blocks `removed` of `stack`.

    >>> stack = Stack("blocks", 4, {"params": layouts.Named("block_{}")})
    >>> make_plan(stack, [2])
    Plan(stack='blocks', kept=(0, 1, 3), removed=(2,))

    Args:
        stack: the facts about the stack.
        removed: indices of blocks, in any order.

    Raises:
        ValueError: for a block that must stay, naming each with its reason, or when no
            block would be left.
    """
    if reasons := refusals(stack, removed):
        told = "; ".join(f"block {block}: {why}" for block, why in reasons.items())
        raise ValueError(f"cannot remove from stack {stack.name!r}: {told}")
    gone = tuple(sorted({int(block) for block in removed}))
    kept = tuple(block for block in range(stack.num_blocks) if block not in gone)
    if not kept:
        raise ValueError(f"stack {stack.name!r} would lose all its blocks")
    return Plan(stack.name, kept, gone)


def apply_plan(plan: Plan, stack: Stack, variables: Variables) -> dict[str, Any]:
    """Returns `variables` with the planned blocks removed from every collection.

    Args:
        plan: made by `make_plan` for this stack.
        stack: the facts about the stack.
        variables: collections by name, as Flax has them: `params`, `batch_stats`, ...

    Raises:
        ValueError: if a collection has no layout, or holds another number of blocks.

    >>> stack = Stack("blocks", 3, {"params": layouts.Named("block_{}")})
    >>> params = {"block_0": "a", "block_1": "b", "block_2": "c", "head": "d"}
    >>> apply_plan(make_plan(stack, [1]), stack, {"params": params})
    {'params': {'head': 'd', 'block_0': 'a', 'block_1': 'c'}}
    """
    if unknown := sorted(set(variables) - set(stack.layouts)):
        raise ValueError(
            f"stack {stack.name!r} has no layout for the collections {unknown}: name "
            "one, or None where a collection holds nothing of a block"
        )
    result = {}
    for collection, tree in variables.items():
        layout = stack.layouts[collection]
        if layout is not None:
            if (count := layout.count(tree)) != stack.num_blocks:
                raise ValueError(
                    f"collection {collection!r} holds {count} blocks, stack "
                    f"{stack.name!r} has {stack.num_blocks}"
                )
            tree = layout.take(tree, plan.kept)
        result[collection] = tree
    return result


def _has_structure_of(tree: Any, params: Any) -> bool:
    """Says whether `tree` is `params` in structure, parts masked by optax aside."""
    if isinstance(tree, optax.MaskedNode):
        return True
    registry = jax.tree_util.default_registry
    ours, theirs = registry.flatten_one_level(tree), registry.flatten_one_level(params)
    if ours is None or theirs is None:
        return ours is theirs
    children, reference = list(ours[0]), list(theirs[0])
    return (
        type(tree) is type(params)
        and ours[1] == theirs[1]
        and len(children) == len(reference)
        and all(map(_has_structure_of, children, reference))
    )


def apply_plan_to_optimizer(
    plan: Plan, stack: Stack, opt_state: Any, params: Any
) -> Any:
    """Returns an optax state for the pruned parameters, its moments kept.

    Every subtree of `opt_state` that has the structure of `params` (moments, averages,
    traces; parts left out by `optax.masked` allowed) loses the same blocks as the
    parameters do. Counters and schedules stay as they are.

    Args:
        plan: made by `make_plan` for this stack.
        stack: the facts about the stack.
        opt_state: state of an optax transformation of the unpruned `params`.
        params: the unpruned parameters.

    Raises:
        ValueError: if the state holds arrays stacked in another shape than the
            parameters, as factored second moments do; initialise it anew in that case.

    >>> stack = Stack("blocks", 3, {"params": layouts.Listed()})
    >>> params = [np.zeros(2), np.zeros(2), np.zeros(2)]
    >>> state = optax.sgd(0.1, momentum=0.9).init(params)
    >>> pruned = apply_plan_to_optimizer(make_plan(stack, [1]), stack, state, params)
    >>> len(pruned[0].trace)
    2
    """
    layout = stack.layouts["params"]
    if layout is None:
        return opt_state

    def matches(tree: Any) -> bool:
        return not isinstance(tree, optax.MaskedNode) and _has_structure_of(
            tree, params
        )

    def change(tree: Any) -> Any:
        return layout.take(tree, plan.kept) if matches(tree) else tree

    return jax.tree.map(change, opt_state, is_leaf=matches)


def discover_protected(
    stack: Stack,
    params: Any,
    output_shapes: Sequence[tuple[int, ...]],
    input_shape: tuple[int, ...] | None = None,
) -> dict[int, str]:
    """Finds the blocks that must stay, from parameters and activation shapes.

    Args:
        stack: the facts about the stack, `protected` aside.
        params: the parameter collection.
        output_shapes: shape of each block's output, for example from `jax.eval_shape`
            of an activations function.
        input_shape: shape of the first block's input; unknown protects that block.

    Returns:
        Blocks that change the shape of what passes through them, and blocks that hold
        parameters that some other block of the stack lacks or that are tied to one
        elsewhere, each with the reason.
    """
    reasons: dict[int, str] = {}
    before = input_shape
    for block, after in enumerate(output_shapes):
        if before is None:
            reasons[block] = "its input's shape is not known"
        elif before != after:
            reasons[block] = f"changes the shape {tuple(before)} to {tuple(after)}"
        before = after
    layout = stack.layouts["params"]
    if layout is None:
        return reasons
    blocks = [
        {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, layout.blocks(params))
    ]
    common = set.intersection(*(set(block) for block in blocks))
    uses: dict[int, int] = {}
    for leaf in jax.tree.leaves(params):
        uses[id(leaf)] = uses.get(id(leaf), 0) + 1
    for index, block_leaves in enumerate(blocks):
        own = sorted(set(block_leaves) - common)
        tied = sorted(
            name
            for name, leaf in block_leaves.items()
            if uses.get(id(leaf), 0) > 1 and isinstance(leaf, np.ndarray | jax.Array)
        )
        if own:
            reasons[index] = f"holds {', '.join(own)}, which other blocks lack"
        elif tied:
            reasons[index] = f"holds {', '.join(tied)}, tied to a parameter elsewhere"
    return reasons
