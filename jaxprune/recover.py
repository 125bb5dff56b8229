"""Training of a pruned network: fine-tuning and distillation.

`fine_tune` owns the loop. What it learns from is configured by functions (loss,
augmentation, optimizer) and a `Recipe` of numbers. It is a function of its arguments:
the order of the examples and the augmentations come from the key and the number of the
epoch, so that a run that was interrupted after an epoch goes on to the same result.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.batches import num_examples, take
from jaxprune.buckets import Buckets
from jaxprune.freezing import freeze
from jaxprune.prunable import Prunable, Variables

Array = jax.Array
LossFn = Callable[[Any, Any], Array]
AugmentFn = Callable[[Array, Any], Any]
# Labels -> weights of their positions, such as 0 where a sequence is filled up.
WeightsFn = Callable[[Any], Array]
OptimizerFn = Callable[[optax.Schedule], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Numbers of a training run.

    Attributes:
        epochs: passes over the data; the last partial batch of each is left out.
        batch_size: examples of one step.
        learning_rate: at its peak, after the warm-up; it falls to zero as a cosine.
        warm_up: share of all steps over which the rate rises from zero.
        distillation: weight of the teacher's logits against that of the labels, 0..1.
        feature_distillation: weight of the mean squared error to the teacher's outputs
            of the blocks that were kept, relative to their variance.
        temperature: of teacher's and student's logits in distillation.
        patience: epochs without a better score after which training stops; None trains
            them all.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warm_up: float = 0.1
    distillation: float = 0.0
    feature_distillation: float = 0.0
    temperature: float = 2.0
    patience: int | None = None

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.epochs < 0:
            raise ValueError(f"epochs={self.epochs} must not be negative")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up={self.warm_up} must be a share below 1")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation={self.distillation} must be within 0..1")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The unpruned model, from which a student learns.

    Attributes:
        model: the unpruned model.
        variables: its variables.
        kept: for each stack, the teacher's block behind each block of the student.
        logits: `[N, ...]` of all inputs, if they are known, see `jaxprune.teaching`.
    """

    model: Prunable
    variables: Variables
    kept: dict[str, tuple[int, ...]]
    logits: np.ndarray | None = None


class TrainState(NamedTuple):
    """All that training carries from one epoch to the next."""

    variables: Any
    opt_state: Any
    best_variables: Any
    epoch: Any  # epochs done
    best_score: Any  # -inf before the first evaluation
    epochs_since_best: Any


class Epoch(NamedTuple):
    """What a callback is told after each epoch."""

    number: int
    num_epochs: int
    loss: float
    score: float | None


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Returns the mean cross-entropy of integer labels; natural logarithm.

    >>> round(float(cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 2]))), 4)
    1.3863
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def distillation_loss(
    student: Array, teacher: Array, temperature: float, weights: Array | None = None
) -> Array:
    """Returns the mean divergence of the student's softened classes, times T^2.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531, section 2.1.

    Args:
        student: `[..., classes]` logits.
        teacher: logits of the same shape.
        temperature: T.
        weights: `[...]` of the mean; equal by default.

    >>> float(distillation_loss(jnp.ones((2, 3)), jnp.zeros((2, 3)), 2.0))
    0.0
    """
    log_student = jax.nn.log_softmax(student / temperature)
    log_teacher = jax.nn.log_softmax(teacher / temperature)
    divergence = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    if weights is None:
        return divergence.mean() * temperature**2
    weights = weights.astype(divergence.dtype)
    mean = jnp.sum(divergence * weights) / jnp.maximum(jnp.sum(weights), 1.0)
    return mean * temperature**2


def feature_loss(student: list[Array], teacher: list[Array]) -> Array:
    """Returns the mean over blocks of the squared error relative to the variance."""
    errors = [
        jnp.mean((a - b) ** 2) / (jnp.var(b) + 1e-6)
        for a, b in zip(student, teacher, strict=True)
    ]
    return jnp.stack(errors).mean()


