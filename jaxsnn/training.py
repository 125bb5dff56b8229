"""The frame of training: state, update by a batch, and what outputs amount to.

The pieces are pure functions. A learning rule is a function that returns a gradient:
`jaxsnn.temporal_margin.gradient` or `jaxsnn.s4nn.gradient`. The caller owns the loop
over batches and jits it.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
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
    image_shape: tuple[int, int],
    radius: int,
    num_steps: int,
) -> jax.Array:
    """Moves each image of a batch by a random whole number of pixels.

    Args:
      key: a PRNG key; consumed.
      steps: `[B, H * W]` spike times, row by row.
      image_shape: `(H, W)`.
      radius: in pixels, in both directions; what enters from outside is silent.
      num_steps: `T`.

    >>> shift(jax.random.key(0), jnp.array([[0, 5, 9, 2]]), (2, 2), 0, num_steps=10)
    Array([[0, 5, 9, 2]], dtype=int32)
    """
    height, width = image_shape
    images = steps.reshape(-1, height, width)
    around = ((0, 0), (radius, radius), (radius, radius))
    padded = jnp.pad(images, around, constant_values=num_steps - 1)
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * radius + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1]), image_shape)

    return jax.vmap(crop)(padded, corners).reshape(steps.shape)


def mirror(key: jax.Array, steps: jax.Array, image_shape: tuple[int, int]) -> jax.Array:
    """Mirrors each image of a batch, left to right, with a probability of a half.

    Args:
      key: a PRNG key; consumed.
      steps: `[B, H * W]` spike times, row by row.
      image_shape: `(H, W)`.

    >>> mirror(jax.random.key(0), jnp.array([[5, 5, 2, 2]]), (2, 2)).tolist()
    [[5, 5, 2, 2]]
    """
    images = steps.reshape(-1, *image_shape)
    is_mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1))
    return jnp.where(is_mirrored, images[:, :, ::-1], images).reshape(steps.shape)


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
    >>> import numpy as np
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
