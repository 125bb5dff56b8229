"""How far a similarity matrix can be trusted: bootstrap interval and permutation null.

Both work on the states of groups of examples that `similarity.accumulate_groups`
returns, or on Gram matrices of a batch, and hold `[L, L]` numbers only.
"""

import functools
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from jaxprune import similarity as similarity_lib
from jaxprune.activations import ActivationsFn
from jaxprune.batches import MaskFn, pad_batches
from jaxprune.similarity import DEFAULT_ESTIMATOR, Estimator, SimilarityState


class Interval(NamedTuple):
    """An interval for each pair of blocks.

    Attributes:
        low: `[L, L]` lower ends; clusters cut on it are similar with confidence.
        high: `[L, L]` upper ends.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def bootstrap_interval(
    groups: SimilarityState,
    key: Array,
    *,
    confidence: float = 0.95,
    num_replicates: int = 1000,
) -> Interval:
    """Returns the percentile bootstrap interval of similarity over groups.

    Groups of examples are drawn with replacement; similarity is computed from the sums
    of each draw.

    Args:
        groups: state with one leading axis, of `similarity.accumulate_groups`.
        key: PRNG key.
        confidence: of each pair on its own, in (0, 1).
        num_replicates: draws.

    Returns:
        `[L, L]` ends; NaN where similarity is undefined.

    Raises:
        ValueError: if there are fewer than ten groups that count, too few to resample.

    References:
        Efron and Tibshirani, 1993, chapter 13.

    >>> x = jax.random.normal(jax.random.key(0), (64, 3))
    >>> groups = similarity_lib.group_states([x, x**3], None, Estimator(group_size=4))
    >>> low, high = bootstrap_interval(groups, jax.random.key(1), num_replicates=50)
    >>> bool(low[0, 1] < high[0, 1])
    True
    """
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=} is not in (0, 1), such as 0.95")
    counted = np.flatnonzero(np.asarray(groups.weight) > 0)
    if len(counted) < 10:
        raise ValueError(
            f"{len(counted)} groups of examples are too few to resample: give at least "
            "10, by more batches or a smaller group_size"
        )

    size = (num_replicates, len(counted))
    drawn = np.asarray(jax.random.randint(key, size, 0, len(counted)))
    times = np.stack([np.bincount(draw, minlength=len(counted)) for draw in drawn])
    hsic = np.asarray(groups.hsic, np.float64)[counted]
    # NaN times zero is NaN: a block undefined in one group stays so in all draws.
    sums = np.tensordot(times.astype(np.float64), hsic, axes=1)
    scale = np.sqrt(np.diagonal(sums, axis1=1, axis2=2))
    scale = np.where(scale > 0, scale, np.nan)
    replicates = sums / scale[:, :, None] / scale[:, None, :]
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return Interval(low, high)


def null_states(
    activations: list[Array],
    key: Array,
    mask: Array | None = None,
    estimator: Estimator = DEFAULT_ESTIMATOR,
    *,
    num_permutations: int,
) -> SimilarityState:
    """Returns states of one batch as if blocks had nothing in common.

    For each permutation the examples of every block but one are shuffled within their
    group, each block in its own way, which leaves each block's similarity to itself and
    all that makes an estimate noisy: few examples, many features, outliers.

    Args:
        activations: L outputs `[n, ...]` on the same examples.
        key: PRNG key, another for each batch.
        mask: `[n]` or `[n, t]`; False for what does not count.
        estimator: how similarity is estimated.
        num_permutations: how many.

    Returns:
        A state with one leading axis, the permutations; those of batches are added up
        by `similarity.merge`.
    """
    grams, valid = similarity_lib.group_grams(activations, mask, estimator)
    num_groups, num_layers, size, _ = grams.shape

    def permuted(key: Array) -> SimilarityState:
        noise = jax.random.uniform(key, (num_groups, num_layers, size))
        # Examples that count are shuffled among themselves.
        slots = jnp.argsort(~valid, axis=1, stable=True)[:, None]
        drawn = jnp.argsort(jnp.where(valid[:, None], noise, 2.0), axis=2)
        order = jnp.put_along_axis(
            jnp.zeros_like(drawn),
            jnp.broadcast_to(slots, drawn.shape),
            drawn,
            axis=2,
            inplace=False,
        )
        shuffle = lambda gram, i: gram[i][:, i]  # noqa: E731
        shuffled = jax.vmap(jax.vmap(shuffle))(grams, order)
        return similarity_lib.total(
            similarity_lib.states_of_grams(shuffled, valid, estimator)
        )

    return jax.lax.map(permuted, jax.random.split(key, num_permutations))


def noise_floor(
    activations_fn: ActivationsFn,
    variables: Any,
    batches: Iterable[Any],
    key: Array,
    *,
    estimator: Estimator = DEFAULT_ESTIMATOR,
    mask_fn: MaskFn | None = None,
    num_permutations: int = 100,
    quantile: float = 0.95,
) -> float:
    """Returns the similarity that unrelated blocks reach by chance on these batches.

    Owns the loop and jits the step.

    Args:
        activations_fn: `(variables, inputs) -> (output, [block outputs])`.
        variables: of the model.
        batches: the batches that the similarity matrix is computed from.
        key: PRNG key.
        estimator: as for the matrix.
        mask_fn: as for the matrix.
        num_permutations: draws of the null distribution.
        quantile: of the largest similarity of two different blocks over the draws.

    Returns:
        The quantile; NaN with fewer than two blocks of defined similarity.

    Raises:
        ValueError: without batches.
    """

    @functools.partial(jax.jit, static_argnames="num_permutations")
    def step(
        variables: Any, inputs: Any, mask: Array, key: Array, num_permutations: int
    ) -> SimilarityState:
        _, activations = activations_fn(variables, inputs)
        return null_states(
            activations, key, mask, estimator, num_permutations=num_permutations
        )

    state = None
    for index, (inputs, mask) in enumerate(pad_batches(batches, mask_fn)):
        batch_key = jax.random.fold_in(key, index)
        added = step(variables, inputs, mask, batch_key, num_permutations)
        state = added if state is None else similarity_lib.merge(state, added)
    if state is None:
        raise ValueError("no batches to compute the noise floor from")
    matrices = np.asarray(similarity_lib.finish(state))
    pairs = matrices[:, *np.triu_indices(matrices.shape[1], 1)]
    pairs = pairs[:, ~np.isnan(pairs).all(axis=0)]
    if not pairs.size:
        return float("nan")
    return float(np.quantile(np.nanmax(pairs, axis=1), quantile))


def warn_if_noise(threshold: float, floor: float) -> bool:
    """Warns, and returns True, if the threshold lies within the noise floor.

    >>> warn_if_noise(0.98, floor=0.1)
    False
    """
    if not floor >= threshold:
        return False
    warnings.warn(
        f"unrelated blocks reach a similarity of {floor:.3f} by chance on this data, "
        f"not less than the threshold {threshold}: use the debiased estimate, more "
        "examples, or a higher threshold",
        stacklevel=2,
    )
    return True
