"""Repair without gradients after blocks were removed.

Two things go wrong at a cut, and both have a closed form:

* BatchNorm keeps running statistics of activations that no longer occur.
  `reestimate_batch_norm` replaces them by those of calibration examples.
* The block after the cut sees the output of the block before it. `fit_linear_maps`
  finds, by ridge regression, the affine map of channels that comes closest to what the
  removed blocks made of it, and puts it in their place.

Labels are not needed for either.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import least_squares
from jaxprune import plan as plan_lib
from jaxprune.batches import MaskFn
from jaxprune.least_squares import LinearMap
from jaxprune.prunable import Prunable, Variables
from jaxprune.samples import at_positions

Array = jax.Array


def reestimate_batch_norm(
    model: Prunable, variables: Variables, batches: Iterable[Any]
) -> dict[str, Any]:
    """Returns variables with the BatchNorm statistics of the calibration examples.

    Owns the loop over batches, jitted once. All layers are estimated in one pass: while
    a batch passes, a deeper layer sees the shallower ones normalised by this batch's
    own statistics, as in training. Means are averaged over examples and variances are
    pooled by the law of total variance, so that nothing is left of the old values and
    the order of the batches does not matter.

    Args:
        model: with `batch_statistics`; without it (a model that has no BatchNorm) the
            variables come back as they are.
        variables: of the model.
        batches: inputs; a few hundred examples per batch or more.

    Raises:
        ValueError: without batches, or if the statistics are not pairs of `mean` and
            `var` as `flax.linen.BatchNorm` keeps them.

    >>> from jaxprune.models import resnet
    >>> config = resnet.ResNetConfig((2,), (4,), image_shape=(4, 4, 1))
    >>> model = resnet.prunable_resnet(config)
    >>> variables = jax.jit(model.init)(jax.random.key(0))
    >>> images = jax.random.normal(jax.random.key(1), (32, 4, 4, 1))
    >>> healed = reestimate_batch_norm(model, variables, [images])
    >>> sorted(healed["batch_stats"]["block_1"]["bn1"])
    ['mean', 'var']
    """
    if model.batch_statistics is None or not variables.get("batch_stats"):
        return dict(variables)
    of_batch = jax.jit(model.batch_statistics)
    state: Any = None
    total = 0
    for inputs in batches:
        count = len(jax.tree.leaves(inputs)[0])
        stats = of_batch(variables, inputs)
        total += count
        if state is None:
            state = stats
        else:
            state = merge_statistics(state, stats, count / total)
    if state is None:
        raise ValueError("BatchNorm cannot be re-estimated without any batch")
    return {**variables, "batch_stats": state}


def merge_statistics(old: Any, new: Any, weight: float) -> Any:
    """Returns mean and variance of two sets, `weight` the share of the new one."""
    if not isinstance(old, Mapping) or not old:
        raise ValueError("batch statistics must be pairs of 'mean' and 'var'")
    if set(old) == {"mean", "var"}:
        shift = new["mean"] - old["mean"]
        within = old["var"] + weight * (new["var"] - old["var"])
        return {
            "mean": old["mean"] + weight * shift,
            "var": within + weight * (1 - weight) * shift * shift,
        }
    return {key: merge_statistics(old[key], new[key], weight) for key in old}


class FittedMap(NamedTuple):
    """What `fit_linear_maps` put in the place of one removed span."""

    after_block: int  # in the numbering of the pruned model
    unexplained: float  # share of the target's variance that is left


def fit_linear_maps(
    base: Prunable,
    base_variables: Variables,
    pruned: Prunable,
    pruned_variables: Variables,
    plan: plan_lib.Plan,
    batches: Sequence[Any],
    *,
    ridge: float = 1e-4,
    positions: int = 16,
    reestimate: bool = True,
    mask_fn: MaskFn | None = None,
) -> tuple[Prunable, dict[str, Any], tuple[FittedMap, ...]]:
    """Puts an affine map in the place of each removed span, first to last.

    The map after a cut takes what the pruned network has there, with the maps before it
    already in place, to what the unpruned network has at the end of the span. So each
    map also makes up for what those before it left over. A span at the very start has
    no block before it to hold a map and is left as it is.

    Owns the loop over batches, jitted once: one pass through the base model, which
    leaves samples of its activations on the host, and one through the pruned model for
    each map. The pruned model is normalised by each batch's own statistics meanwhile,
    so that maps are fitted to what they will see after `reestimate_batch_norm`, which
    this function calls last.

    Args:
        base: the model before the plan.
        base_variables: its variables.
        pruned: the model after the plan, as `prunable.prune` gives it; needs `attach`.
        pruned_variables: its variables.
        plan: what was removed, in the numbering of `base`.
        batches: inputs, of a few hundred examples each.
        ridge: see `least_squares.solve_ridge`.
        positions: pixels or tokens of each example that are sampled; neighbours tell
            nearly the same.
        reestimate: re-estimate BatchNorm at the end; without it, the maps are fitted to
            the network as its old statistics normalise it.
        mask_fn: `inputs -> [n, t]` boolean, False for tokens that are not to be fitted
            (padding); all are if None.

    Returns:
        The model that holds the maps, its variables, and how well each map fits.

    Raises:
        ValueError: without batches, if the model cannot hold maps, or if activations
            are not finite.

    >>> from jaxprune.models import resnet
    >>> from jaxprune.prunable import prune
    >>> config = resnet.ResNetConfig((3,), (4,), image_shape=(4, 4, 1))
    >>> model = resnet.prunable_resnet(config)
    >>> variables = jax.jit(model.init)(jax.random.key(0))
    >>> images = jax.random.normal(jax.random.key(1), (32, 4, 4, 1))
    >>> plan = plan_lib.make_plan(model.stack("blocks"), [1])
    >>> smaller, pruned = prune(model, variables, plan)
    >>> healed, _, fitted = fit_linear_maps(
    ...     model, variables, smaller, pruned, plan, [images]
    ... )
    >>> healed.structure.adapters, fitted[0].after_block
    ({'blocks': (0,)}, 0)
    """
    if pruned.attach is None:
        raise ValueError(
            "this model cannot hold linear maps: it has no attach function"
        )
    if not len(batches):
        raise ValueError("linear maps cannot be fitted without any batch")
    stack = plan.stack
    spans = [span for span in plan.spans() if span[0] > 0]
    targets = [last for _, last in spans]
    places = [plan.kept.index(first - 1) for first, _ in spans]
    structure = pruned.structure.with_adapters(stack, places)
    model, attach = pruned.build(structure), pruned.attach

    # All maps are there from the start, as identities: one program serves them all.
    shapes = jax.eval_shape(pruned.activations[stack], pruned_variables, batches[0])[1]
    widths = {place: shapes[place].shape[-1] for place in places}
    identities = {p: LinearMap(jnp.eye(w), jnp.zeros(w)) for p, w in widths.items()}
    variables = attach(pruned_variables, stack, identities)

    @jax.jit
    def of_base(variables: Variables, inputs: Any) -> list[Array]:
        outputs = base.activations[stack](variables, inputs)[1]
        return [at_positions(outputs[block], positions) for block in targets]

    @jax.jit
    def of_pruned(variables: Variables, inputs: Any) -> list[Array]:
        if reestimate:
            outputs = model.train(variables, inputs).activations[stack]
        else:
            outputs = model.activations[stack](variables, inputs)[1]
        return [at_positions(outputs[block], positions) for block in places]

    wanted = [jax.device_get(of_base(base_variables, inputs)) for inputs in batches]
    counted = [_counted(mask_fn, inputs, positions) for inputs in batches]
    fitted = []
    for index, place in enumerate(places):
        moments: least_squares.Moments | None = None
        for inputs, y, rows in zip(batches, wanted, counted, strict=True):
            x = jax.device_get(of_pruned(variables, inputs)[index])
            added = least_squares.batch_moments(x, y[index], rows)
            moments = least_squares.merge_moments(moments, added)
        assert moments is not None
        linear_map, unexplained = least_squares.solve_ridge(moments, ridge)
        variables = attach(variables, stack, {place: linear_map})
        fitted.append(FittedMap(place, unexplained))
    if reestimate:
        variables = reestimate_batch_norm(model, variables, batches)
    return model, variables, tuple(fitted)


def _counted(mask_fn: MaskFn | None, inputs: Any, positions: int) -> Array | None:
    """Returns which of the sampled positions count, None if all do."""
    if mask_fn is None:
        return None
    return at_positions(jnp.asarray(mask_fn(inputs))[..., None], positions)[:, 0]
