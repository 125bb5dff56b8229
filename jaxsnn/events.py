"""Spike times of a batch, by steps or by events.

*By steps* is a matrix product for each of the `T` steps; it suits accelerators and
short time. *By events* sorts the input spikes of each example and adds one row of the
weights per spike: with 784 inputs, of which 150 spike in time, and 256 steps it does a
thousandth of the arithmetic. Both give the same numbers. Layers with delays or a
response in time are simulated by steps, or *by arrivals*: weights are summed by the
step in which they begin to count, which is worth it for many inputs in a long time.

These functions take a batch, unlike the rest of the library: all examples share one
loop, and it ends with the last spike of any.
"""

import functools
from collections.abc import Iterable, Sequence

import chex
import jax
import jax.numpy as jnp

from jaxsnn import network
from jaxsnn.delays import by_delay, responses
from jaxsnn.sat.response import Response, peak

# Steps from which on sorting pays on a CPU, whatever the size of the layer (measured:
# between 16 and 64 for 9 to 1728 inputs and 8 to 1000 neurons).
_MANY_STEPS = 24
# Products of two matrices on a CPU that take as long as one sum by arrival (measured:
# 37, with 784 inputs, 32 to 256 steps and 128 or 400 neurons).
_PRODUCTS_OF_AN_ARRIVAL = 40
# Steps in one matrix product on an accelerator: on an H200, 128 examples, 784 inputs,
# 1000 neurons and 256 steps took 1.9 ms by eights and 4.3 ms one by one.
_STEPS_AT_ONCE = 8


def output_steps(
    config: network.NetworkConfig,
    neurons: Sequence[network.Neurons],
    steps: jax.Array,
) -> jax.Array:
    """Returns the spike times of the outputs of a batch.

    Args:
      config: the network.
      neurons: weights and threshold of every layer of neurons.
      steps: `[B, D]` spike times of the inputs, whole numbers in `0 .. T-1`.

    Returns:
      `[B, C]` int32 in `1 .. T-1`, those of `jaxsnn.network.apply`.

    >>> config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=5)
    >>> neurons = [network.Neurons(jnp.array([[2.0, -1.5]]), jnp.float32(1))]
    >>> output_steps(config, neurons, jnp.array([[1, 2], [2, 1]]))
    Array([[2],
           [4]], dtype=int32)
    """
    return _last_two_levels(config, neurons, steps)[1]


