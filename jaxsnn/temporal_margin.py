"""The temporal margin: a loss of output times, over one input or a box of them."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsnn import low_precision, network, surrogate
from jaxsnn.training import Gradient, check_batch

_GOLDEN_RATIO = 0.6180339887


@dataclasses.dataclass(frozen=True)
class TemporalMargin:
    """The labelled output is to spike first, by a distance.

    Attributes:
      margin: distance, as a fraction of the time, that the label must lead by before
        the loss becomes small.
      temperature: the time, as a fraction of all, in which the odds of an output fall
        by a factor of e.
      num_samples: steps in which gradients look (`jaxsnn.surrogate.Surrogate`).
      width: of the surrogate, relative to the threshold.
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
    num_samples: int | None = None
    width: float = 0.3
    weight_bits: int = 0
    radius: int = 0
    robustness: float = 0.25
    ramp: int = 0

    def __post_init__(self) -> None:
        for name in ("margin", "radius", "ramp"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.robustness <= 1:
            raise ValueError(f"robustness={self.robustness} must lie in [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be positive")
        low_precision.check_bits(self.weight_bits)


def loss(
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

    >>> bool(loss(jnp.array([9.0, 2.0]), jnp.array(1), 2.0, 1.0) < 0.01)
    True
    """
    chex.assert_rank([output_times, label], [1, 0])
    is_label = jnp.arange(len(output_times)) == label
    logits = -(output_times + jnp.where(is_label, margin, 0.0)) / temperature
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def gradient(config: network.NetworkConfig, objective: TemporalMargin) -> Gradient:
    """Returns the mean loss of a batch and its surrogate gradient, as a function.

    Args:
      config: the network.
      objective: what to learn.

    Returns:
      What `jaxsnn.training.make_update` takes.
    """
    seen = surrogate.Surrogate(objective.num_samples, objective.width)

    def mean_loss(
        params: network.Params,
        steps: jax.Array,
        labels: jax.Array,
        num_updates: jax.Array,
    ) -> jax.Array:
        check_batch(config, steps, labels)
        neurons = [
            low_precision.quantize(w, config.threshold, objective.weight_bits)
            for w in params.weights
        ]
        each = jax.vmap(loss, (0, 0, None, None))
        span = config.num_steps

        def cost(times: jax.Array) -> jax.Array:
            losses = each(times / span, labels, objective.margin, objective.temperature)
            return losses.mean()

        # Multiples of the golden ratio spread evenly, however many there are.
        phase = jnp.mod(num_updates.astype(jnp.float32) * _GOLDEN_RATIO, 1.0)
        clean = cost(surrogate.output_times(config, neurons, steps, seen, phase))
        if objective.radius == 0:
            return clean
        earliest = jnp.maximum(steps - objective.radius, 0)
        latest = jnp.minimum(steps + objective.radius, span - 1)
        first, last = surrogate.output_bounds(config, neurons, earliest, latest, seen)
        is_label = jax.nn.one_hot(labels, first.shape[1], dtype=bool)
        worst = cost(jnp.where(is_label, last, first))
        share = objective.robustness * jnp.minimum(
            1, (num_updates + 1) / (objective.ramp + 1)
        )
        return (1 - share) * clean + share * worst

    return jax.value_and_grad(mean_loss)
