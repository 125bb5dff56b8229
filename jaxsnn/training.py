"""Training by surrogate gradients, with weights of a few bits if asked.

The pieces are pure functions: an objective of one example's output times, and an
update of state by a batch. The caller owns the loop over batches and jits it.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsnn import low_precision, network
from jaxsnn import surrogate as surrogates


@dataclasses.dataclass(frozen=True)
class Objective:
    """A temporal margin: the labelled output is to spike first, by a distance.

    Attributes:
      margin: distance, as a fraction of the time, that the label must lead by before
        the loss becomes small.
      temperature: the time, as a fraction of all, in which the odds of an output fall
        by a factor of e.
      num_bins: time bins that gradients see (`jaxsnn.surrogate.Surrogate`).
      width: of the surrogate, relative to the threshold.
      jitter: inputs are moved by up to this many steps at random in training, which
        teaches the network to be indifferent to it.
      weight_bits: 2 (ternary) to 8, or 0 for float weights.
      radius: the margin is also asked for when every input may move by up to this many
        steps, as far as interval bounds can tell; 0 does not ask for it.
      robustness: the share of that in the loss, in `[0, 1]`.
      ramp: number of updates over which that share grows to its full size.

    Raises:
      ValueError: a negative number, a temperature that is not positive, a share
        outside `[0, 1]`, or another number of bits.
    """

    margin: float = 0.125
    temperature: float = 0.0625
    num_bins: int | None = None
    width: float = 0.3
    jitter: int = 0
    weight_bits: int = 0
    radius: int = 0
    robustness: float = 0.5
    ramp: int = 0

    def __post_init__(self) -> None:
        for name in ("margin", "jitter", "radius", "ramp"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.robustness <= 1:
            raise ValueError(f"{self.robustness=} must lie in [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"{self.temperature=} must be positive")
        low_precision.check_bits(self.weight_bits)


class TrainState(NamedTuple):
    """What changes in training.

    Attributes:
      params: float weights; `low_precision.integer_network` makes them exact.
      optimizer_state: of the optax transformation.
      num_updates: scalar int32, made so far.
    """

    params: network.Params
    optimizer_state: optax.OptState
    num_updates: jax.Array


def initial_state(
    key: jax.Array,
    config: network.NetworkConfig,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """Returns random weights and an optimizer that has seen nothing.

    Args:
      key: a PRNG key; consumed.
      config: the network.
      optimizer: an optax transformation.
    """
    params = network.init(key, config)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


class Outcome(NamedTuple):
    """What the output times of one example, or of each of a batch, amount to.

    Attributes:
      correct: whether the label spikes first; among ties the lowest index wins.
      tied: whether another output spikes at the same step as the first.
      silent: whether no output spikes before the forced spike at `T - 1`.
      margin: steps by which the label leads the next output; negative if it trails.
    """

    correct: jax.Array
    tied: jax.Array
    silent: jax.Array
    margin: jax.Array


def outcome(output_steps: jax.Array, label: jax.Array, num_steps: int) -> Outcome:
    """Judges the output times of one example.

    Args:
      output_steps: `[C]` spike times.
      label: scalar integer.
      num_steps: `T`.

    Returns:
      Scalars.

    >>> outcome(jnp.array([7, 3, 3, 5]), jnp.array(1), num_steps=8)
    ... # doctest: +NORMALIZE_WHITESPACE
    Outcome(correct=Array(True, dtype=bool), tied=Array(True, dtype=bool),
            silent=Array(False, dtype=bool), margin=Array(0, dtype=int32))
    """
    chex.assert_rank([output_steps, label], [1, 0])
    first = output_steps.min()
    is_label = jnp.arange(len(output_steps)) == label
    others = jnp.where(is_label, num_steps, output_steps).min()
    return Outcome(
        correct=jnp.argmin(output_steps) == label,
        tied=(output_steps == first).sum() > 1,
        silent=first == num_steps - 1,
        margin=others - output_steps[label],
    )


def temporal_margin_loss(
    output_times: jax.Array, label: jax.Array, margin: float, temperature: float
) -> jax.Array:
    """Returns the cross-entropy of the label leading all others by a margin.

    The softmax of the negative times, the label's delayed by the margin. A tie costs
    at least `log 2` and silence `log C`, so training removes both.

    Args:
      output_times: `[C]`.
      label: scalar integer.
      margin: in the unit of the times.
      temperature: in the unit of the times.

    Returns:
      A scalar, not negative.

    >>> bool(temporal_margin_loss(jnp.array([9.0, 2.0]), jnp.array(1), 2.0, 1.0) < 0.01)
    True
    """
    chex.assert_rank([output_times, label], [1, 0])
    is_label = jnp.arange(len(output_times)) == label
    logits = -(output_times + jnp.where(is_label, margin, 0.0)) / temperature
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def jitter(key: jax.Array, steps: jax.Array, radius: int, num_steps: int) -> jax.Array:
    """Moves each spike by a random whole number of steps, uniform in `+-radius`.

    Args:
      key: a PRNG key; consumed.
      steps: `[...]` spike times, whole numbers in `0 .. T-1`.
      radius: in steps.
      num_steps: `T`; results are clipped to `0 .. T-1`.

    >>> jitter(jax.random.key(0), jnp.array([0, 5, 9]), radius=0, num_steps=10)
    Array([0, 5, 9], dtype=int32)
    """
    moves = jax.random.randint(key, steps.shape, -radius, radius + 1, steps.dtype)
    return jnp.clip(steps + moves, 0, num_steps - 1)


Update = Callable[
    [TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, jax.Array]
]


def make_update(
    config: network.NetworkConfig,
    objective: Objective,
    optimizer: optax.GradientTransformation,
) -> Update:
    """Returns the function that learns from one batch.

    Args:
      config: the network.
      objective: what to learn.
      optimizer: an optax transformation.

    Returns:
      `update(state, key, steps, labels)` of `[B, D]` integer spike times and `[B]`
      labels, returning the new state and the mean loss before it. Not jitted.

    >>> config = network.NetworkConfig((4,), (network.Dense(2),), num_steps=8)
    >>> optimizer = optax.adam(0.01)
    >>> state = initial_state(jax.random.key(0), config, optimizer)
    >>> update = jax.jit(make_update(config, Objective(), optimizer))
    >>> steps, labels = jnp.array([[0, 1, 6, 7], [7, 6, 1, 0]]), jnp.array([0, 1])
    >>> losses = []
    >>> for key in jax.random.split(jax.random.key(1), 40):
    ...     state, loss = update(state, key, steps, labels)
    ...     losses.append(float(loss))
    >>> losses[-1] < losses[0]
    True
    """
    seen = surrogates.Surrogate(objective.num_bins, objective.width)

    def loss(
        params: network.Params,
        key: jax.Array,
        steps: jax.Array,
        labels: jax.Array,
        num_updates: jax.Array,
    ) -> jax.Array:
        if objective.jitter:
            steps = jitter(key, steps, objective.jitter, config.num_steps)
        neurons = [
            low_precision.quantize(w, config.threshold, objective.weight_bits)
            for w in params.weights
        ]
        each = jax.vmap(temporal_margin_loss, (0, 0, None, None))
        span = config.num_steps

        def cost(times: jax.Array) -> jax.Array:
            losses = each(times / span, labels, objective.margin, objective.temperature)
            return losses.mean()

        clean = cost(surrogates.output_times(config, neurons, steps, seen))
        if objective.radius == 0:
            return clean
        earliest = jnp.maximum(steps - objective.radius, 0)
        latest = jnp.minimum(steps + objective.radius, span - 1)
        first, last = surrogates.output_bounds(config, neurons, earliest, latest, seen)
        is_label = jax.nn.one_hot(labels, first.shape[1], dtype=bool)
        worst = cost(jnp.where(is_label, last, first))
        share = objective.robustness * jnp.minimum(
            1, (num_updates + 1) / (objective.ramp + 1)
        )
        return (1 - share) * clean + share * worst

    def update(
        state: TrainState, key: jax.Array, steps: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(
            state.params, key, steps, labels, state.num_updates
        )
        # Optax mixes integer counts and floats, whatever the caller has forbidden.
        with jax.numpy_dtype_promotion("standard"):
            changes, optimizer_state = optimizer.update(
                gradient, state.optimizer_state, state.params
            )
        params = optax.apply_updates(state.params, changes)
        return TrainState(params, optimizer_state, state.num_updates + 1), value

    return update
