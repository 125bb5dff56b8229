"""The frame of training: state, update by a batch, and what outputs amount to.

The pieces are pure functions of whole batches, as gradients are sums over them. A
learning rule is a function that returns a gradient: `jaxsnn.temporal_margin.gradient`
or `jaxsnn.s4nn.gradient`. The caller owns the loop over batches and jits it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxsnn import network

# Returns the mean loss of a batch, and its gradient, from the weights, `[B, D]` spike
# times, `[B]` labels and the number of updates so far.
Gradient = Callable[
    [network.Params, jax.Array, jax.Array, jax.Array],
    tuple[jax.Array, network.Params],
]


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
    params: network.Params, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns these weights, with an optimizer that has seen nothing."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


class Outcome(NamedTuple):
    """What the output times of one example, or of each of a batch, amount to.

    Attributes:
      correct: whether the label spikes first; among ties the lowest index wins.
      among_first: whether none spikes before the label and some output spikes at all;
        a tie with the label counts as right where S4NN is published.
      tied: whether another output spikes at the same step as the first.
      silent: whether no output spikes before the forced spike at `T - 1`.
      margin: steps by which the label leads the next output; negative if it trails.
    """

    correct: jax.Array
    among_first: jax.Array
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
    Outcome(correct=Array(True, dtype=bool), among_first=Array(True, dtype=bool),
            tied=Array(True, dtype=bool), silent=Array(False, dtype=bool),
            margin=Array(0, dtype=int32))
    """
    chex.assert_rank([output_steps, label], [1, 0])
    first = output_steps.min()
    is_label = jnp.arange(len(output_steps)) == label
    others = jnp.where(is_label, num_steps, output_steps).min()
    return Outcome(
        correct=jnp.argmin(output_steps) == label,
        among_first=(output_steps[label] == first) & (first < num_steps - 1),
        tied=(output_steps == first).sum() > 1,
        silent=first == num_steps - 1,
        margin=others - output_steps[label],
    )


def check_batch(
    config: network.NetworkConfig, steps: jax.Array, labels: jax.Array
) -> None:
    """Raises ValueError unless a batch has the shapes and types that rules expect.

    Args:
      config: the network.
      steps: `[B, D]` integers.
      labels: `[B]` integers.
    """
    inputs = math.prod(config.input_shape)
    if steps.ndim != 2 or steps.shape[1] != inputs:
        raise ValueError(
            f"steps of shape {steps.shape} must be [B, {inputs}], one row an example"
        )
    if labels.shape != steps.shape[:1]:
        raise ValueError(
            f"labels of shape {labels.shape} for {len(steps)} examples; they must be "
            f"[{len(steps)}]"
        )
    for name, array in (("steps", steps), ("labels", labels)):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(
                f"{name} of type {array.dtype} must be integers; jaxsnn.coding.latency "
                "makes spike times of grey levels"
            )


def check_examples(
    config: network.NetworkConfig, steps: np.ndarray, labels: np.ndarray
) -> None:
    """Raises ValueError unless all examples are such as the network takes.

    Under `jit`, where values are not known, gradients check shapes and types alone
    (`check_batch`): call this once before training.

    Args:
      config: the network.
      steps: `[N, D]` spike times.
      labels: `[N]` classes.

    >>> config = network.NetworkConfig((4,), (network.Dense(2),), num_steps=8)
    >>> check_examples(config, np.array([[0, 1, 6, 9]]), np.array([1]))
    Traceback (most recent call last):
    ValueError: steps from 0 to 9 must lie in 0 .. 7
    """
    steps, labels = np.asarray(steps), np.asarray(labels)
    check_batch(config, steps, labels)  # type: ignore[arg-type]
    classes = config.shapes[-1][0]
    for name, array, most in (
        ("steps", steps, config.num_steps - 1),
        ("labels", labels, classes - 1),
    ):
        if array.size and not 0 <= array.min() <= array.max() <= most:
            raise ValueError(
                f"{name} from {array.min()} to {array.max()} must lie in 0 .. {most}"
            )


