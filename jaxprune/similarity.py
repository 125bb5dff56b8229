"""The `[L, L]` similarity of all blocks of a stack, over a stream of batches.

Each batch is split into groups of examples; a group gives one debiased HSIC estimate
for all pairs of blocks. Estimates are averaged with weights and divided only at the
end (a ratio of sums), so groups may be small, of different sizes and on different
devices: the debiased estimate has the same expectation for all of them. Only `[L, L]`
numbers are kept or exchanged, and never more than one batch of activations is held.

References:
    Nguyen et al., 2021, https://arxiv.org/abs/2010.15327 (minibatch CKA)
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from jaxprune import cka
from jaxprune.activations import ActivationsFn
from jaxprune.batches import MaskFn, pad_batches
from jaxprune.samples import SamplesFn, examples_as_samples

# (samples `[n, d]`, mask `[n]` or None) -> Gram matrix `[n, n]`.
GramFn = Callable[[Array, Array | None], Array]


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How similarity is estimated.

    Attributes:
        group_size: examples in a Gram matrix, at least 4. The work grows with it, the
            error hardly falls with it: pairs of examples of different groups are not
            compared, but all examples are used.
        samples: which activations are one sample; see `jaxprune.samples`.
        gram: the kernel, such as `cka.linear_gram` or `cka.rbf_gram`.
        debiased: False for the biased estimate, whose value depends on `group_size`.
    """

    group_size: int = 32
    samples: SamplesFn = examples_as_samples
    gram: GramFn = cka.linear_gram
    debiased: bool = True

    def __post_init__(self) -> None:
        if self.group_size < cka.MIN_EXAMPLES:
            raise ValueError(
                f"group_size={self.group_size} must be at least {cka.MIN_EXAMPLES}"
            )


# Linear kernel, debiased, examples as samples.
DEFAULT_ESTIMATOR = Estimator()


class SimilarityState(NamedTuple):
    """Sums from which similarity follows; leading axes, if any, are replicates.

    Attributes:
        hsic: `[..., L, L]` float32, sum of HSIC estimates, each times its examples.
        weight: `[...]` float32, the number of examples in the sum.
    """

    hsic: Array
    weight: Array


def init(num_layers: int) -> SimilarityState:
    """Returns the state before any batch.

    >>> init(3).hsic.shape
    (3, 3)
    """
    return SimilarityState(
        jnp.zeros((num_layers, num_layers), jnp.float32), jnp.zeros((), jnp.float32)
    )


def group_grams(
    activations: Sequence[Array],
    mask: Array | None = None,
    estimator: Estimator = DEFAULT_ESTIMATOR,
) -> tuple[Array, Array]:
    """Returns the Gram matrices of each group of a batch.

    Args:
        activations: L arrays `[n, ...]`: outputs of the blocks on the same examples.
        mask: `[n]` or `[n, t]` boolean, False for examples, or tokens, that do not
            count.
        estimator: how similarity is estimated.

    Returns:
        Matrices `[groups, L, size, size]` and mask `[groups, size]`, False also for
        what fills up the last group. Groups are of equal size, at most `group_size`.

    Raises:
        ValueError: if there are no activations.
    """
    if not activations:
        raise ValueError("no activations: similarity needs at least one block")
    chex.assert_equal_shape_prefix(list(activations), 1)
    samples, masks = zip(
        *(estimator.samples(layer, mask) for layer in activations), strict=True
    )
    num_samples = samples[0].shape[0]
    num_groups, size = _groups(num_samples, estimator.group_size)

    def grouped(x: Array) -> Array:
        missing = num_groups * size - num_samples
        padded = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(num_groups, size, *x.shape[1:])

    everything = masks[0] is None
    valid = grouped(jnp.ones(num_samples, bool) if everything else masks[0])
    # To mask doubles the time of a Gram matrix, and most batches need none.
    if everything and num_groups * size == num_samples:
        gram = jax.vmap(lambda group: estimator.gram(group, None))
        grams = [gram(grouped(layer)) for layer in samples]
    else:
        grams = [jax.vmap(estimator.gram)(grouped(layer), valid) for layer in samples]
    return jnp.stack(grams, axis=1), valid


def _groups(num_samples: int, limit: int) -> tuple[int, int]:
    """Returns number and size of the groups; without a rest, if that costs little."""
    fewest = math.ceil(num_samples / limit)
    for number in range(fewest, 2 * fewest):
        size = num_samples // number
        if size * number == num_samples and size >= cka.MIN_EXAMPLES:
            return number, size
    return fewest, math.ceil(num_samples / fewest)


