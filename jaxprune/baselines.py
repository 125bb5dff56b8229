"""Other rules for which blocks to remove, to see when similarity clusters lose.

Every rule answers with removed block indices in increasing order, as
`clusters.removable` does. Rules that need scores take them from `CosineState`, one
streamed pass over the activations, or from a loss of the user's own.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from jaxprune.activations import ActivationsFn
from jaxprune.batches import MaskFn, pad_batches

Removed = tuple[int, ...]

# Removed blocks -> loss on calibration data of the model without them.
LossFn = Callable[[Removed], float]


def _candidates(
    num_blocks: int, num_removed: int, protected: Iterable[int]
) -> list[int]:
    """Returns the blocks that may go, after checking that there are enough."""
    must_stay = set(protected)
    candidates = [block for block in range(num_blocks) if block not in must_stay]
    if not 0 <= num_removed <= len(candidates):
        raise ValueError(
            f"{num_removed=} is not in 0..{len(candidates)}: {num_blocks} blocks, of "
            f"which {num_blocks - len(candidates)} must stay"
        )
    return candidates


def last_blocks(
    num_blocks: int, num_removed: int, protected: Iterable[int] = ()
) -> Removed:
    """Removes the last blocks that may go.

    Raises:
        ValueError: if fewer blocks may go than are to be removed.

    References:
        Lu et al., 2024, who find it hard to beat with partial fine-tuning.

    >>> last_blocks(6, 2, protected=[5])
    (3, 4)
    """
    candidates = _candidates(num_blocks, num_removed, protected)
    return tuple(candidates[len(candidates) - num_removed :])


def random_blocks(
    key: Array, num_blocks: int, num_removed: int, protected: Iterable[int] = ()
) -> Removed:
    """Removes blocks drawn uniformly without replacement, reproducibly from the key.

    Raises:
        ValueError: if fewer blocks may go than are to be removed.

    >>> len(random_blocks(jax.random.key(0), 6, 2))
    2
    """
    candidates = _candidates(num_blocks, num_removed, protected)
    order = np.asarray(jax.random.permutation(key, len(candidates)))
    return tuple(sorted(candidates[i] for i in order[:num_removed]))


def lowest_scores(
    scores: ArrayLike, num_removed: int, protected: Iterable[int] = ()
) -> Removed:
    """Removes the blocks of lowest score, such as their `block_influence`.

    A block whose score is NaN stays.

    Raises:
        ValueError: if fewer blocks may go than are to be removed.

    >>> lowest_scores([0.5, 0.1, 0.3, 0.2], 2)
    (1, 3)
    """
    values = np.asarray(scores, np.float64)
    undefined = np.flatnonzero(np.isnan(values)).tolist()
    candidates = _candidates(len(values), num_removed, {*protected, *undefined})
    ranked = sorted(candidates, key=lambda block: (values[block], block))
    return tuple(sorted(ranked[:num_removed]))


class CosineState(NamedTuple):
    """Sums over tokens, or examples, of how far the output of a block turns.

    Attributes:
        cosine: `[L, L]` float32, sum of the cosines between outputs of two blocks.
        angle: `[L, L]` float32, sum of the angles between them, in half turns.
        weight: `[]` float32, the number of vectors in the sums.
    """

    cosine: Array
    angle: Array
    weight: Array


def cosine_init(num_layers: int) -> CosineState:
    """Returns the state before any batch."""
    zeros = jnp.zeros((num_layers, num_layers), jnp.float32)
    return CosineState(zeros, zeros, jnp.zeros((), jnp.float32))


def cosine_update(
    state: CosineState, activations: Sequence[Array], mask: Array | None = None
) -> CosineState:
    """Returns the state after one more batch.

    Args:
        state: the state so far.
        activations: L outputs: `[n, t, d]` of token models, whose vectors are tokens,
            or `[n, ...]`, whose vectors are whole examples.
        mask: `[n]`, or `[n, t]` for token models; False for what does not count.

    Returns:
        The new state; NaN between blocks whose outputs differ in shape.

    >>> x = jnp.ones((2, 3))
    >>> state = cosine_update(cosine_init(2), [x, -x])
    >>> print(state.cosine.round(3))
    [[ 2. -2.]
     [-2.  2.]]
    """
    lead = activations[0].shape[: 2 if activations[0].ndim == 3 else 1]
    valid = jnp.ones(lead, bool)
    if mask is not None:
        valid &= mask.reshape(mask.shape + (1,) * (len(lead) - mask.ndim))
    flags = valid.reshape(-1)

    def unit(x: Array) -> Array:
        vectors = x.reshape(math.prod(lead), -1).astype(jnp.float32)
        norms = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / jnp.where(norms > 0, norms, 1.0)

    units = [unit(x) for x in activations]
    shapes = [x.shape for x in activations]
    cosines = jnp.full((len(units), len(units), len(flags)), jnp.nan, jnp.float32)
    for shape in dict.fromkeys(shapes):
        members = np.flatnonzero([s == shape for s in shapes])
        stacked = jnp.stack([units[i] for i in members])
        products = jnp.einsum(
            "ind,jnd->ijn", stacked, stacked, precision=jax.lax.Precision.HIGHEST
        )
        cosines = cosines.at[np.ix_(members, members)].set(products)
    cosines = jnp.clip(cosines, -1.0, 1.0)
    counted = jnp.broadcast_to(flags, cosines.shape)
    return CosineState(
        state.cosine + jnp.sum(cosines, axis=2, where=counted),
        state.angle + jnp.sum(jnp.arccos(cosines) / jnp.pi, axis=2, where=counted),
        state.weight + jnp.sum(flags, dtype=jnp.float32),
    )


def cosine_state(
    activations_fn: ActivationsFn,
    variables: Any,
    batches: Iterable[Any],
    *,
    mask_fn: MaskFn | None = None,
) -> CosineState:
    """Returns the state of a stream of batches; owns the loop and jits the step.

    Args:
        activations_fn: `(variables, inputs) -> (output, [block outputs])`.
        variables: of the model.
        batches: inputs of the model; every leaf has the examples on its first axis.
        mask_fn: which examples or tokens of a batch count. To judge by the last
            token alone, as Gromov et al. do, mask all others.

    Raises:
        ValueError: without batches, or if nothing in them counts.

    >>> fn = lambda variables, x: (x, [x, 2 * x])
    >>> state = cosine_state(fn, None, [jnp.ones((4, 3))])
    >>> float(state.weight)
    4.0
    """

    @jax.jit
    def step(variables: Any, inputs: Any, mask: Array) -> CosineState:
        _, activations = activations_fn(variables, inputs)
        return cosine_update(cosine_init(len(activations)), activations, mask)

    state = None
    for inputs, mask in pad_batches(batches, mask_fn):
        added = step(variables, inputs, mask)
        state = added if state is None else jax.tree.map(jnp.add, state, added)
    if state is None or not float(state.weight) > 0:
        raise ValueError("no batches, or nothing in them that counts")
    return state


def block_influence(state: CosineState) -> Array:
    """Returns one minus the mean cosine between input and output of each block.

    Returns:
        `[L]` float32; NaN for block 0, whose input is not among the activations, and
        for blocks that change the shape.

    References:
        ShortGPT, https://arxiv.org/abs/2403.03853, eq. 1.

    >>> state = cosine_update(cosine_init(2), [jnp.ones((2, 3)), -jnp.ones((2, 3))])
    >>> block_influence(state).tolist()
    [nan, 2.0]
    """
    adjacent = jnp.diagonal(state.cosine, offset=1) / state.weight
    return jnp.concatenate([jnp.full((1,), jnp.nan, jnp.float32), 1 - adjacent])


def closest_span(
    state: CosineState, num_removed: int, protected: Iterable[int] = ()
) -> Removed:
    """Removes the consecutive blocks between the outputs at the least angle.

    Args:
        state: of the calibration data.
        num_removed: the length of the span.
        protected: blocks that must stay. Block 0 does in any case, as its input is not
            among the activations.

    Raises:
        ValueError: if no span of that length may go.

    References:
        Gromov et al., 2024, https://arxiv.org/abs/2403.17887, eq. 6 and 7.

    >>> x = jax.random.normal(jax.random.key(0), (3, 8, 4))
    >>> state = cosine_update(cosine_init(4), [x[0], x[0], x[1], x[2]])
    >>> closest_span(state, 1)
    (1,)
    """
    angles = np.asarray(state.angle / state.weight)
    num_blocks, must_stay = len(angles), {0, *protected}
    _candidates(num_blocks, num_removed, must_stay)
    if num_removed == 0:
        return ()
    spans = []
    for first in range(1, num_blocks - num_removed + 1):
        span = tuple(range(first, first + num_removed))
        angle = angles[first - 1, span[-1]]
        if not must_stay.intersection(span) and not np.isnan(angle):
            spans.append((float(angle), span))
    if not spans:
        raise ValueError(
            f"no {num_removed} consecutive blocks may go: they are protected, or "
            "change the shape"
        )
    return min(spans)[1]


def greedy_by_loss(
    loss: LossFn, num_blocks: int, num_removed: int, protected: Iterable[int] = ()
) -> tuple[Removed, ...]:
    """Removes, one at a time, the block whose removal leaves the least loss.

    Takes one evaluation for each candidate at each step, `O(L num_removed)`. A NaN
    loss counts as infinite.

    Args:
        loss: removed blocks -> loss on calibration data.
        num_blocks: L.
        num_removed: how many to remove.
        protected: blocks that must stay.

    Returns:
        The plans with 1, 2, ... `num_removed` removed blocks, each within the next.

    Raises:
        ValueError: if fewer blocks may go than are to be removed.

    References:
        SLEB, https://arxiv.org/abs/2402.09025

    >>> greedy_by_loss(lambda removed: sum(removed), 4, 2, protected=[0])
    ((1,), (1, 2))
    """
    candidates = _candidates(num_blocks, num_removed, protected)
    plans: list[Removed] = []
    removed: Removed = ()
    for _ in range(num_removed):
        options = [
            tuple(sorted((*removed, block)))
            for block in candidates
            if block not in removed
        ]
        removed = rescore(options, loss)[0][1]
        plans.append(removed)
    return tuple(plans)


def rescore(plans: Iterable[Removed], loss: LossFn) -> list[tuple[float, Removed]]:
    """Returns plans with their true loss, the least first; NaN counts as infinite.

    Meant for the few best plans of a cheap score, such as `clusters.best_clusters`:
    scores of single blocks do not add up, so the best sum need not be the best plan.

    References:
        EvoPress, https://arxiv.org/abs/2410.14649

    >>> rescore([(1, 2), (3,)], lambda removed: float(len(removed)))
    [(1.0, (3,)), (2.0, (1, 2))]
    """
    scored = []
    for plan in plans:
        value = float(loss(plan))
        scored.append((math.inf if math.isnan(value) else value, plan))
    return sorted(scored)
