"""What spikes do to potentials, at samples of time.

The gradient of a weight by spike times is summed example by example, in place: with
many inputs, the spikes of all examples at all samples would be a matrix too large to
hold.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.example_sums import sum_examples
from jaxsnn.sat.response import Response, by_age

# Multiplications per example above which gathering pays on a CPU (measured).
_MANY_MULTIPLICATIONS = 2**17


def effects_between(
    samples: jax.Array, response: Response, delay: int, num_steps: int
) -> jax.Array:
    """Returns what "spiked by sample `h`" adds to a potential at sample `g`.

    A spike that is first seen at one sample may lie anywhere after the one before. It
    counts as spread evenly over the steps between, by the mean response. With a sample
    of each step that is the response itself.

    Args:
      samples: `[G]` steps, ascending.
      response: to each spike.
      delay: of the synapse, in steps.
      num_steps: `T`, above every sample.

    Returns:
      `[G, G]` float32: the effect of a spike seen first at `h`, less that of one seen
      first at the sample after it.

    >>> effects_between(jnp.array([0, 1, 2]), (2, 1), 0, 8).tolist()
    [[2.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [0.0, -1.0, 2.0]]
    >>> effects_between(jnp.array([1, 3]), (1, 2, 3, 4), 0, 8).tolist()
    [[1.5, 0.0], [2.0, 1.5]]
    """
    kappa = by_age(response, num_steps)[num_steps:]
    summed = jnp.asarray(np.append(0, np.cumsum(kappa)), jnp.float32)

    def sum_until(steps: jax.Array) -> jax.Array:
        """Sums responses at each sample to a spike in every step after `steps`."""
        ages = samples[:, None] - steps[None] - delay
        return summed[jnp.clip(ages, 0, num_steps)]

    before = jnp.pad(samples[:-1], (1, 0), constant_values=-1)
    between = (samples - before).astype(jnp.float32)
    effects = (sum_until(before) - sum_until(samples)) / between[None]
    return effects - jnp.pad(effects[:, 1:], ((0, 0), (0, 1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def sampled_potentials(
    weights: jax.Array, arrivals: jax.Array, num_samples: int
) -> jax.Array:
    """Returns the potentials of a batch at every sample of time.

    Args:
      weights: `[N, D]`.
      arrivals: `[B, D]` int32, the first sample that sees each input's spike, `G` if
        none does.
      num_samples: `G`.

    Returns:
      `[B, G, N]`: the sum of the weights of all inputs that have spiked.

    >>> sampled_potentials(jnp.array([[2.0, -1.5]]), jnp.array([[1, 2]]), 4)[0, :, 0]
    Array([0. , 2. , 0.5, 0.5], dtype=float32)
    """
    chex.assert_rank([weights, arrivals], 2)
    chex.assert_equal_shape_suffix([weights, arrivals], 1)
    precision = jax.lax.Precision.HIGHEST

    def arrive(sums: jax.Array, sample: jax.Array) -> tuple[jax.Array, jax.Array]:
        arrived = (arrivals == sample).astype(weights.dtype)
        sums += jnp.matmul(arrived, weights.T, precision=precision)
        return sums, sums

    start = jnp.zeros((arrivals.shape[0], weights.shape[0]), weights.dtype)
    clock = jnp.arange(num_samples, dtype=arrivals.dtype)
    return jnp.moveaxis(jax.lax.scan(arrive, start, clock)[1], 0, 1)


def _sampled_potentials_forward(
    weights: jax.Array, arrivals: jax.Array, num_samples: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return sampled_potentials(weights, arrivals, num_samples), (weights, arrivals)


def _sampled_potentials_backward(
    num_samples: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, None]:
    """Gives each weight what its input's spike has contributed to, from then on."""
    weights, arrivals = residuals
    from_then_on = jax.lax.cumsum(cotangent, axis=1, reverse=True)

    def add_sample(
        total: jax.Array, sample: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        from_then_on, index = sample
        return total + jnp.matmul(
            (arrivals == index).T.astype(total.dtype), from_then_on
        ), None

    zeros = jnp.zeros_like(weights.T)
    many = weights.size * num_samples > _MANY_MULTIPLICATIONS
    if many and jax.default_backend() == "cpu":
        # A last row for spikes that no sample sees.
        from_then_on = jnp.pad(from_then_on, ((0, 0), (0, 1), (0, 0)))
        gradient = sum_examples(
            lambda from_then_on, arrivals: from_then_on[arrivals],
            zeros,
            from_then_on,
            arrivals,
        )
    else:
        clock = jnp.arange(num_samples, dtype=arrivals.dtype)
        by_sample = (jnp.moveaxis(from_then_on, 1, 0), clock)
        gradient = jax.lax.scan(add_sample, zeros, by_sample)[0]
    return gradient.T, None


sampled_potentials.defvjp(_sampled_potentials_forward, _sampled_potentials_backward)