def states_of_grams(
    grams: Array, valid: Array, estimator: Estimator = DEFAULT_ESTIMATOR
) -> SimilarityState:
    """Returns one state for each group, from what `group_grams` returns."""
    hsic_matrix = functools.partial(cka.hsic_matrix, debiased=estimator.debiased)
    hsic = jax.vmap(hsic_matrix)(grams, valid)
    count = jnp.sum(valid, axis=1, dtype=jnp.float32)
    weight = jnp.where(count >= cka.MIN_EXAMPLES, count, 0.0)
    factor = weight[:, None, None]
    return SimilarityState(jnp.where(factor > 0, hsic * factor, 0.0), weight)


def group_states(
    activations: Sequence[Array],
    mask: Array | None = None,
    estimator: Estimator = DEFAULT_ESTIMATOR,
) -> SimilarityState:
    """Returns one state for each group of examples of a batch.

    Arguments as of `group_grams`. A group with fewer than four examples that count has
    weight zero.

    Returns:
        A state with one leading axis, the groups.

    Raises:
        ValueError: if there are no activations, or n < 4 and the estimate debiased.

    >>> x = jax.random.normal(jax.random.key(0), (100, 3))
    >>> group_states([x, 2 * x]).weight.tolist()
    [25.0, 25.0, 25.0, 25.0]
    """
    return states_of_grams(*group_grams(activations, mask, estimator), estimator)


def total(states: SimilarityState) -> SimilarityState:
    """Returns the sum over the leading axis of a state."""
    return SimilarityState(jnp.sum(states.hsic, axis=0), jnp.sum(states.weight, axis=0))


def update(
    state: SimilarityState,
    activations: Sequence[Array],
    mask: Array | None = None,
    estimator: Estimator = DEFAULT_ESTIMATOR,
) -> SimilarityState:
    """Returns the state after one more batch; arguments as of `group_states`.

    >>> x = jax.random.normal(jax.random.key(0), (32, 3))
    >>> state = update(init(2), [x, 2 * x])
    >>> bool(jnp.allclose(finish(state), 1.0))
    True
    """
    return merge(state, total(group_states(activations, mask, estimator)))


def merge(a: SimilarityState, b: SimilarityState) -> SimilarityState:
    """Returns the state of the examples of both, such as of two processes."""
    return SimilarityState(a.hsic + b.hsic, a.weight + b.weight)


def finish(state: SimilarityState) -> Array:
    """Returns CKA of all pairs of blocks.

    Returns:
        `[..., L, L]` float32. A block that was constant on all examples, or gave a
        NaN on any, is NaN against all blocks, itself included.
    """
    return cka.normalize(state.hsic)


def merge_processes(state: SimilarityState) -> SimilarityState:
    """Returns the state of the examples of all `jax.distributed` processes.

    Each process calls it once, after its own batches; `[L, L]` numbers are exchanged.
    """
    if jax.process_count() == 1:
        return state
    from jax.experimental import multihost_utils

    return total(multihost_utils.process_allgather(state))


def batch_groups_fn(
    activations_fn: ActivationsFn,
    estimator: Estimator = DEFAULT_ESTIMATOR,
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, Array | None], SimilarityState]:
    """Returns `(variables, inputs, mask) -> group_states` of one batch, not jitted.

    The mask is None where all examples count, which is faster. The forward pass is part
    of it, so that under jit activations stay on the device. With a mesh, each device
    takes an equal share of the batch and forms its own groups.
    """

    def groups(variables: Any, inputs: Any, mask: Array | None) -> SimilarityState:
        _, activations = activations_fn(variables, inputs)
        return group_states(activations, mask, estimator)

    if mesh is None:
        return groups
    return _spread(groups, mesh, PartitionSpec(mesh.axis_names))


def batch_total_fn(
    activations_fn: ActivationsFn,
    estimator: Estimator = DEFAULT_ESTIMATOR,
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, Array | None], SimilarityState]:
    """Returns `(variables, inputs, mask) -> state` of one batch, not jitted.

    The `total` of `batch_groups_fn`; devices exchange that `[L, L]` sum and no more.
    """
    groups = batch_groups_fn(activations_fn, estimator)
    if mesh is None:
        return lambda *args: total(groups(*args))
    reduced = lambda *args: jax.lax.psum(total(groups(*args)), mesh.axis_names)  # noqa: E731
    return _spread(reduced, mesh, PartitionSpec())


def _spread(
    function: Callable[..., SimilarityState], mesh: Mesh, out_specs: PartitionSpec
) -> Callable[..., SimilarityState]:
    over_devices = PartitionSpec(mesh.axis_names)
    in_specs = (PartitionSpec(), over_devices, over_devices)
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


