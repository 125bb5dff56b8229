"""A model as the pruner sees it: plain facts and a handful of functions.

Nothing here is a base class. A `Prunable` is made by a function that knows the
architecture, `build(structure)`, which is called again with fewer blocks after each
cut; `jaxprune.models.resnet.prunable_resnet` is an example.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxprune import plan as plan_lib
from jaxprune.activations import ActivationsFn
from jaxprune.least_squares import LinearMap

Array = jax.Array
Variables = Mapping[str, Any]


class TrainingPass(NamedTuple):
    """What a forward pass in training mode gives."""

    outputs: Any
    activations: Mapping[str, list[Array]]  # block outputs by stack
    variables: dict[str, Any]  # running statistics moved on


@dataclasses.dataclass(frozen=True)
class Structure:
    """What is left of the base model, in the base model's numbering.

    Attributes:
        kept: by stack, the blocks that are left, increasing.
        adapters: by stack, those of them that end in a linear map (see `heal`).
    """

    kept: Mapping[str, tuple[int, ...]]
    adapters: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def after(self, plan: plan_lib.Plan) -> "Structure":
        """Returns the structure after a plan made in the present numbering.

        >>> plan = plan_lib.Plan("blocks", kept=(0, 2), removed=(1,))
        >>> Structure({"blocks": (0, 4, 5)}).after(plan).kept
        {'blocks': (0, 5)}
        """
        now = self.kept[plan.stack]
        kept = tuple(now[index] for index in plan.kept)
        adapters = {b for b in self.adapters.get(plan.stack, ()) if b in kept}
        structure = Structure({**self.kept, plan.stack: kept}, self.adapters)
        return structure._with_adapters_at(plan.stack, adapters)

    def with_adapters(self, stack: str, blocks: Sequence[int]) -> "Structure":
        """Returns the structure with linear maps after blocks (present numbering)."""
        base = {self.kept[stack][block] for block in blocks}
        return self._with_adapters_at(stack, base.union(self.adapters.get(stack, ())))

    def _with_adapters_at(self, stack: str, base_blocks: set[int]) -> "Structure":
        # Stacks without any are left out, so that equal structures compare equal.
        adapters = {name: b for name, b in self.adapters.items() if name != stack}
        if base_blocks:
            adapters[stack] = tuple(sorted(base_blocks))
        return Structure(self.kept, adapters)

    def within(self, larger: "Structure") -> "Structure":
        """Returns the structure numbered as the base of a model that is its own base.

        >>> Structure({"blocks": (0, 2)}).within(Structure({"blocks": (0, 4, 5)})).kept
        {'blocks': (0, 5)}
        """

        def renumbered(
            blocks: Mapping[str, tuple[int, ...]],
        ) -> dict[str, tuple[int, ...]]:
            return {
                name: tuple(larger.kept[name][block] for block in some)
                for name, some in blocks.items()
            }

        return Structure(renumbered(self.kept), renumbered(self.adapters))

    def adapter_positions(self, stack: str) -> tuple[int, ...]:
        """Returns the blocks that end in a linear map, in the present numbering."""
        adapters = self.adapters.get(stack, ())
        return tuple(i for i, b in enumerate(self.kept[stack]) if b in adapters)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads back."""
        return {
            "kept": {name: list(blocks) for name, blocks in self.kept.items()},
            "adapters": {name: list(b) for name, b in self.adapters.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Structure":
        """Returns the structure that `to_json` wrote."""
        return cls(
            {name: tuple(blocks) for name, blocks in data["kept"].items()},
            {name: tuple(blocks) for name, blocks in data["adapters"].items()},
        )


class Observed(NamedTuple):
    """A batch where a residual branch ends in a linear operation.

    Attributes:
        features: `[m, P]` what the operation takes, at sampled positions or tokens (of
            a convolution the patch around each, flattened like its kernel).
        total: `[m, Q]` what it gives plus the shortcut, there, before anything else.
        counted: `[m]` boolean, False for padding; None if all count.
    """

    features: Array
    total: Array
    counted: Array | None = None


class Spread(NamedTuple):
    """Mean and variance `[Q]` of `features @ kernel` over the calibration examples."""

    mean: Array
    variance: Array


@dataclasses.dataclass(frozen=True)
class LinearOperation:
    """A linear operation that can be fitted anew, as an affine map of its features.

    Attributes:
        observe: `(variables, carry, positions) -> Observed`; at most `positions` of
            each example are sampled, always the same.
        read: `variables -> LinearMap`, with any normalisation behind it folded in.
        write: `(variables, map, spread) -> variables`, the inverse: in inference the
            operation then is the map. A normalisation behind it takes its statistics
            from the spread, so that training sees the same.
        rectified: whether a ReLU follows the sum, so that negative totals are all one.
        has_bias: whether it can add a constant; without, the bias of its map is zero.
    """

    observe: Callable[[Variables, Any, int], Observed]
    read: Callable[[Variables], LinearMap]
    write: Callable[[Variables, LinearMap, Spread], Variables]
    rectified: bool = False
    has_bias: bool = True


@dataclasses.dataclass(frozen=True)
class RefitBlock:
    """A block whose last linear operation can be fitted anew.

    All functions take the collections of this block alone, as its layouts hand them
    out. Blocks that are alike should share them (equal functions), so that they are
    compiled once.

    Attributes:
        operation: the last one of the residual branch.
        forward: `(variables, carry) -> carry`, the block in inference.
        output: `carry -> [n, ..., Q]`, the output of the block in what `forward` gives.
        statistics: `(variables, carry) -> batch_stats` of this batch alone, if the
            block has BatchNorm.
        inherit: `(variables, removed) -> variables`: takes over from a removed block
            what follows the sum, such as its LayerNorm, when this one stands for it.
    """

    operation: LinearOperation
    forward: Callable[[Variables, Any], Any]
    output: Callable[[Any], Array]
    statistics: Callable[[Variables, Any], Any] | None = None
    inherit: Callable[[Variables, Variables], Variables] | None = None


@dataclasses.dataclass(frozen=True)
class Refit:
    """How the blocks of one stack are run one by one and fitted anew.

    Attributes:
        enter: `(variables, inputs) -> carry`, all that precedes block 0. A carry is a
            tree of arrays with the examples on the first axis.
        blocks: one for each block.
        head: an operation on what the last block gives, such as the classifier; takes
            the variables of the whole model.
    """

    enter: Callable[[Variables, Any], Any]
    blocks: tuple[RefitBlock, ...]
    head: LinearOperation | None = None


@dataclasses.dataclass(frozen=True)
class Prunable:
    """A model that blocks can be removed from.

    Variables are Flax collections by name. All functions are pure and take a batch.

    Attributes:
        structure: which blocks of the base model this one has.
        stacks: the facts of each stack of blocks.
        build: from a structure, the model that has it.
        init: from a key, variables.
        apply: `(variables, inputs) -> outputs`, inference.
        activations: by stack, `(variables, inputs) -> (outputs, block outputs)`.
        train_apply: `(variables, inputs) -> TrainingPass`, normalised by the batch's
            own statistics; without it, training is as inference.
        batch_statistics: `(variables, inputs) -> batch_stats` of this batch alone;
            needed by `heal.reestimate_batch_norm`.
        attach: `(variables, stack, maps) -> variables` of the model whose structure has
            adapters at the blocks of `maps` (present numbering), each map taking effect
            after what the block did so far; without it, no linear maps are fitted.
        refit: by stack, how `refit.refit` fits blocks anew; may lack stacks.

    >>> from jaxprune.models import resnet
    >>> model = resnet.prunable_resnet(resnet.cifar_config(20))
    >>> model.stack("blocks").num_blocks
    9
    >>> model.stack("blocks").protected[3]
    'halves the resolution and widens 16 channels to 32'
    """

    structure: Structure
    stacks: tuple[plan_lib.Stack, ...]
    build: Callable[[Structure], "Prunable"]
    init: Callable[[Array], dict[str, Any]]
    apply: Callable[[Variables, Any], Any]
    activations: Mapping[str, ActivationsFn]
    train_apply: Callable[[Variables, Any], TrainingPass] | None = None
    batch_statistics: Callable[[Variables, Any], Any] | None = None
    attach: (
        Callable[[Variables, str, Mapping[int, LinearMap]], dict[str, Any]] | None
    ) = None
    refit: Mapping[str, Refit] = dataclasses.field(default_factory=dict)

    def stack(self, name: str) -> plan_lib.Stack:
        """Returns the stack called `name`."""
        for stack in self.stacks:
            if stack.name == name:
                return stack
        raise ValueError(
            f"no stack {name!r}; there are {[s.name for s in self.stacks]}"
        )

    def train(self, variables: Variables, inputs: Any) -> TrainingPass:
        """Runs `train_apply`, or `activations` of a model without it."""
        if self.train_apply is not None:
            return self.train_apply(variables, inputs)
        # XLA merges the repeated passes of a model with several stacks.
        outputs, activations = None, {}
        for name, activations_fn in self.activations.items():
            outputs, activations[name] = activations_fn(variables, inputs)
        return TrainingPass(outputs, activations, dict(variables))


def prune(
    model: Prunable, variables: Variables, plan: plan_lib.Plan
) -> tuple[Prunable, dict[str, Any]]:
    """Returns the smaller model and its variables.

    Raises:
        ValueError: if the variables do not fit the model or the rebuilt model has
            another depth than planned.

    >>> from jaxprune.models import resnet
    >>> model = resnet.prunable_resnet(resnet.cifar_config(20))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0))
    >>> plan = plan_lib.make_plan(model.stack("blocks"), [1, 4])
    >>> smaller, pruned = prune(model, variables, plan)
    >>> smaller.structure.kept
    {'blocks': (0, 2, 3, 5, 6, 7, 8)}
    """
    stack = model.stack(plan.stack)
    smaller = model.build(model.structure.after(plan))
    if (depth := smaller.stack(plan.stack).num_blocks) != len(plan.kept):
        raise ValueError(
            f"build made stack {plan.stack!r} with {depth} blocks, not {len(plan.kept)}"
        )
    return smaller, plan_lib.apply_plan(plan, stack, variables)
