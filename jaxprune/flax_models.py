"""Your own Flax model as a `Prunable`: Linen, scanned Linen, or NNX.

Each function takes another function, from a number of blocks to a model of that depth,
and finds out the rest by tracing: which collections hold blocks, and which blocks must
stay because they change the shape or own what others lack. For one stack of blocks that
differ in nothing but their number; anything else is a `Prunable` written by hand.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxprune import activations as activations_lib
from jaxprune import plan as plan_lib
from jaxprune.activations import ActivationsFn
from jaxprune.layouts import Layout, Listed, Named
from jaxprune.prunable import Prunable, Structure

Array = jax.Array
STACK = "blocks"


def _start(num_blocks: int) -> Structure:
    if num_blocks < 1:
        raise ValueError(f"num_blocks={num_blocks} must be at least 1")
    return Structure({STACK: tuple(range(num_blocks))})


def _holds_blocks(layout: Layout, tree: Any, depth: int) -> bool:
    try:
        return layout.count(tree) == depth
    except ValueError:
        return False


def _stack(
    layout: Layout,
    variables: Mapping[str, Any],
    activations_fn: ActivationsFn,
    example_inputs: Any,
    depth: int,
) -> plan_lib.Stack:
    layouts = {
        name: layout if _holds_blocks(layout, tree, depth) else None
        for name, tree in variables.items()
    }
    if layouts.get("params") is None:
        raise ValueError(f"no {depth} blocks in the parameters where {layout} looks")
    stack = plan_lib.Stack(STACK, depth, layouts)
    _, outputs = jax.eval_shape(activations_fn, variables, example_inputs)
    shapes = [output.shape for output in outputs]
    protected = plan_lib.discover_protected(stack, variables["params"], shapes)
    return plan_lib.Stack(STACK, depth, layouts, protected=protected)


def linen_prunable(
    make_module: Callable[[int], nn.Module],
    num_blocks: int,
    example_inputs: Any,
    *,
    layout: Layout | None = None,
    make_activations: Callable[[nn.Module], ActivationsFn] | None = None,
    structure: Structure | None = None,
) -> Prunable:
    """Returns a Linen model as the pruner sees it.

    Block 0 is kept: what goes into it is not among the activations.

    Args:
        make_module: from a number of blocks, the module; called with inputs alone.
        num_blocks: of the unpruned model.
        example_inputs: a batch, for shapes and for `init`.
        layout: where blocks are; `Named("block_{}")` by default, `Stacked(("blocks",))`
            for an `nn.scan` called `blocks`.
        make_activations: from the module, its activations function; by default, the
            outputs of the modules that a `Named` layout names at the top.
        structure: which blocks are left; all by default.

    Raises:
        ValueError: if the layout does not find the blocks.

    >>> class Net(nn.Module):
    ...     depth: int
    ...
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         for i in range(self.depth):
    ...             x = nn.Dense(4, name=f"block_{i}")(x)
    ...         return x
    >>> model = linen_prunable(Net, 3, jax.numpy.ones((2, 4)))
    >>> model.stack("blocks").num_blocks, model.stack("blocks").protected
    (3, {0: "its input's shape is not known"})
    """
    structure = structure or _start(num_blocks)
    depth = len(structure.kept[STACK])
    module = make_module(depth)
    layout = layout or Named("block_{}")
    if make_activations is not None:
        activations_fn = make_activations(module)
    elif isinstance(layout, Named) and not layout.path:
        names = [layout.pattern.format(index) for index in range(depth)]
        activations_fn = activations_lib.linen_activations(module, names)
    else:
        raise ValueError(f"make_activations is needed with the layout {layout}")

    def init(key: Array) -> dict[str, Any]:
        return dict(module.init(key, example_inputs))

    shapes = jax.eval_shape(init, jax.random.key(0))
    return Prunable(
        structure=structure,
        stacks=(_stack(layout, shapes, activations_fn, example_inputs, depth),),
        build=lambda new: linen_prunable(
            make_module,
            num_blocks,
            example_inputs,
            layout=layout,
            make_activations=make_activations,
            structure=new,
        ),
        init=init,
        apply=module.apply,
        activations={STACK: activations_fn},
    )


def nnx_prunable(
    make_model: Callable[[int, nnx.Rngs], nnx.Module],
    num_blocks: int,
    example_inputs: Any,
    *,
    path: str = "blocks",
    structure: Structure | None = None,
) -> Prunable:
    """Returns an NNX model whose blocks are an `nnx.List` as the pruner sees it.

    Its variables are `{"params": nested dictionaries of arrays}`; to get a model back,
    `nnx.update(make_model(depth, rngs), variables["params"])`.

    Args:
        make_model: from a number of blocks and random number generators, the model.
        num_blocks: of the unpruned model.
        example_inputs: a batch, for shapes.
        path: attribute of the model that is the list of blocks.
        structure: which blocks are left; all by default.

    Raises:
        ValueError: if there is no such list, or the model keeps other variables than
            parameters.
    """
    structure = structure or _start(num_blocks)
    depth = len(structure.kept[STACK])
    abstract = nnx.eval_shape(lambda: make_model(depth, nnx.Rngs(0)))
    # mypy does not follow the overloads of split.
    parts: Any = nnx.split(abstract, nnx.Param, ...)
    graphdef, params, others = parts
    if jax.tree.leaves(others):
        raise ValueError(
            "the model keeps variables besides nnx.Param: write a Prunable"
        )
    names = [f"{path}/{index}" for index in range(depth)]
    of_state = activations_lib.nnx_activations(graphdef, names)

    def as_state(variables: Mapping[str, Any]) -> Any:
        state = jax.tree.map(lambda x: x, params)
        nnx.replace_by_pure_dict(state, variables["params"])
        return state

    def activations_fn(variables: Any, inputs: Any) -> tuple[Any, list[Array]]:
        return of_state(as_state(variables), inputs)

    def init(key: Array) -> dict[str, Any]:
        state = nnx.state(make_model(depth, nnx.Rngs(key)), nnx.Param)
        return {"params": nnx.to_pure_dict(state)}

    layout = Listed((path,))
    shapes = jax.eval_shape(init, jax.random.key(0))
    return Prunable(
        structure=structure,
        stacks=(_stack(layout, shapes, activations_fn, example_inputs, depth),),
        build=lambda new: nnx_prunable(
            make_model, num_blocks, example_inputs, path=path, structure=new
        ),
        init=init,
        apply=lambda variables, inputs: nnx.merge(graphdef, as_state(variables))(
            inputs
        ),
        activations={STACK: activations_fn},
    )