# The step of the loop below is one program; the configuration is static, so that
# further calls with the same model and sizes do not compile again.
@functools.partial(
    jax.jit, static_argnames=("make", "activations_fn", "estimator", "mesh")
)
def _step(
    variables: Any,
    inputs: Any,
    mask: Array | None,
    make: Callable[..., Callable[..., SimilarityState]],
    activations_fn: ActivationsFn,
    estimator: Estimator,
    mesh: Mesh | None,
) -> SimilarityState:
    return make(activations_fn, estimator, mesh)(variables, inputs, mask)


def _stream(
    make: Callable[..., Callable[..., SimilarityState]],
    activations_fn: ActivationsFn,
    variables: Any,
    batches: Iterable[Any],
    estimator: Estimator,
    mask_fn: MaskFn | None,
    mesh: Mesh | None,
) -> Iterator[SimilarityState]:
    """Yields what a function of `batch_total_fn` or `batch_groups_fn` gives."""
    empty = True
    multiple = 1 if mesh is None else mesh.size
    for inputs, mask in pad_batches(batches, mask_fn, multiple=multiple):
        empty = False
        some = None if mask.all() else mask
        yield _step(variables, inputs, some, make, activations_fn, estimator, mesh)
    if empty:
        raise ValueError("no batches to compute similarity from")


def _check_any(weight: float) -> None:
    if not weight > 0:
        raise ValueError(
            f"no group of at least {cka.MIN_EXAMPLES} examples that count: give more "
            "or larger batches"
        )


def accumulate(
    activations_fn: ActivationsFn,
    variables: Any,
    batches: Iterable[Any],
    *,
    estimator: Estimator = DEFAULT_ESTIMATOR,
    mask_fn: MaskFn | None = None,
    mesh: Mesh | None = None,
) -> SimilarityState:
    """Returns the state of all batches of this process.

    Arguments as of `similarity_matrix`. States of several processes, or of several
    runs on parts of the data, are combined by `merge`.
    """
    states = _stream(
        batch_total_fn, activations_fn, variables, batches, estimator, mask_fn, mesh
    )
    return functools.reduce(merge, states)


def accumulate_groups(
    activations_fn: ActivationsFn,
    variables: Any,
    batches: Iterable[Any],
    *,
    estimator: Estimator = DEFAULT_ESTIMATOR,
    mask_fn: MaskFn | None = None,
    mesh: Mesh | None = None,
) -> SimilarityState:
    """Returns the state of each group of examples, for a bootstrap over groups.

    Arguments as of `similarity_matrix`.

    Returns:
        A state with one leading axis, the groups of all batches: `total` of it is what
        `accumulate` returns.
    """
    states = _stream(
        batch_groups_fn, activations_fn, variables, batches, estimator, mask_fn, mesh
    )
    groups = jax.tree.map(lambda *parts: jnp.concatenate(parts), *states)
    _check_any(float(jnp.sum(groups.weight)))
    return groups


def similarity_matrix(
    activations_fn: ActivationsFn,
    variables: Any,
    batches: Iterable[Any],
    *,
    estimator: Estimator = DEFAULT_ESTIMATOR,
    mask_fn: MaskFn | None = None,
    mesh: Mesh | None = None,
) -> Array:
    """Returns CKA of all pairs of blocks over a stream of batches.

    Owns the loop: forward pass and update are jitted as one step. A batch smaller
    than those before it is filled up and masked.

    Args:
        activations_fn: `(variables, inputs) -> (output, [block outputs [n, ...]])`.
        variables: of the model.
        batches: inputs of the model; every leaf has the examples on its first axis.
        estimator: how similarity is estimated.
        mask_fn: `inputs -> [n] or [n, t]` boolean, False for examples or tokens that
            do not count (padding).
        mesh: devices of this process over all of which each batch is divided. The
            result is that of one device if each gets whole groups; otherwise groups
            are smaller and it differs as two samples do. Every `jax.distributed`
            process passes its own batches; the result is that of all of them.

    Returns:
        `[L, L]` float32; NaN rows and columns for blocks without defined similarity.

    Raises:
        ValueError: without batches, or without four examples that count in any group.

    >>> def activations_fn(variables, x):
    ...     hidden = x @ variables
    ...     return hidden, [x, hidden]
    >>> x = jax.random.normal(jax.random.key(0), (32, 3))
    >>> matrix = similarity_matrix(activations_fn, 2 * jnp.eye(3), [x[:20], x[20:]])
    >>> bool(jnp.allclose(matrix, 1.0))
    True
    """
    state = merge_processes(
        accumulate(
            activations_fn,
            variables,
            batches,
            estimator=estimator,
            mask_fn=mask_fn,
            mesh=mesh,
        )
    )
    _check_any(float(state.weight))
    return finish(state)
