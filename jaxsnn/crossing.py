"""Whether neurons have crossed their threshold yet, differentiable by potential.

The highest potential so far decides. Its derivative is bell-shaped around the threshold
(a surrogate: the true one is zero almost everywhere), and belongs to the sample of time
that reached it.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def crossed(potentials: jax.Array, threshold: jax.Array, width: float) -> jax.Array:
    """Returns whether each neuron has crossed its threshold by each sample.

    Args:
      potentials: `[B, G, N]`, by `G` samples of time.
      threshold: scalar, positive; it is learned by no gradient.
      width: distance from the threshold, as a fraction of it, at which the derivative
        has fallen to a quarter.

    Returns:
      `[B, G, N]` 0 or 1, of the type of the potentials.

    >>> crossed(jnp.array([[[0.5], [1.5], [0.0]]]), jnp.float32(1), 0.3)[0, :, 0]
    Array([0., 1., 1.], dtype=float32)
    """
    highest = jax.lax.cummax(potentials, axis=1)
    return (highest > threshold).astype(potentials.dtype)


def _forward(
    potentials: jax.Array, threshold: jax.Array, width: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return crossed(potentials, threshold, width), (potentials, threshold)


def _backward(
    width: float, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gives each sample's share to the one with the highest potential so far."""
    potentials, threshold = residuals
    highest = jax.lax.cummax(potentials, axis=1)
    distance = jnp.abs(highest - threshold) / (width * threshold)
    slope = 1 / (threshold * (1 + distance) ** 2)
    share = cotangent * slope
    before = jnp.roll(highest, 1, axis=1).at[:, 0].set(-jnp.inf)
    is_record = potentials > before

    def collect(
        owed: jax.Array, sample: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        share, is_record = sample
        owed += share
        return jnp.where(is_record, 0, owed), jnp.where(is_record, owed, 0)

    by_sample = (jnp.moveaxis(share, 1, 0), jnp.moveaxis(is_record, 1, 0))
    start = jnp.zeros_like(share[:, 0])
    paid = jax.lax.scan(collect, start, by_sample, reverse=True)[1]
    return jnp.moveaxis(paid, 0, 1), jnp.zeros_like(threshold)


crossed.defvjp(_forward, _backward)
