"""Outputs of the blocks of a stack, whatever the model is written in.

Everything downstream takes an `ActivationsFn`: it runs the model and returns its
output with the outputs of the blocks, in order. A model that can return those itself
needs nothing from this file. Such a function is pure; the caller jits it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from jax import Array

# (variables, inputs) -> (output of the model, outputs of blocks 0..L-1 `[n, ...]`).
ActivationsFn = Callable[[Any, Any], tuple[Any, list[Array]]]

# What stands for a block, given what it returns.
SelectFn = Callable[[Any], Array]


def first_output(result: Any) -> Array:
    """Returns the first of several results of a block, or its only one.

    >>> first_output(("hidden states", "attention weights"))
    'hidden states'
    """
    return result[0] if isinstance(result, tuple) else result


def call(apply: Callable[..., Any], inputs: Any) -> Any:
    """Calls a model: a tuple of inputs as positional arguments, a mapping as keywords.

    A named tuple stays one argument.

    >>> call(max, (1, 2)), call(dict, {"mask": 1})
    (2, {'mask': 1})
    """
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):
        return apply(*inputs)
    if isinstance(inputs, Mapping):
        return apply(**inputs)
    return apply(inputs)


def _select(calls: Any, name: str, select: SelectFn) -> Array:
    """Returns the output of a block from what was captured of its calls."""
    if len(calls) != 1:
        raise ValueError(
            f"block {name!r} runs {len(calls)} times in one forward pass: a "
            "name cannot tell shared blocks apart, so write the activations function "
            "yourself"
        )
    output = select(calls[0])
    if not isinstance(output, jax.Array):
        raise ValueError(
            f"block {name!r} returns {type(output).__name__}, not an array: pass "
            "select=, a function from what the block returns to one array"
        )
    return output


def _lookup(captured: Mapping[Any, Any], name: str, method: str) -> Any:
    """Follows a path such as `encoder/layers/0` into what was captured."""
    node: Any = captured
    for key in name.split("/"):
        matching = [k for k in node if str(k) == key] if hasattr(node, "keys") else []
        if not matching:
            return None
        node = node[matching[0]]
    return node[method] if hasattr(node, "keys") and method in node else None


def _missing(name: str, seen: Sequence[str], remedy: str = "") -> ValueError:
    shown = ", ".join(seen[:40]) + (", ..." if len(seen) > 40 else "")
    return ValueError(
        f"no output of a block {name!r}; modules that ran: {shown}{remedy}"
    )


def _capture_linen(
    module: nn.Module,
    names: Sequence[str],
    variables: Any,
    inputs: Any,
    apply_kwargs: Mapping[str, Any],
) -> tuple[Any, Any, list[str]]:
    wanted = set(names)
    seen: dict[str, None] = {}

    def is_block(submodule: nn.Module, method: str) -> bool:
        name = "/".join(submodule.path)
        seen[name] = None
        return method == "__call__" and name in wanted

    def apply(*args: Any, **kwargs: Any) -> Any:
        return module.apply(
            variables,
            *args,
            capture_intermediates=is_block,
            mutable=["intermediates"],
            **kwargs,
            **apply_kwargs,
        )

    output, state = call(apply, inputs)
    return output, state.get("intermediates", {}), [name for name in seen if name]


def linen_activations(
    module: nn.Module,
    block_names: Sequence[str],
    *,
    select: SelectFn = first_output,
    **apply_kwargs: Any,
) -> ActivationsFn:
    """Returns the activations function of a Linen model with named blocks.

    Args:
        module: the model.
        block_names: paths of the blocks, such as `"encoder/layer_0"`, in the order in
            which they run.
        select: the array that stands for a block, given what it returns; the first
            if it returns a tuple.
        **apply_kwargs: passed to `module.apply` at each call, such as `train=False`.

    Returns:
        A function of `(variables, inputs)`. `inputs` that are a tuple become
        positional arguments of the model and a dictionary keyword arguments; a named
        tuple stays one argument. It raises ValueError, when traced, if a name is not
        a module that ran once or its output is not an array.

    >>> model = nn.Sequential([nn.Dense(3), nn.Dense(2)])
    >>> x = jax.numpy.ones((5, 4))
    >>> variables = model.init(jax.random.key(0), x)
    >>> activations_fn = linen_activations(model, ["layers_0", "layers_1"])
    >>> output, activations = activations_fn(variables, x)
    >>> [a.shape for a in activations]
    [(5, 3), (5, 2)]
    """

    def activations_fn(variables: Any, inputs: Any) -> tuple[Any, list[Array]]:
        output, captured, seen = _capture_linen(
            module, block_names, variables, inputs, apply_kwargs
        )
        activations = []
        for name in block_names:
            calls = _lookup(captured, name, "__call__")
            if calls is None:
                raise _missing(name, seen)
            activations.append(_select(calls, name, select))
        return output, activations

    return activations_fn


def linen_scan_activations(
    module: nn.Module,
    scan_name: str,
    *,
    select: SelectFn = first_output,
    axis: int = 0,
    **apply_kwargs: Any,
) -> ActivationsFn:
    """Returns the activations function of a Linen model whose blocks are scanned.

    Args:
        module: the model.
        scan_name: path of the scanned block. Its `nn.scan` must list
            `"intermediates"` in `variable_axes`; otherwise Flax drops them silently.
        select: the array that stands for the stacked blocks, given what a block
            returns; of the usual `(carry, output)` the carry.
        axis: the axis given for `"intermediates"` in `variable_axes`.
        **apply_kwargs: passed to `module.apply` at each call.

    Returns:
        A function of `(variables, inputs)`, as of `linen_activations`.

    >>> class Block(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, _):
    ...         return x + nn.Dense(4)(x), None
    >>> class Model(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         scan = nn.scan(
    ...             Block,
    ...             variable_axes={"params": 0, "intermediates": 0},
    ...             split_rngs={"params": True},
    ...             length=3,
    ...         )
    ...         return scan(name="blocks")(x, None)[0]
    >>> x = jax.numpy.ones((5, 4))
    >>> variables = Model().init(jax.random.key(0), x)
    >>> _, activations = linen_scan_activations(Model(), "blocks")(variables, x)
    >>> [a.shape for a in activations]
    [(5, 4), (5, 4), (5, 4)]
    """

    def activations_fn(variables: Any, inputs: Any) -> tuple[Any, list[Array]]:
        output, captured, seen = _capture_linen(
            module, [scan_name], variables, inputs, apply_kwargs
        )
        calls = _lookup(captured, scan_name, "__call__")
        if calls is None:
            remedy = (
                f"; if {scan_name!r} is among them, add 'intermediates': {axis} to the "
                "variable_axes of its nn.scan, or Flax drops what it captured"
            )
            raise _missing(scan_name, seen, remedy)
        return output, _unstack(_select(calls, scan_name, select), axis)

    return activations_fn


def _unstack(stacked: Array, axis: int) -> list[Array]:
    return [
        jax.lax.index_in_dim(stacked, i, axis, keepdims=False)
        for i in range(stacked.shape[axis])
    ]


class _MethodOutput(nnx.Variable):
    """What NNX records here; a type of its own, apart from what a model sows."""


def _capture_nnx(
    graphdef: Any,
    variables: Any,
    inputs: Any,
    call_kwargs: Mapping[str, Any],
) -> tuple[Any, Any, list[str]]:
    model = nnx.merge(graphdef, variables)
    forward = nnx.capture(
        model, _MethodOutput, nnx.Intermediate, method_outputs=_MethodOutput
    )
    output, captured, _ = call(lambda *a, **k: forward(*a, **k, **call_kwargs), inputs)
    paths, _ = jax.tree.flatten_with_path(
        captured, is_leaf=lambda node: isinstance(node, nnx.Variable)
    )
    names = [
        "/".join(str(getattr(key, "key", key)) for key in path[:-1])
        for path, _ in paths
    ]
    return output, captured, sorted({name for name in names if name})


def _nnx_block(
    captured: Any, name: str, seen: Sequence[str], select: SelectFn
) -> Array:
    calls = _lookup(captured, name, "__call__")
    if calls is None:
        raise _missing(
            name, seen, " (a block that inherits its __call__ must define its own)"
        )
    return _select(calls.get_value(), name, select)


def nnx_activations(
    graphdef: Any,
    block_names: Sequence[str],
    *,
    select: SelectFn = first_output,
    **call_kwargs: Any,
) -> ActivationsFn:
    """Returns the activations function of an NNX model.

    Args:
        graphdef: of `graphdef, state = nnx.split(model)`; the state is the
            `variables` of the activations function.
        block_names: paths of the blocks, such as `"blocks/0"`, in order.
        select: the array that stands for a block, given what it returns.
        **call_kwargs: passed to the model at each call.

    Returns:
        A function of `(state, inputs)`, as of `linen_activations`. The state itself
        is not changed.

    >>> model = nnx.Sequential(
    ...     nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1))
    ... )
    >>> graphdef, state = nnx.split(model)
    >>> activations_fn = nnx_activations(graphdef, ["layers/0", "layers/1"])
    >>> _, activations = activations_fn(state, jax.numpy.ones((5, 4)))
    >>> [a.shape for a in activations]
    [(5, 3), (5, 2)]
    """

    def activations_fn(variables: Any, inputs: Any) -> tuple[Any, list[Array]]:
        output, captured, seen = _capture_nnx(graphdef, variables, inputs, call_kwargs)
        blocks = [_nnx_block(captured, name, seen, select) for name in block_names]
        return output, blocks

    return activations_fn


def nnx_scan_activations(
    graphdef: Any,
    scan_name: str,
    *,
    select: SelectFn = first_output,
    axis: int = 0,
    **call_kwargs: Any,
) -> ActivationsFn:
    """Returns the activations function of an NNX model whose blocks are scanned.

    Args:
        graphdef: of `graphdef, state = nnx.split(model)`.
        scan_name: path of the module that `nnx.scan` runs over.
        select: the array that stands for the stacked blocks, given what a block
            returns.
        axis: the axis along which `nnx.scan` stacks what the blocks record.
        **call_kwargs: passed to the model at each call.

    Returns:
        A function of `(state, inputs)`, as of `nnx_activations`.
    """

    def activations_fn(variables: Any, inputs: Any) -> tuple[Any, list[Array]]:
        output, captured, seen = _capture_nnx(graphdef, variables, inputs, call_kwargs)
        return output, _unstack(_nnx_block(captured, scan_name, seen, select), axis)

    return activations_fn