def relative_adam(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float = 0.01
) -> optax.GradientTransformation:
    """Returns Adam with steps relative to the size of the weights, and their decay.

    Only the ratio of weights and threshold matters to a spiking network, and it differs
    between layers with their numbers of inputs: relative steps suit all of them. The
    decay keeps weights small, so that a network waits for more spikes before it
    decides.

    Args:
      learning_rate: relative to the root mean square of each layer's weights.
      weight_decay: share of every weight, times the learning rate, that an update takes
        away.
    """
    return optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_param_block_rms(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


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


def shift(
    key: jax.Array,
    steps: jax.Array,
    image_shape: tuple[int, ...],
    radius: int,
    num_steps: int,
) -> jax.Array:
    """Moves each image of a batch by a random whole number of pixels.

    Args:
      key: a PRNG key; consumed.
      steps: `[B, H * W]` or `[B, H * W * C]` spike times, row by row.
      image_shape: `(H, W)` or `(H, W, C)`.
      radius: in pixels, in both directions; what enters from outside is silent.
      num_steps: `T`.

    Raises:
      ValueError: spike times that are not those of such images.

    >>> shift(jax.random.key(0), jnp.array([[0, 5, 9, 2]]), (2, 2), 0, num_steps=10)
    Array([[0, 5, 9, 2]], dtype=int32)
    """
    images = _as_images(steps, image_shape)
    around = ((0, 0), (radius, radius), (radius, radius), (0, 0))
    padded = jnp.pad(images, around, constant_values=num_steps - 1)
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * radius + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(crop)(padded, corners).reshape(steps.shape)


def mirror(key: jax.Array, steps: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Mirrors each image of a batch, left to right, with a probability of a half.

    Args:
      key: a PRNG key; consumed.
      steps: `[B, H * W]` or `[B, H * W * C]` spike times, row by row.
      image_shape: `(H, W)` or `(H, W, C)`.

    Raises:
      ValueError: spike times that are not those of such images.

    >>> mirror(jax.random.key(0), jnp.array([[5, 5, 2, 2]]), (2, 2)).tolist()
    [[5, 5, 2, 2]]
    """
    images = _as_images(steps, image_shape)
    is_mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(is_mirrored, images[:, :, ::-1], images).reshape(steps.shape)


def _as_images(steps: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Returns `[B, H, W, C]`."""
    if len(image_shape) not in (2, 3) or steps.shape[1:] != (math.prod(image_shape),):
        raise ValueError(
            f"steps of shape {steps.shape} are not images of shape {image_shape}; they "
            "must be [B, H * W] or [B, H * W * C]"
        )
    return steps.reshape(len(steps), *image_shape[:2], -1)


def brighten(
    key: jax.Array, steps: jax.Array, amount: float, num_steps: int
) -> jax.Array:
    """Makes each example of a batch brighter or darker, all its inputs alike.

    The time from a spike to the end, which stands for the value of an input, is
    multiplied by `exp(u)` with one `u` an example, uniform in `+-amount`.

    Args:
      key: a PRNG key; consumed.
      steps: `[B, D]` spike times, whole numbers in `0 .. T-1`.
      amount: not negative.
      num_steps: `T`; results are clipped to `0 .. T-1`.

    >>> brighten(jax.random.key(0), jnp.array([[0, 5, 9]]), amount=0.0, num_steps=10)
    Array([[0, 5, 9]], dtype=int32)
    """
    last = num_steps - 1
    factors = jnp.exp(
        jax.random.uniform(key, (len(steps), 1), minval=-amount, maxval=amount)
    )
    moved = last - jnp.round((last - steps).astype(jnp.float32) * factors)
    return jnp.maximum(moved, 0).astype(steps.dtype)


def over_devices(
    gradient: Gradient,
    mesh: Mesh,
    reduce: Callable[..., network.Params] = jax.lax.pmean,
) -> Gradient:
    """Returns the same learning rule, with every batch shared out to devices.

    Each device learns from an equal part of the batch; gradients and loss are all that
    they exchange. Sums are taken in another order than on one device, so that
    training agrees up to rounding.

    Args:
      gradient: the learning rule.
      mesh: the devices; batches must be multiples of their number.
      reduce: how gradients of parts combine, `jax.lax.pmean` where that of a batch is
        a mean (`jaxsnn.temporal_margin`), `jax.lax.psum` where it is a sum
        (`jaxsnn.s4nn`).

    >>> from jaxsnn import temporal_margin
    >>> config = network.NetworkConfig((4,), (network.Dense(2),), num_steps=8)
    >>> gradient = temporal_margin.gradient(config, temporal_margin.TemporalMargin())
    >>> mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    >>> params = network.init(jax.random.key(0), config)
    >>> batch = jnp.array([[0, 1, 6, 7], [7, 6, 1, 0]]), jnp.array([0, 1]), jnp.int32(0)
    >>> loss, _ = over_devices(gradient, mesh)(params, *batch)
    >>> bool(jnp.isclose(loss, gradient(params, *batch)[0]))
    True
    """
    axes = mesh.axis_names
    everywhere, shared = PartitionSpec(), PartitionSpec(axes)

    def of_part(
        params: network.Params,
        steps: jax.Array,
        labels: jax.Array,
        num_updates: jax.Array,
    ) -> tuple[jax.Array, network.Params]:
        loss, slope = gradient(params, steps, labels, num_updates)
        return jax.lax.pmean(loss, axes), reduce(slope, axes)

    return jax.shard_map(
        of_part,
        mesh=mesh,
        in_specs=(everywhere, shared, shared, everywhere),
        out_specs=(everywhere, everywhere),
        # Sums over examples begin with zeros, which are the same on all devices.
        check_vma=False,
    )


# Alters `[B, D]` spike times at random, by a key.
Augment = Callable[[jax.Array, jax.Array], jax.Array]

Update = Callable[
    [TrainState, jax.Array, jax.Array, jax.Array], tuple[TrainState, jax.Array]
]


def make_update(
    gradient: Gradient,
    optimizer: optax.GradientTransformation,
    augment: Augment | None = None,
) -> Update:
    """Returns the function that learns from one batch.

    Args:
      gradient: the learning rule.
      optimizer: an optax transformation.
      augment: what is done to the inputs first, such as `jitter` or `shift` with all
        but the key and the spike times bound; the network learns to be indifferent
        to it.

    Returns:
      `update(state, key, steps, labels)` of `[B, D]` integer spike times and `[B]`
      labels, returning the new state and the mean loss before it. Not jitted.

    >>> from jaxsnn import temporal_margin
    >>> config = network.NetworkConfig((4,), (network.Dense(2),), num_steps=8)
    >>> gradient = temporal_margin.gradient(config, temporal_margin.TemporalMargin())
    >>> optimizer = optax.adam(0.01)
    >>> state = initial_state(network.init(jax.random.key(0), config), optimizer)
    >>> update = jax.jit(make_update(gradient, optimizer))
    >>> steps, labels = jnp.array([[0, 1, 6, 7], [7, 6, 1, 0]]), jnp.array([0, 1])
    >>> losses = []
    >>> for key in jax.random.split(jax.random.key(1), 40):
    ...     state, loss = update(state, key, steps, labels)
    ...     losses.append(float(loss))
    >>> losses[-1] < losses[0]
    True
    """

    def update(
        state: TrainState, key: jax.Array, steps: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        if augment is not None:
            steps = augment(key, steps)
        loss, slope = gradient(state.params, steps, labels, state.num_updates)
        # Optax mixes integer counts and floats, whatever the caller has forbidden.
        with jax.numpy_dtype_promotion("standard"):
            changes, optimizer_state = optimizer.update(
                slope, state.optimizer_state, state.params
            )
        params = optax.apply_updates(state.params, changes)
        return TrainState(params, optimizer_state, state.num_updates + 1), loss

    return update