def adamw(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW with weight decay 0.01: the default optimizer of `fine_tune`."""
    return optax.adamw(schedule, weight_decay=0.01)


def init(
    variables: Variables, recipe: Recipe, num_examples: int, **options: Any
) -> TrainState:
    """Returns the state before the first epoch; arguments as of `fine_tune`."""
    optimizer = _optimizer(recipe, num_examples, **options)
    # Copies, because the training step gives its buffers away; with their types spelled
    # out, because weak ones would have the step compiled twice.
    variables = jax.tree.map(_copy, dict(variables))
    best = jax.tree.map(_copy, variables)
    opt_state = jax.jit(optimizer.init)(variables["params"])
    return TrainState(variables, opt_state, best, 0, float("-inf"), 0)


def _optimizer(
    recipe: Recipe,
    num_examples: int,
    *,
    optimizer: OptimizerFn = adamw,
    mask: Any = None,
) -> optax.GradientTransformation:
    steps = max(recipe.epochs * steps_per_epoch(recipe, num_examples), 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if recipe.warm_up else recipe.learning_rate,
        recipe.learning_rate,
        warmup_steps=round(recipe.warm_up * steps),
        decay_steps=steps,
    )
    transformation = optimizer(schedule)
    return transformation if mask is None else optax.chain(transformation, freeze(mask))


def _copy(array: Any) -> Array:
    return jnp.array(array, array.dtype, copy=True)


def steps_per_epoch(recipe: Recipe, num_examples: int) -> int:
    """Returns the number of full batches, at least one (smaller if it must be)."""
    return max(num_examples // recipe.batch_size, 1)


def fine_tune(
    model: Prunable,
    variables: Variables,
    inputs: Any,
    labels: np.ndarray,
    recipe: Recipe,
    key: Array,
    *,
    loss: LossFn = cross_entropy,
    weights: WeightsFn | None = None,
    optimizer: OptimizerFn = adamw,
    mask: Any = None,
    teacher: Teacher | None = None,
    augment: AugmentFn | None = None,
    buckets: Buckets | None = None,
    evaluate: Callable[[Variables], float] | None = None,
    resume: TrainState | None = None,
    save: Callable[[TrainState], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Trains a model and returns its variables.

    The step is jitted once, and its buffers are donated.

    Args:
        model: what to train.
        variables: where to start; they are not changed.
        inputs: `[N, ...]` examples on the host, or a tree of such arrays.
        labels: `[N, ...]` what `loss` compares the outputs with.
        recipe: numbers of the run.
        key: of the order of examples and of the augmentation.
        loss: `(outputs, labels) -> []`, the mean over a batch.
        weights: of the positions of labels in distillation; equal by default.
        optimizer: from a schedule of the learning rate, an optax transformation.
        mask: from `jaxprune.freezing.trainable_mask`; parameters where it is false
            stay as they are.
        teacher: the unpruned model, if the recipe distils from it.
        augment: `(key, inputs) -> inputs`, a random change of a batch.
        buckets: put examples of similar length together; each batch is cut to the
            length it needs, and the step is compiled once for each of these.
        evaluate: score of variables, higher is better; with it, the best epoch is
            returned rather than the last.
        resume: state that `save` was given, to go on from there.
        save: called after each epoch.
        on_epoch: called after each epoch, for progress.
        on_step: called after each step, for progress.

    Raises:
        ValueError: without examples, if inputs and labels differ in number, if the
            recipe distils and there is no teacher, if the teacher's logits are of other
            inputs, or if the loss is not finite.

    >>> from jaxprune.models import resnet
    >>> config = resnet.ResNetConfig((1,), (4,), image_shape=(4, 4, 1))
    >>> model = resnet.prunable_resnet(config)
    >>> variables = jax.jit(model.init)(jax.random.key(0))
    >>> images, labels = np.ones((8, 4, 4, 1), np.float32), np.arange(8) % 2
    >>> recipe = Recipe(epochs=3, batch_size=2)
    >>> plain = lambda schedule: optax.sgd(0.1)
    >>> key = jax.random.key(1)
    >>> trained = fine_tune(
    ...     model, variables, images, labels, recipe, key, optimizer=plain
    ... )
    >>> sorted(trained)
    ['batch_stats', 'params']
    """
    count = num_examples(inputs)
    if not count or count != len(labels):
        raise ValueError(f"{count} inputs and {len(labels)} labels to learn from")
    if (recipe.distillation or recipe.feature_distillation) and teacher is None:
        raise ValueError("distillation needs a teacher")
    options = {"optimizer": optimizer, "mask": mask}
    transformation = _optimizer(recipe, count, **options)
    state = resume or init(variables, recipe, count, **options)
    step = jax.jit(
        functools.partial(
            _step, model, transformation, recipe, loss, weights, teacher, augment
        ),
        donate_argnums=(0, 1),
    )
    taught = None if teacher is None else teacher.variables
    batch_size = min(recipe.batch_size, count)
    cut = take if buckets is None else buckets.cut
    said = None if teacher is None else teacher.logits
    if said is not None and (augment is not None or len(said) != count):
        raise ValueError(
            f"the teacher's logits are those of {len(said)} inputs that do not change, "
            f"not of these {count}: leave them out"
        )
    while state.epoch < recipe.epochs:
        if recipe.patience is not None and state.epochs_since_best > recipe.patience:
            break
        order_key, augment_key = jax.random.split(jax.random.fold_in(key, state.epoch))
        order = np.asarray(jax.random.permutation(order_key, count))
        if buckets is not None:
            batches_key = jax.random.fold_in(order_key, 1)
            order = buckets.arrange(order, batch_size, batches_key)
        current, opt_state = state.variables, state.opt_state
        losses = []
        for number in range(steps_per_epoch(recipe, count)):
            rows = order[number * batch_size : (number + 1) * batch_size]
            current, opt_state, value = step(
                current,
                opt_state,
                taught,
                None if said is None else said[rows],
                cut(inputs, rows),
                labels[rows],
                jax.random.fold_in(augment_key, number),
            )
            losses.append(value)
            if on_step is not None:
                on_step()
        mean_loss = float(jnp.stack(losses).mean())
        if not np.isfinite(mean_loss):
            raise ValueError(
                f"the loss is {mean_loss} in epoch {state.epoch + 1}: lower the "
                f"learning rate, which is {recipe.learning_rate}"
            )
        state = _after_epoch(state, current, opt_state, evaluate)
        if save is not None:
            save(state)
        if on_epoch is not None:
            score = float(state.best_score) if evaluate is not None else None
            on_epoch(Epoch(int(state.epoch), recipe.epochs, mean_loss, score))
    return dict(state.variables if evaluate is None else state.best_variables)


def _after_epoch(
    state: TrainState,
    variables: Any,
    opt_state: Any,
    evaluate: Callable[[Variables], float] | None,
) -> TrainState:
    epoch = int(state.epoch) + 1
    if evaluate is None:
        return state._replace(variables=variables, opt_state=opt_state, epoch=epoch)
    score = evaluate(variables)
    if score > state.best_score:
        best = jax.tree.map(jnp.copy, variables)
        return TrainState(variables, opt_state, best, epoch, score, 0)
    return state._replace(
        variables=variables,
        opt_state=opt_state,
        epoch=epoch,
        epochs_since_best=int(state.epochs_since_best) + 1,
    )


def _step(
    model: Prunable,
    transformation: optax.GradientTransformation,
    recipe: Recipe,
    loss: LossFn,
    weights: WeightsFn | None,
    teacher: Teacher | None,
    augment: AugmentFn | None,
    variables: Any,
    opt_state: Any,
    taught: Any,
    said: Any,
    inputs: Any,
    labels: Any,
    key: Array,
) -> tuple[Any, Any, Array]:
    """Takes one step; returns variables, optimizer state and loss."""
    if augment is not None:
        inputs = augment(key, inputs)

    def objective(params: Any) -> tuple[Array, Any]:
        outputs, activations, new = model.train({**variables, "params": params}, inputs)
        value = loss(outputs, labels)
        if teacher is None:
            return value, new
        if recipe.distillation:
            soft = distillation_loss(
                outputs,
                teacher.model.apply(taught, inputs) if said is None else said,
                recipe.temperature,
                None if weights is None else weights(labels),
            )
            value = (1 - recipe.distillation) * value + recipe.distillation * soft
        if recipe.feature_distillation:
            for stack, kept in teacher.kept.items():
                shown = teacher.model.activations[stack](taught, inputs)[1]
                errors = feature_loss(activations[stack], [shown[b] for b in kept])
                value = value + recipe.feature_distillation * errors
        return value, new

    grads, new, value = _value_and_grad(objective, variables["params"])
    updates, opt_state = transformation.update(grads, opt_state, variables["params"])
    params = optax.apply_updates(variables["params"], updates)
    return {**new, "params": params}, opt_state, value


def _value_and_grad(objective: Any, params: Any) -> tuple[Any, Any, Array]:
    (value, new), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return grads, new, value
