"""Spike times of a batch, differentiable by weight.

Forward, this is the network itself. Backward, potentials are looked at in some steps,
and the question whether a neuron has spiked by then, a step function of its highest
potential so far, is given a bell-shaped derivative around the threshold. Unlike a
gradient through the one step of the crossing, this one also knows of spikes that
nearly came earlier, and it vanishes where no small change of a weight could help.

Neurons spike one step after they cross the threshold, so the steps in which a layer is
looked at lie one behind those of the layer before. All that is seen of a neuron is
between which two samples it spikes. Where effects depend on time (delays, responses)
its spike is spread evenly over the steps between; those of inputs are exact.

This module works on batches, unlike the rest of the library: the gradient of a weight
is a sum over the batch, and `vmap` would first write down every term of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxsnn import events, network
from jaxsnn.crossing import crossed
from jaxsnn.delays import by_delay, responses
from jaxsnn.network import Neurons
from jaxsnn.sampled_potentials import effects_between, sampled_potentials
from jaxsnn.sat.response import STEP, peak


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """How the gradient sees time and thresholds.

    Attributes:
      num_samples: in how many steps it looks at potentials; None, or more than there
        are, for all of them, where the backward pass sees exactly what the forward
        pass computes. Fewer lie closer together at the start, where most is decided.
      width: distance from the threshold, as a fraction of it, at which the derivative
        of a spike by its potential has fallen to a quarter.

    Raises:
      ValueError: less than two samples, or a width that is not positive.
    """

    num_samples: int | None = None
    width: float = 0.3

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 2:
            raise ValueError(f"num_samples={self.num_samples} must be at least 2")
        if not self.width > 0:
            raise ValueError(f"width={self.width} must be positive")


def output_times(
    config: network.NetworkConfig,
    neurons: Sequence[Neurons],
    steps: jax.Array,
    surrogate: Surrogate,
    phase: jax.Array | float = 0.5,
) -> jax.Array:
    """Returns the spike times of the outputs.

    Args:
      config: the network.
      neurons: weights and threshold of every layer of neurons.
      steps: `[B, D]` spike times of the inputs, whole numbers in `0 .. T-1`.
      surrogate: of the gradient.
      phase: in `[0, 1)`, where samples of time lie, as in `sample_steps`; different
        ones in different updates look at every step in the end.

    Returns:
      `[B, C]` float32, whole numbers in `1 .. T-1`, differentiable by the weights.

    >>> config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=5)
    >>> def time(weights):
    ...     neurons = [Neurons(weights, jnp.float32(1))]
    ...     return output_times(config, neurons, jnp.array([[1, 2]]), Surrogate())[0, 0]
    >>> value, gradient = jax.value_and_grad(time)(jnp.array([[2.0, -1.5]]))
    >>> float(value), (gradient < 0).tolist()
    (2.0, [[True, False]])
    """
    samples = _samples(config, surrogate, phase)
    spiked = _outputs_spiked(config, neurons, steps, samples, surrogate.width)
    seen = _times(config, spiked, samples)
    if len(samples) == _last_sample(config) + 1:
        return seen
    exact = events.output_steps(config, neurons, steps)
    return seen + jax.lax.stop_gradient(exact.astype(seen.dtype) - seen)


def output_bounds(
    config: network.NetworkConfig,
    neurons: Sequence[Neurons],
    earliest: jax.Array,
    latest: jax.Array,
    surrogate: Surrogate,
) -> tuple[jax.Array, jax.Array]:
    """Returns bounds of the spike times of the outputs over a box of inputs.

    Interval propagation: the highest potential has every input of positive weight spike
    as early as it can and every other one as late, and the lowest the reverse. Where a
    response rises and falls, each change of it is bounded alone, which is loose. With
    samples of every step the bounds are sound.

    Args:
      config: the network.
      neurons: weights and threshold of every layer of neurons.
      earliest: `[B, D]` first admissible spike times, whole numbers in `0 .. T-1`.
      latest: `[B, D]` last admissible spike times.
      surrogate: of the gradient.

    Returns:
      The first and the last time each output can spike, `[B, C]` float32 each,
      differentiable by the weights.

    Raises:
      ValueError: delays or responses, with samples of fewer than all steps.

    >>> config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=6)
    >>> neurons = [Neurons(jnp.array([[2.0, -1.5]]), jnp.float32(1))]
    >>> box = jnp.array([[0, 1]]), jnp.array([[2, 3]])
    >>> [float(t[0, 0]) for t in output_bounds(config, neurons, *box, Surrogate())]
    [1.0, 5.0]
    """
    samples = _samples(config, surrogate)
    if len(samples) <= _last_sample(config) and not all(
        map(network.is_instant, config.neuron_layers)
    ):
        raise ValueError(
            f"num_samples={surrogate.num_samples} must be None, or at least "
            f"{_last_sample(config) + 1}, for bounds of layers with delays or a "
            "response in time"
        )
    could, must = _arrived(earliest, samples), _arrived(latest, samples)
    remaining = iter(neurons)
    for layer, shape in zip(config.layers, config.shapes[:-1], strict=True):
        if isinstance(layer, network.EarliestPool2D):
            could, must = (_pool(layer, shape, spiked) for spiked in (could, must))
            continue
        weights, threshold = next(remaining)
        seen = functools.partial(_seen, layer, num_steps=config.num_steps)
        middle = _potentials(
            layer,
            shape,
            weights,
            functools.partial(seen, (could + must) / 2, samples),
        )
        spread = _potentials(
            layer,
            shape,
            jnp.abs(weights),
            functools.partial(seen, (could - must) / 2, samples, magnitude=True),
        )
        threshold = threshold * peak(layer.response)
        could = crossed(middle + spread, threshold, surrogate.width)
        must = crossed(middle - spread, threshold, surrogate.width)
    return _times(config, could, samples), _times(config, must, samples)


def sample_steps(phase: jax.Array | float, last: int, num_samples: int) -> jax.Array:
    """Returns one step of each of `G` intervals, of lengths that grow in proportion.

    Args:
      phase: in `[0, 1)`, where in its interval each step lies.
      last: the last step of the last interval, at least 0.
      num_samples: how many, `G`; no more than `last + 1` are returned.

    Returns:
      `[G]` int32, `(last + 1) ((g + phase) / G)^2`, rounded down, and at least one
      apart.

    >>> [sample_steps(phase, 99, 6).tolist() for phase in (0.0, 0.5)]
    [[0, 2, 11, 25, 44, 69], [0, 6, 17, 34, 56, 84]]
    >>> sample_steps(0.5, 3, 10).tolist()
    [0, 1, 2, 3]
    """
    num_samples = min(num_samples, last + 1)
    index = jnp.arange(num_samples, dtype=jnp.int32)
    share = (index.astype(jnp.float32) + phase) / num_samples
    steps = jnp.floor((last + 1) * share**2).astype(jnp.int32)
    steps = jax.lax.cummax(steps - index) + index
    # A step is left for each of those that follow.
    return jnp.minimum(steps, last - index[::-1])


def _last_sample(config: network.NetworkConfig) -> int:
    """Returns the last step whose inputs can make an output spike before the end."""
    return max(config.num_steps - 2 - len(config.neuron_layers), 0)


def _samples(
    config: network.NetworkConfig,
    surrogate: Surrogate,
    phase: jax.Array | float = 0.5,
) -> jax.Array:
    """Returns in which steps the first layer is looked at."""
    wanted = surrogate.num_samples or config.num_steps
    return sample_steps(phase, _last_sample(config), wanted)


def _times(
    config: network.NetworkConfig, spiked: jax.Array, samples: jax.Array
) -> jax.Array:
    """Returns `[B, N]` times of the outputs, from `[B, G, N]`: who has spiked by when.

    One who has not spiked by one sample is taken to spike at the next one.
    """
    latency = len(config.neuron_layers)
    ends = jnp.append(samples, config.num_steps - 1 - latency)
    waits = jnp.diff(ends).astype(jnp.float32)
    waited = ((1 - spiked) * waits[None, :, None]).sum(axis=1)
    return waited + (samples[0] + latency).astype(jnp.float32)


def _arrived(steps: jax.Array, samples: jax.Array) -> jax.Array:
    """Returns `[B, G, D]` 0 or 1: whether each input has spiked by each sample."""
    by = samples[None, :, None]
    return (steps.astype(jnp.int32)[:, None] <= by).astype(jnp.float32)


def _first_samples(steps: jax.Array, samples: jax.Array, num_steps: int) -> jax.Array:
    """Returns the first sample that sees each spike, `G` if none does."""
    first = jnp.searchsorted(samples, jnp.arange(num_steps, dtype=jnp.int32))
    return first.astype(jnp.int32)[steps.astype(jnp.int32)]


def _outputs_spiked(
    config: network.NetworkConfig,
    neurons: Sequence[Neurons],
    steps: jax.Array,
    samples: jax.Array,
    width: float,
) -> jax.Array:
    """Returns `[B, G, C]`: whether the outputs have spiked, by samples throughout."""
    remaining = iter(neurons)
    spiked = _arrived(steps, samples)
    for depth, (layer, shape) in enumerate(
        zip(config.layers, config.shapes[:-1], strict=True)
    ):
        if isinstance(layer, network.EarliestPool2D):
            spiked = _pool(layer, shape, spiked)
            continue
        weights, threshold = next(remaining)
        if not depth and _by_arrivals(layer):
            arrivals = _first_samples(steps, samples, config.num_steps)
            potentials = _of_inputs(layer, shape, weights, arrivals, len(samples))
        else:
            effects = functools.partial(_seen, layer, spiked, samples)
            if not depth and not network.is_instant(layer):
                effects = functools.partial(_exact, layer, steps, samples)
            effects = functools.partial(effects, num_steps=config.num_steps)
            potentials = _potentials(layer, shape, weights, effects)
        spiked = crossed(potentials, threshold * peak(layer.response), width)
    return spiked


def _by_arrivals(layer: network.Dense | network.Conv2D) -> bool:
    # XLA's own gradient of kernels takes several times as long on a CPU.
    fast = isinstance(layer, network.Dense) or jax.default_backend() == "cpu"
    return fast and network.is_instant(layer)


def _of_inputs(
    layer: network.Dense | network.Conv2D,
    shape: tuple[int, ...],
    weights: jax.Array,
    arrivals: jax.Array,
    num_samples: int,
) -> jax.Array:
    """Returns `[B, G, N]` potentials, from the first samples `[B, D]` of inputs."""
    if isinstance(layer, network.Dense):
        return sampled_potentials(weights, arrivals, num_samples)
    under = jax.vmap(functools.partial(network.patches, layer, shape))(arrivals)
    rows = under.reshape(-1, under.shape[-1])
    potentials = sampled_potentials(weights, rows, num_samples)
    by_position = potentials.reshape(*under.shape[:2], num_samples, len(weights))
    return jnp.moveaxis(by_position, 2, 1).reshape(len(arrivals), num_samples, -1)


def _exact(
    layer: network.Dense | network.Conv2D,
    steps: jax.Array,
    samples: jax.Array,
    delay: int,
    *,
    num_steps: int,
) -> jax.Array:
    """Returns `[B, G, D]`: the effects of spikes at steps `[B, D]`, by samples."""
    ages = samples[None, :, None] - steps.astype(jnp.int32)[:, None] - delay
    return responses(layer.response, ages, num_steps)


def _seen(
    layer: network.Dense | network.Conv2D,
    spiked: jax.Array,
    samples: jax.Array,
    delay: int,
    *,
    num_steps: int,
    magnitude: bool = False,
) -> jax.Array:
    """Returns `[B, G, D]`: the effects of spikes seen between samples.

    With `magnitude` changes of the response count by their size.
    """
    if layer.response == STEP and not delay:
        return spiked
    effects = effects_between(samples, layer.response, delay, num_steps)
    effects = jnp.abs(effects) if magnitude else effects
    return jnp.einsum("gh,bhd->bgd", effects, spiked, precision="highest")


def _potentials(
    layer: network.Dense | network.Conv2D,
    shape: tuple[int, ...],
    weights: jax.Array,
    effects: Callable[[int], jax.Array],
) -> jax.Array:
    """Returns `[B, G, N]` potentials from the effects `[B, G, D]` of each delay."""
    parts = [
        _weighted_sums(layer, shape, part, effects(delay))
        for delay, part in by_delay(weights, layer.delays)
    ]
    return functools.reduce(jnp.add, parts)


def _weighted_sums(
    layer: network.Dense | network.Conv2D,
    shape: tuple[int, ...],
    weights: jax.Array,
    spiked: jax.Array,
) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST
    if isinstance(layer, network.Dense):
        return jnp.matmul(spiked, weights.T[None], precision=precision)
    batch = spiked.shape[:2]
    sums = jax.lax.conv_general_dilated(
        spiked.reshape((batch[0] * batch[1], *shape)),
        weights.reshape(len(weights), *layer.window, shape[2]),
        layer.strides,
        "VALID",
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        precision=precision,
    )
    return sums.reshape((*batch, -1))


def _pool(
    layer: network.EarliestPool2D, shape: tuple[int, ...], spiked: jax.Array
) -> jax.Array:
    """Returns `[B, G, N]`: whether any position of each window has spiked."""
    batch, (height, width), (_, _, channels) = spiked.shape[:2], layer.window, shape
    if layer.strides == layer.window:  # nothing needs to be gathered
        rows, columns = shape[0] // height, shape[1] // width
        images = spiked.reshape((*batch, *shape))
        images = images[:, :, : rows * height, : columns * width]
        windows = images.reshape((*batch, rows, height, columns, width, channels))
        return windows.max(axis=(3, 5)).reshape((*batch, -1))
    one = functools.partial(network.patches, layer, shape)
    windows = jax.vmap(jax.vmap(one))(spiked)
    return windows.max(axis=-1).reshape((*batch, -1))
