"""Layer-wise reconstruction in closed form: what is left learns what was removed.

A residual block adds the result of a linear operation to its input: the last
convolution, or the output matrix of an MLP. That operation can be chosen anew, without
gradients and without any parameter more, such that the block before a cut puts out what
the unpruned network puts out behind it: a least-squares problem, whose inputs are what
the block computes anyway. All later blocks are fitted after it, one by one, to what the
unpruned network has in their place, so that each corrects what those before it left
over; the head comes last.

Where a ReLU follows, negative targets are all alike, and only what the block makes
positive there is an error. That is still convex, and solved by repeating the regression
with the targets that count as met replaced by what is predicted (majorisation).

References:
    Layer-wise reconstruction: Zhang et al., 2015, https://arxiv.org/abs/1505.06798,
    who fit layers approximated within a network in this order and treat ReLU otherwise.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import heal, least_squares, operation_fit
from jaxprune import plan as plan_lib
from jaxprune.batches import num_examples
from jaxprune.least_squares import LinearMap, Moments
from jaxprune.prunable import (
    LinearOperation,
    Prunable,
    Refit,
    RefitBlock,
    Variables,
)
from jaxprune.samples import at_positions

Array = jax.Array

HEAD = -1  # in the place of a block number


class Fitted(NamedTuple):
    """How well one operation was fitted."""

    block: int  # in the numbering of the pruned model, or HEAD
    unexplained: float  # share of the target's variance that is left


def refit(
    base: Prunable,
    base_variables: Variables,
    pruned: Prunable,
    pruned_variables: Variables,
    plan: plan_lib.Plan,
    batches: Sequence[Any],
    *,
    ridge: float = 1e-3,
    positions: int = 32,
    iterations: int = 5,
    linear_maps: bool = False,
) -> tuple[Prunable, dict[str, Any], tuple[Fitted, ...]]:
    """Fits the blocks from the first cut on, and the head, to the unpruned network.

    BatchNorm statistics inside a block are estimated anew before it is fitted, and
    those of the fitted operation after it, so that nothing is to be re-estimated later.
    Blocks before the first cut stay as they are.

    Owns the loop. Both networks run block by block, each block once over all batches;
    programs are compiled once for each kind of block. The outputs of one block of each
    network for all batches are held on the host, and samples of its features while a
    rectified operation is fitted.

    Args:
        base: the model before the plan.
        base_variables: its variables.
        pruned: the model after the plan, as `prunable.prune` gives it.
        pruned_variables: its variables.
        plan: what was removed, in the numbering of `base`.
        batches: inputs of equal size, a few hundred examples each; no labels.
        ridge: shrinkage towards the present weights; see `least_squares.solve_ridge`.
        positions: pixels or tokens of each example that are sampled.
        iterations: regressions for an operation that a ReLU follows.
        linear_maps: also end the blocks before cuts in linear maps, which are fitted in
            the same pass and cost parameters; needs `attach`.

    Returns:
        The model, another than `pruned` only if it holds linear maps; its variables;
        and how well each operation fits.

    Raises:
        ValueError: without batches, if the model does not say how to refit this stack,
            or if activations are not finite.

    >>> from jaxprune.models import resnet
    >>> from jaxprune.prunable import prune
    >>> config = resnet.ResNetConfig((3,), (4,), image_shape=(4, 4, 1))
    >>> model = resnet.prunable_resnet(config)
    >>> variables = jax.jit(model.init)(jax.random.key(0))
    >>> images = jax.random.normal(jax.random.key(1), (32, 4, 4, 1))
    >>> plan = plan_lib.make_plan(model.stack("blocks"), [1])
    >>> smaller, pruned = prune(model, variables, plan)
    >>> _, healed, fitted = refit(model, variables, smaller, pruned, plan, [images])
    >>> [operation.block for operation in fitted]
    [0, 1, -1]
    """
    stack = plan.stack
    if stack not in base.refit or stack not in pruned.refit:
        raise ValueError(f"this model does not say how to refit the stack {stack!r}")
    if linear_maps and pruned.attach is None:
        raise ValueError(
            "this model cannot hold linear maps: it has no attach function"
        )
    if not len(batches) or not all(num_examples(batch) for batch in batches):
        raise ValueError("blocks cannot be fitted without any batch, or to empty ones")
    for name, value in (("positions", positions), ("iterations", iterations)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    # The last block of the base that each kept one stands for.
    ends = [block - 1 for block in plan.kept[1:]]
    ends.append(base.stack(stack).num_blocks - 1)
    cuts = [p for p, block in enumerate(plan.kept) if block != ends[p]]
    model, variables = pruned, dict(pruned_variables)
    if linear_maps:
        model, variables = _with_identities(model, variables, stack, cuts)
    options = operation_fit.Options(ridge, positions, iterations)
    unpruned = _Walk(base, base_variables, stack, batches)
    walk = _Walk(model, variables, stack, batches)
    # What precedes the first kept block may have changed: blocks that are gone, or
    # a decoder's encoder.
    changed = plan.kept[0] > 0 or not _equal(unpruned.carries, walk.carries)
    adapted = base.structure.adapter_positions(stack)
    mapped = pruned.structure.adapter_positions(stack)
    fitted = []
    for place, (block, end) in enumerate(zip(plan.kept, ends, strict=True)):
        cut = place in cuts
        changed = changed or cut
        totals: list[np.ndarray] = []
        while unpruned.block <= end:
            # A map that is there already follows the sum and stays: then the block is
            # to do what it did, and a new map behind it does the rest.
            if changed and unpruned.block == (block if place in mapped else end):
                behind_map = unpruned.block in adapted and place not in mapped
                totals = unpruned.totals(positions, behind_map)
            unpruned.advance()
        if changed:
            if cut and place not in mapped:
                walk.inherit(unpruned.block_variables(end))
            walk.estimate_statistics()
            fitted.append(Fitted(place, walk.fit(totals, options)))
        if cut and linear_maps:
            fitted.append(Fitted(place, walk.fit_map(unpruned, options)))
        walk.advance()
    if changed and walk.head is not None:
        fitted.append(Fitted(HEAD, walk.fit_head(unpruned, options)))
    return model, walk.variables, tuple(fitted)


def _with_identities(
    model: Prunable, variables: dict[str, Any], stack: str, places: Sequence[int]
) -> tuple[Prunable, dict[str, Any]]:
    """Returns the model with a linear map, so far the identity, after each place."""
    assert model.attach is not None
    blocks = model.refit[stack].blocks
    identities = {}
    for place in places:
        block = _block_variables(model, variables, stack, place)
        width = blocks[place].operation.read(block).bias.size
        identities[place] = LinearMap(jnp.eye(width), jnp.zeros(width))
    structure = model.structure.with_adapters(stack, places)
    return model.build(structure), model.attach(variables, stack, identities)


def _block_variables(
    model: Prunable, variables: Variables, stack: str, block: int
) -> dict[str, Any]:
    return {
        name: layout.blocks(variables[name])[block]
        for name, layout in model.stack(stack).layouts.items()
        if layout is not None and name in variables
    }


def _equal(a: Any, b: Any) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


# Equal functions share their compiled program.
@functools.partial(jax.jit, static_argnums=0)
def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


class _Walk:
    """A network on its way through a stack: the carries that enter one block."""

    def __init__(
        self, model: Prunable, variables: Variables, stack: str, batches: Sequence[Any]
    ):
        self._model, self._stack = model, stack
        self._refit: Refit = model.refit[stack]
        self.variables: dict[str, Any] = dict(variables)
        self.block = 0
        enter = jax.jit(self._refit.enter)
        self.carries = [jax.device_get(enter(variables, batch)) for batch in batches]

    @property
    def head(self) -> LinearOperation | None:
        return self._refit.head

    @property
    def _here(self) -> RefitBlock:
        return self._refit.blocks[self.block]

    def block_variables(self, block: int) -> dict[str, Any]:
        return _block_variables(self._model, self.variables, self._stack, block)

    def _write(self, block_variables: Variables) -> None:
        for name, new in block_variables.items():
            layout = self._model.stack(self._stack).layouts[name]
            assert layout is not None
            blocks = layout.blocks(self.variables[name])
            blocks[self.block] = new
            self.variables[name] = layout.put(self.variables[name], blocks)

    def _forward(self, carry: Any) -> Any:
        return _call(self._here.forward, self.block_variables(self.block), carry)

    def advance(self) -> None:
        """Runs the block on all batches."""
        self.carries = [jax.device_get(self._forward(x)) for x in self.carries]
        self.block += 1

    def outputs(self, positions: int) -> list[np.ndarray]:
        """Returns samples of what the block that was run last puts out."""
        output = self._refit.blocks[self.block - 1].output
        sample = lambda carry: at_positions(output(carry), positions)  # noqa: E731
        return [jax.device_get(sample(carry)) for carry in self.carries]

    def totals(self, positions: int, behind_map: bool) -> list[np.ndarray]:
        """Returns samples of the block's sums, or of its output behind a map."""
        operation, variables = self._here.operation, self.block_variables(self.block)
        result = []
        for carry in self.carries:
            if behind_map:
                output = self._here.output(self._forward(carry))
                total = at_positions(output, positions)
            else:
                total = operation_fit.observe(operation, variables, carry, positions)[
                    0
                ].total
            result.append(jax.device_get(total))
        return result

    def inherit(self, removed: Variables) -> None:
        """Takes over what follows the sum of the removed block it stands for."""
        if self._here.inherit is not None:
            own = self.block_variables(self.block)
            self._write(self._here.inherit(own, removed))

    def estimate_statistics(self) -> None:
        """Estimates the BatchNorm statistics inside the block."""
        if self._here.statistics is None:
            return
        variables = self.block_variables(self.block)
        state, total = None, 0
        for carry in self.carries:
            count = num_examples(carry)
            total += count
            new = _call(self._here.statistics, variables, carry)
            state = heal.merge_statistics(state or new, new, count / total)
        self._write({**variables, "batch_stats": state})

    def fit(
        self, totals: Sequence[np.ndarray], options: operation_fit.Options
    ) -> float:
        """Fits the operation to the sums and returns the share left unexplained."""
        variables = self.block_variables(self.block)
        operation = self._here.operation
        new, left = operation_fit.fit(
            operation, variables, self.carries, totals, options
        )
        self._write(new)
        return left

    def fit_map(self, unpruned: "_Walk", options: operation_fit.Options) -> float:
        """Ends the block in a map to what the unpruned network put out last."""
        variables, operation = self.block_variables(self.block), self._here.operation
        moments: Moments | None = None
        wanted = unpruned.outputs(options.positions)
        for carry, target in zip(self.carries, wanted, strict=True):
            seen, _ = operation_fit.observe(
                operation, variables, carry, options.positions
            )
            output = self._here.output(self._forward(carry))
            x = at_positions(output, options.positions)
            added = least_squares.batch_moments(x, target, seen.counted)
            moments = least_squares.merge_moments(moments, added)
        assert moments is not None
        linear_map, left = least_squares.solve_ridge(moments, options.ridge)
        assert self._model.attach is not None
        maps = {self.block: linear_map}
        self.variables = self._model.attach(self.variables, self._stack, maps)
        return left

    def fit_head(self, unpruned: "_Walk", options: operation_fit.Options) -> float:
        """Fits the head to what the unpruned network's gives."""
        theirs, ours = unpruned.head, self.head
        assert theirs is not None
        assert ours is not None
        totals = [
            jax.device_get(
                operation_fit.observe(
                    theirs, unpruned.variables, carry, options.positions
                )[0].total
            )
            for carry in unpruned.carries
        ]
        new, left = operation_fit.fit(
            ours, self.variables, self.carries, totals, options
        )
        self.variables = dict(new)
        return left
