"""Delays of synapses, static, and responses to spikes of known age."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.sat.response import Response, by_age


@dataclasses.dataclass(frozen=True)
class Delays:
    """Delays of the synapses of a layer, hashable; see `Delays.of`.

    Attributes:
      shape: that of the weights in `Params`.
      data: bytes of the delays, little-endian int16.
    """

    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, steps: np.ndarray) -> "Delays":
        """Returns whole steps, `[N, D]` or `[F, KH * KW * C]`, as static delays.

        Raises:
          ValueError: steps that are not integers in `0 .. 32767`.

        >>> Delays.of(np.array([[0, 2]])).steps
        array([[0, 2]], dtype=int32)
        """
        steps = np.asarray(steps)
        if steps.dtype.kind not in "iu" or not 0 <= steps.min() <= steps.max() < 2**15:
            raise ValueError(
                f"delays of type {steps.dtype} from {steps.min()} to {steps.max()}; "
                "they must be integers from 0 to 32767"
            )
        return cls(steps.shape, np.ascontiguousarray(steps, "<i2").tobytes())

    @property
    def steps(self) -> np.ndarray:
        """The delays, int32."""
        return np.frombuffer(self.data, "<i2").reshape(self.shape).astype(np.int32)


def responses(response: Response, ages: jax.Array, num_steps: int) -> jax.Array:
    """Returns `kappa` of integer ages, `T - 1` at most, as float32.

    >>> responses((2, 1, 0), jnp.array([-1, 0, 1, 5]), num_steps=8)
    Array([0., 2., 1., 0.], dtype=float32)
    """
    table = jnp.asarray(by_age(response, num_steps))
    return table[jnp.maximum(ages, -num_steps) + num_steps]


def by_delay(
    weights: jax.Array, delays: Delays | None
) -> Iterator[tuple[int, jax.Array]]:
    """Yields each delay, and the weights with zeros at all synapses of others."""
    if delays is None:
        yield 0, weights
        return
    steps = delays.steps
    for delay in np.unique(steps).tolist():
        yield delay, jnp.where(steps == delay, weights, 0)