def output_steps_and_potentials(
    config: network.NetworkConfig,
    neurons: Sequence[network.Neurons],
    steps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns `output_steps`, and what the outputs had reached by the end.

    Args:
      config: the network.
      neurons: weights and threshold of every layer of neurons.
      steps: `[B, D]` spike times of the inputs, whole numbers in `0 .. T-1`.

    Returns:
      `[B, C]` int32 spike times, and `[B, C]` float32 potentials in step `T - 3`, the
      last one in which a crossing can be told from silence.

    >>> config = network.NetworkConfig((2,), (network.Dense(1),), num_steps=5)
    >>> neurons = [network.Neurons(jnp.array([[2.0, -1.5]]), jnp.float32(4))]
    >>> times, potentials = output_steps_and_potentials(
    ...     config, neurons, jnp.array([[1, 2], [2, 4]])
    ... )
    >>> times.tolist(), potentials.tolist()
    ([[4], [4]], [[0.5], [2.0]])
    """
    before, outputs = _last_two_levels(config, neurons, steps)
    layer = config.neuron_layers[-1]
    parts = by_delay(neurons[-1].weights, layer.delays)
    num_steps = config.num_steps
    at_end = _voltages(parts, layer.response, before, num_steps - 3, num_steps)
    return outputs, at_end


def _last_two_levels(
    config: network.NetworkConfig,
    neurons: Sequence[network.Neurons],
    steps: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the spike times of what feeds the outputs, and theirs."""
    before = level = steps.astype(jnp.int32)
    batch = len(level)
    remaining = iter(neurons)
    for layer, shape in zip(config.layers, config.shapes[:-1], strict=True):
        before = level
        if isinstance(layer, network.Dense):
            level = _fire(layer, next(remaining), level, config.num_steps)
            continue
        under = jax.vmap(functools.partial(network.patches, layer, shape))(level)
        if isinstance(layer, network.EarliestPool2D):
            level = under.min(axis=-1).reshape(batch, -1)
            continue
        rows = under.reshape(-1, under.shape[-1])
        fired = _fire(layer, next(remaining), rows, config.num_steps)
        level = fired.reshape(batch, -1)
    return before, level


def _fire(
    layer: network.Dense | network.Conv2D,
    neurons: network.Neurons,
    steps: jax.Array,
    num_steps: int,
) -> jax.Array:
    if network.is_instant(layer):
        return spike_steps(neurons.weights, steps, neurons.threshold, num_steps)
    if _arrivals_pay(steps.shape[1], num_steps):
        return by_arrivals(layer, neurons, steps, num_steps)
    return by_responses(layer, neurons, steps, num_steps)


def _arrivals_pay(num_inputs: int, num_steps: int) -> bool:
    # Adding a weight up where its spike arrives costs as much as some products. In
    # steps there are `T D` of these for each neuron, from arrivals `T^2`.
    on_cpu = jax.default_backend() == "cpu"
    products = num_steps * (num_inputs - num_steps)
    return on_cpu and products > _PRODUCTS_OF_AN_ARRIVAL * num_inputs


def spike_steps(
    weights: jax.Array, steps: jax.Array, threshold: jax.Array, num_steps: int
) -> jax.Array:
    """Returns the spike times of a layer: a batched `jaxsnn.network.spike_steps`.

    Args:
      weights: `[N, D]`; if they and the threshold are whole numbers whose sums stay
        below 2^24, the result is exact.
      steps: `[B, D]` whole numbers in `0 .. T-1`.
      threshold: scalar.
      num_steps: `T`.

    Returns:
      `[B, N]` int32 in `1 .. T-1`.

    >>> weights = jnp.array([[2.0, -1.5], [1.0, 1.0]])
    >>> spike_steps(weights, jnp.array([[1, 2]]), jnp.float32(1), num_steps=9)
    Array([[2, 3]], dtype=int32)
    """
    chex.assert_rank([weights, steps, threshold], [2, 2, 0])
    chex.assert_equal_shape_suffix([weights, steps], 1)
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and num_steps >= _MANY_STEPS:
        return by_events(weights, steps, threshold, num_steps)
    at_once = 1 if on_cpu else _STEPS_AT_ONCE
    return by_steps(weights, steps, threshold, num_steps, at_once)


def by_steps(
    weights: jax.Array,
    steps: jax.Array,
    threshold: jax.Array,
    num_steps: int,
    at_once: int = 1,
) -> jax.Array:
    """As `spike_steps`, advancing all potentials by `at_once` steps at a time."""
    last = num_steps - 1
    steps = steps.astype(jnp.int32)
    ahead = jnp.arange(at_once, dtype=jnp.int32)[None, :, None]

    def advance(
        state: tuple[jax.Array, jax.Array], begin: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        voltages, fired = state
        waited = steps[:, None, :] - begin
        arrived = (waited >= 0) & (waited <= ahead)
        reached = voltages[:, None] + jnp.matmul(
            arrived.astype(weights.dtype),
            weights.T[None],
            precision=jax.lax.Precision.HIGHEST,
        )
        # A crossing at T - 2 or later spikes at T - 1, as silence does.
        above = (reached > threshold) & (begin + ahead < last - 1)
        first = above.any(axis=1) & (fired == last)
        fired = jnp.where(first, begin + jnp.argmax(above, axis=1) + 1, fired)
        return (reached[:, -1], fired.astype(jnp.int32)), None

    shape = (steps.shape[0], weights.shape[0])
    start = (jnp.zeros(shape, weights.dtype), jnp.full(shape, last, jnp.int32))
    begins = jnp.arange(0, last - 1, at_once, dtype=jnp.int32)
    return jax.lax.scan(advance, start, begins)[0][1]


def by_events(
    weights: jax.Array, steps: jax.Array, threshold: jax.Array, num_steps: int
) -> jax.Array:
    """As `spike_steps`, advancing each example by its own next input spike."""
    last = num_steps - 1
    num_inputs = steps.shape[1]
    # One integer holds time and input: it sorts much faster than an argsort.
    keys = steps.astype(jnp.int32) * num_inputs + jnp.arange(num_inputs)[None]
    keys = jnp.sort(keys, axis=1).T
    clock, inputs = keys // num_inputs, keys % num_inputs
    # Potentials count when all spikes of a step are in.
    after = jnp.concatenate([clock[1:], jnp.full_like(clock[:1], num_steps)])
    counts = (after > clock) & (clock < last - 1)
    rows = weights.T

    def advance(
        event: jax.Array, state: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        voltages, fired = state
        voltages += rows[inputs[event]]
        first = (voltages > threshold) & (fired == last) & counts[event][:, None]
        return voltages, jnp.where(first, clock[event][:, None] + 1, fired)

    voltages = jnp.zeros((steps.shape[0], weights.shape[0]), weights.dtype)
    # A negative threshold is crossed before any spike.
    at_once = (voltages > threshold) & (clock[0] > 0)[:, None]
    start = (voltages, jnp.where(at_once, 1, last).astype(jnp.int32))
    num_events = (clock < last - 1).any(axis=1).sum()
    return jax.lax.fori_loop(0, num_events, advance, start)[1]


def by_responses(
    layer: network.Dense | network.Conv2D,
    neurons: network.Neurons,
    steps: jax.Array,
    num_steps: int,
) -> jax.Array:
    """As `spike_steps`, for a layer with delays or a response in time.

    Args:
      layer: the layer.
      neurons: `[N, D]` weights and the threshold.
      steps: `[B, D]` whole numbers in `0 .. T-1`.
      num_steps: `T`.
    """
    last = num_steps - 1
    steps = steps.astype(jnp.int32)
    parts = list(by_delay(neurons.weights, layer.delays))
    threshold = neurons.threshold * peak(layer.response)

    def advance(fired: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
        voltages = _voltages(parts, layer.response, steps, step, num_steps)
        first = (voltages > threshold) & (fired == last)
        return jnp.where(first, step + 1, fired), None

    start = jnp.full((len(steps), len(neurons.weights)), last, jnp.int32)
    return jax.lax.scan(advance, start, jnp.arange(last - 1, dtype=jnp.int32))[0]


def by_arrivals(
    layer: network.Dense | network.Conv2D,
    neurons: network.Neurons,
    steps: jax.Array,
    num_steps: int,
) -> jax.Array:
    """As `by_responses`, from the sum of the weights that arrive in each step.

    The potentials of all steps are then one product. Examples are taken one by one, so
    that what they need stays in the cache.
    """
    last = num_steps - 1
    parts = list(by_delay(neurons.weights, layer.delays))
    threshold = neurons.threshold * peak(layer.response)
    # A crossing at T - 2 or later spikes at T - 1, as silence does.
    counted = jnp.arange(last - 1, dtype=jnp.int32)
    effects = responses(layer.response, counted[:, None] - counted[None], num_steps)

    def one(steps: jax.Array) -> jax.Array:
        arrived = jnp.zeros((last - 1, len(neurons.weights)), neurons.weights.dtype)
        for delay, weights in parts:
            arrived = arrived.at[steps + delay].add(weights.T, mode="drop")
        voltages = jnp.matmul(effects, arrived, precision=jax.lax.Precision.HIGHEST)
        above = voltages > threshold
        first = jnp.argmax(above, axis=0).astype(jnp.int32) + 1
        return jnp.where(above.any(axis=0), first, last)

    return jax.lax.map(one, steps.astype(jnp.int32))


def _voltages(
    parts: Iterable[tuple[int, jax.Array]],
    response: Response,
    steps: jax.Array,
    step: jax.Array | int,
    num_steps: int,
) -> jax.Array:
    """Returns `[B, N]` potentials in one step, from the weights of each delay."""
    each = [
        jnp.matmul(
            responses(response, step - steps - delay, num_steps),
            weights.T,
            precision=jax.lax.Precision.HIGHEST,
        )
        for delay, weights in parts
    ]
    return functools.reduce(jnp.add, each)
