"""Unstructured pruning after depth: magnitude and Wanda masks.

Masks are kept by the path of the parameter, so any pytree of parameters will do and
what is not pruned needs none. `mask_updates` keeps pruned weights at zero in training.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxprune import activations
from jaxprune.batches import MaskFn, pad_batches

# Path of a parameter, such as "block_0/dense/kernel" -> True where a weight stays.
Masks = Mapping[str, Array]

# (path, parameter) -> whether it is pruned.
SelectFn = Callable[[str, Array], bool]


def is_kernel(path: str, parameter: Array) -> bool:
    """Selects kernels of dense and convolutional layers.

    >>> is_kernel("dense/kernel", jnp.ones((2, 2))), is_kernel("bias", jnp.ones(2))
    (True, False)
    """
    return path.split("/")[-1] == "kernel" and parameter.ndim >= 2


def _path(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"{sparsity=} is not in [0, 1): a fraction, such as 0.5 for 50 %"
        )


def _keep_largest(scores: Array, sparsity: float) -> Array:
    """Keeps all but `floor(sparsity * n)` entries along axis 0, the first of equals."""
    num_removed = math.floor(sparsity * scores.shape[0] + 1e-9)
    # Ranks, rather than a threshold, remove the exact number even among equals.
    order = jnp.argsort(-scores, axis=0, stable=True)
    ranks = jnp.argsort(order, axis=0)
    return ranks < scores.shape[0] - num_removed


def magnitude_masks(
    params: Any, sparsity: float, *, select: SelectFn = is_kernel
) -> dict[str, Array]:
    """Returns masks that remove the smallest weights of each selected parameter.

    Args:
        params: pytree of parameters.
        sparsity: fraction of each parameter to remove, in [0, 1); rounded down to
            whole weights.
        select: which parameters are pruned.

    Raises:
        ValueError: if the sparsity is outside its range or nothing is selected.

    >>> params = {"dense": {"kernel": jnp.array([[1.0, -3.0], [-2.0, 0.5]])}}
    >>> magnitude_masks(params, 0.5)["dense/kernel"].tolist()
    [[False, True], [True, False]]
    """
    _check_sparsity(sparsity)
    masks = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        if select(_path(keys), leaf):
            scores = jnp.abs(leaf.astype(jnp.float32)).reshape(-1)
            masks[_path(keys)] = _keep_largest(scores, sparsity).reshape(leaf.shape)
    if not masks:
        raise ValueError("no parameter is selected for pruning: pass select=")
    return masks


class KernelInputs(NamedTuple):
    """What a kernel was fed with.

    Attributes:
        norms: of each input over all calibration vectors, shaped to broadcast against
            the kernel, such as `[in, 1]`; more axes lead if the layer is scanned.
        num_output_axes: how many of the last axes of the kernel are outputs.
        num_axes: of the kernel, not counting those of a scan.
    """

    norms: Array
    num_output_axes: int
    num_axes: int


def wanda_masks(
    params: Any, inputs: Mapping[str, KernelInputs], sparsity: float
) -> dict[str, Array]:
    """Returns Wanda's masks: weights are compared within each output.

    The score of a weight is its size times the norm of its input, so a small weight
    stays if what it multiplies is large.

    Args:
        params: pytree of parameters.
        inputs: of the kernels to prune, as returned by `linen_kernel_inputs`, or the
            user's own.
        sparsity: fraction of the weights of each output to remove, in [0, 1);
            rounded down to whole weights.

    Raises:
        ValueError: if the sparsity is outside its range or a kernel is not in `params`.

    References:
        Sun et al., 2023, https://arxiv.org/abs/2306.11695, eq. 1. For convolutions,
        beyond the paper, the norm is that of the input channel.

    >>> params = {"kernel": jnp.array([[3.0], [-1.0]])}
    >>> inputs = {"kernel": KernelInputs(jnp.array([[1.0], [9.0]]), 1, 2)}
    >>> wanda_masks(params, inputs, 0.5)["kernel"].tolist()
    [[False], [True]]
    """
    _check_sparsity(sparsity)
    kernels = {
        _path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    absent = sorted(set(inputs) - set(kernels))
    if absent or not inputs:
        raise ValueError(
            f"kernels {absent} are not among the parameters"
            if absent
            else "inputs is empty: no kernel to prune"
        )
    masks = {}
    for path, (norms, num_output_axes, num_axes) in inputs.items():
        kernel = kernels[path]
        scores = jnp.abs(kernel.astype(jnp.float32)) * jnp.broadcast_to(
            norms, kernel.shape
        )
        num_scans = kernel.ndim - num_axes
        num_outputs = math.prod(kernel.shape[kernel.ndim - num_output_axes :])
        num_layers = math.prod(kernel.shape[:num_scans])
        # [layers, inputs, outputs]: ranked over the inputs.
        keep = jax.vmap(lambda s: _keep_largest(s, sparsity))(
            scores.reshape(num_layers, -1, num_outputs)
        )
        masks[path] = keep.reshape(kernel.shape)
    return masks


_SUM = "jaxprune_input_square_sum"


def linen_kernel_inputs(
    module: nn.Module,
    variables: Any,
    batches: Iterable[Any],
    *,
    mask_fn: MaskFn | None = None,
    **apply_kwargs: Any,
) -> dict[str, KernelInputs]:
    """Returns the input norms of all dense and convolutional layers of a Linen model.

    Owns the loop and jits the step. Layers with grouped inputs are left out, and so
    are layers under an `nn.scan` whose `variable_axes` lack `"intermediates"`.

    Args:
        module: the model.
        variables: of the model.
        batches: inputs of the model, as in `activations.call`; every leaf has the
            examples on its first axis.
        mask_fn: which examples, or tokens, of a batch count. Layers whose inputs have
            no token axis of that length use the examples alone.
        **apply_kwargs: passed to `module.apply`, such as `train=False`.

    Raises:
        ValueError: without batches, or if the model has no such layer.

    >>> model = nn.Dense(2)
    >>> x = jnp.array([[3.0, 0.0], [4.0, 1.0]])
    >>> variables = model.init(jax.random.key(0), x)
    >>> linen_kernel_inputs(model, variables, [x])["kernel"].norms.tolist()
    [[5.0], [1.0]]
    """
    shapes: dict[str, tuple[int, int]] = {}

    @jax.jit
    def step(variables: Any, inputs: Any, mask: Array) -> Any:
        def intercept(
            next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any
        ) -> Any:
            layer = context.module
            layout = _layout(layer)
            if context.method_name == "__call__" and layout is not None and args:
                input_axes, num_output_axes, num_axes = layout
                total = _masked_square_sum(args[0], mask, input_axes)
                shape = (1,) * (num_axes - num_output_axes - len(input_axes))
                shape += total.shape + (1,) * num_output_axes
                layer.sow("intermediates", _SUM, total.reshape(shape))
                path = "/".join((*layer.path, "kernel"))
                shapes[path] = num_output_axes, num_axes
            return next_fun(*args, **kwargs)

        apply = functools.partial(
            module.apply, variables, mutable=["intermediates"], **apply_kwargs
        )
        with nn.intercept_methods(intercept):
            _, state = activations.call(apply, inputs)
        return {
            path: sum(calls[1:], start=calls[0])
            for path, calls in _sown(state.get("intermediates", {})).items()
        }

    sums: dict[str, Array] = {}
    for inputs, mask in pad_batches(batches, mask_fn):
        added = step(variables, inputs, mask)
        sums = jax.tree.map(jnp.add, sums, added) if sums else added
    if not sums:
        raise ValueError("no batches, or no dense or convolutional layer in the model")
    return {
        path: KernelInputs(jnp.sqrt(total), *shapes[path])
        for path, total in sums.items()
    }


def _layout(layer: nn.Module) -> tuple[tuple[int, ...], int, int] | None:
    """Returns (input axes of the argument, output axes and all axes of the kernel)."""
    if isinstance(layer, nn.Dense):
        return (-1,), 1, 2
    if isinstance(layer, nn.Conv):
        size = layer.kernel_size
        spatial = 1 if isinstance(size, int) else len(size)
        return None if layer.feature_group_count != 1 else ((-1,), 1, spatial + 2)
    if isinstance(layer, nn.DenseGeneral) and not layer.batch_dims:
        axes = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
        outputs = 1 if isinstance(layer.features, int) else len(layer.features)
        return axes, outputs, len(axes) + outputs
    return None


def _masked_square_sum(x: Array, mask: Array, input_axes: tuple[int, ...]) -> Array:
    x = x.astype(jnp.float32)
    axes = tuple(axis % x.ndim for axis in input_axes)
    if mask.ndim == 2 and (x.ndim <= 2 or x.shape[:2] != mask.shape or 1 in axes):
        mask = jnp.any(mask, axis=1)
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    squares = jnp.where(mask, x**2, 0.0)
    return jnp.sum(squares, axis=tuple(i for i in range(x.ndim) if i not in axes))


def _sown(tree: Any, prefix: tuple[str, ...] = ()) -> dict[str, tuple[Array, ...]]:
    found: dict[str, tuple[Array, ...]] = {}
    for key, value in tree.items():
        if key == _SUM:
            found["/".join((*prefix, "kernel"))] = value
        elif isinstance(value, Mapping):
            found |= _sown(value, (*prefix, key))
    return found


def apply_masks(params: Any, masks: Masks) -> Any:
    """Returns the parameters with removed weights set to zero.

    >>> masks = {"kernel": jnp.array([True, False])}
    >>> apply_masks({"kernel": jnp.array([2.0, 3.0])}, masks)["kernel"].tolist()
    [2.0, 0.0]
    """

    def masked(keys: Any, leaf: Array) -> Array:
        mask = masks.get(_path(keys))
        return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros_like(leaf))

    return jax.tree_util.tree_map_with_path(masked, params)


def mask_updates(masks: Masks) -> optax.GradientTransformation:
    """Returns a transformation that leaves removed weights as they are.

    It belongs last in a chain, after momentum and weight decay.

    >>> optimizer = optax.chain(optax.sgd(1.0), mask_updates({"k": jnp.array([False])}))
    >>> params = {"k": jnp.zeros(1)}
    >>> updates, _ = optimizer.update({"k": jnp.ones(1)}, optimizer.init(params))
    >>> updates["k"].tolist()
    [0.0]
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return apply_masks(updates, masks), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def sparsity(params: Any, masks: Masks) -> float:
    """Returns the fraction of all parameters that the masks remove.

    >>> sparsity({"k": jnp.ones(3), "b": jnp.ones(1)}, {"k": jnp.arange(3) < 2})
    0.25
    """
    removed = sum(int(jnp.sum(~mask)) for mask in masks.values())
    return removed / sum(leaf.size for leaf in jax.tree.leaves(params))
