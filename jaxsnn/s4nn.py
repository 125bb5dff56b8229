"""The S4NN learning rule: errors of spike times, passed back through the spikes.

Kheradpisheh and Masquelier, "S4NN: temporal backpropagation for spiking neural networks
with one spike per neuron", arXiv 1910.09495. Each example contributes the update that
the published rule makes for it; those of a batch are summed.
"""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp

from jaxsnn import events, low_precision, network
from jaxsnn.example_sums import sum_examples
from jaxsnn.training import Gradient, check_batch

# The published initial weights are uniform in [0, 5] for 784 inputs and in [0, 10] for
# 400, at a threshold of 100: both are 40 thresholds divided by the number of inputs.
_INITIAL_RANGE = 40.0


@dataclasses.dataclass(frozen=True)
class Rule:
    """The constants of the rule.

    Attributes:
      margin: steps by which other outputs are to come after the first one; gamma in
        the paper.
      weight_bits: 2 (ternary) to 8, or 0 for float weights.

    Raises:
      ValueError: a margin below 1, or another number of bits.
    """

    margin: int = 3
    weight_bits: int = 0

    def __post_init__(self) -> None:
        if self.margin < 1:
            raise ValueError(f"margin={self.margin} must be at least 1")
        low_precision.check_bits(self.weight_bits)


def init(key: jax.Array, config: network.NetworkConfig) -> network.Params:
    """Draws the initial weights of the paper, none of them negative.

    Args:
      key: a PRNG key; consumed.
      config: the network.

    Returns:
      Uniform in 0 to 40 thresholds divided by the number of inputs.
    """
    shapes = [weights.shape for weights in network.init(key, config).weights]
    keys = jax.random.split(key, len(shapes))
    return network.Params(
        tuple(
            jax.random.uniform(layer_key, shape, maxval=_INITIAL_RANGE / shape[1])
            * config.threshold
            for layer_key, shape in zip(keys, shapes, strict=True)
        )
    )


def target_steps(
    output_steps: jax.Array, label: jax.Array, margin: int, num_steps: int
) -> jax.Array:
    """Returns when the outputs of one example should have spiked (equation 9).

    The label at the time of the first output, and others at least `margin` later; if
    none has spiked, the label `margin` before the end.

    Args:
      output_steps: `[C]` spike times.
      label: scalar integer.
      margin: in steps.
      num_steps: `T`.

    >>> target_steps(jnp.array([7, 4, 5, 9]), jnp.array(2), margin=3, num_steps=16)
    Array([7, 7, 4, 9], dtype=int32)
    >>> target_steps(jnp.array([15, 15]), jnp.array(0), margin=3, num_steps=16)
    Array([12, 15], dtype=int32)
    """
    chex.assert_rank([output_steps, label], [1, 0])
    last = num_steps - 1
    first = output_steps.min()
    is_label = jnp.arange(len(output_steps)) == label
    silent = jnp.where(is_label, last - margin, last)
    others = jnp.maximum(output_steps, first + margin)
    return jnp.where(first == last, silent, jnp.where(is_label, first, others))


def gradient(config: network.NetworkConfig, rule: Rule) -> Gradient:
    """Returns the sum of the published updates of a batch, as a function.

    Args:
      config: a network of dense layers.
      rule: its constants.

    Returns:
      What `jaxsnn.training.make_update` takes; to be followed by plain gradient
      descent. The loss is the mean of half the squared errors (equation 8).

    Raises:
      ValueError: layers other than dense, or with delays or a response in time.
    """
    for layer in config.layers:
        if not isinstance(layer, network.Dense):
            raise ValueError(f"{layer}: the S4NN rule is defined for dense layers")
        if not network.is_instant(layer):
            raise ValueError(
                "the S4NN rule is defined for spikes that count at once and for ever; "
                "surrogate gradients learn with delays and responses"
            )

    def loss_and_updates(
        params: network.Params,
        steps: jax.Array,
        labels: jax.Array,
        num_updates: jax.Array,
    ) -> tuple[jax.Array, network.Params]:
        del num_updates
        check_batch(config, steps, labels)
        neurons = [
            low_precision.quantize(weights, config.threshold, rule.weight_bits)
            for weights in params.weights
        ]
        levels = [steps.astype(jnp.int32)]
        for weights, threshold in neurons:
            levels.append(
                events.spike_steps(weights, levels[-1], threshold, config.num_steps)
            )
        targets = jax.vmap(target_steps, (0, 0, None, None))
        wanted = targets(levels[-1], labels, rule.margin, config.num_steps)
        errors = (wanted - levels[-1]) / (config.num_steps - 1)
        loss = 0.5 * (errors**2).sum(axis=1).mean()

        delta = _normalized(errors)
        updates = [jnp.zeros(0)] * len(neurons)
        for depth, (before, fired) in reversed(
            list(enumerate(itertools.pairwise(levels)))
        ):
            updates[depth] = causal_sum(delta, before, fired)
            if depth:
                weights = neurons[depth].weights
                causal = before[:, None, :] < fired[:, :, None]
                shares = jnp.where(causal, weights[None], 0) * delta[:, :, None]
                delta = _normalized(shares.sum(axis=1))
        return loss, network.Params(tuple(updates))

    return loss_and_updates


def causal_sum(delta: jax.Array, steps: jax.Array, fired: jax.Array) -> jax.Array:
    """Returns the sum over the batch of `delta` at the inputs that spiked before.

    Args:
      delta: `[B, N]` float32.
      steps: `[B, D]` spike times of the inputs.
      fired: `[B, N]` spike times of the neurons.

    Returns:
      `[N, D]`: the sum of `delta[b, n]` over the examples with `steps[b, d]` before
      `fired[b, n]`.
    """

    def term(delta: jax.Array, steps: jax.Array, fired: jax.Array) -> jax.Array:
        return jnp.where(steps[None, :] < fired[:, None], delta[:, None], 0)

    zeros = jnp.zeros((fired.shape[1], steps.shape[1]), delta.dtype)
    return sum_examples(term, zeros, delta, steps, fired)


def _normalized(delta: jax.Array) -> jax.Array:
    """Gives the error of each example the length one, or leaves it zero."""
    length = jnp.linalg.norm(delta, axis=1, keepdims=True)
    return delta / jnp.where(length > 0, length, 1)
