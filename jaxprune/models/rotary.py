"""Rotary positions: queries and keys turned by angles that grow with their position.

Su et al., 2021, https://arxiv.org/abs/2104.09864. The two coordinates that turn
together are half a head apart, as in the checkpoints of Hugging Face.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.models import huggingface

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Rotary:
    """How fast the pairs of coordinates turn.

    Attributes:
        theta: base of the wavelengths.
        factor: slows turning down by so much, to reach longer contexts.
        band: None if all pairs are slowed down. Else `(low, high, context)`: a pair
            that turns fewer than `low` times in `context` positions is slowed down, one
            that turns more than `high` times is not, and between them it is in between,
            as in Llama 3.1.
    """

    theta: float = 10000.0
    factor: float = 1.0
    band: tuple[float, float, int] | None = None

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Returns the angle per position of each pair, `[head_dim / 2]` float32.

        >>> Rotary(theta=100.0).frequencies(4).round(2).tolist()
        [1.0, 0.10000000149011612]
        """
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        fast = self.theta**-exponents
        slow = fast / self.factor
        if self.band is None:
            return slow.astype(np.float32)
        low, high, context = self.band
        turns = context * fast / (2 * math.pi)
        share = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return ((1 - share) * slow + share * fast).astype(np.float32)

    def rotate(self, x: Array, positions: Array) -> Array:
        """Returns queries or keys turned to their positions.

        Args:
            x: `[B, S, heads, head_dim]`.
            positions: `[B, S]` integers.
        """
        frequencies = self.frequencies(x.shape[-1])[None, None, None]
        angles = positions[:, :, None, None].astype(jnp.float32) * frequencies
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        turned = [first * cos - second * sin, second * cos + first * sin]
        return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def from_hf(config: Mapping[str, Any]) -> Rotary:
    """Returns what a `config.json` says, in the way of transformers 5 or before it.

    Raises:
        ValueError: for a kind of scaling that is not done here.
    """
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    told = {**scaling, "rope_type": kind}
    allowed = {
        "rope_type": ("default", "linear", "llama3"),
        "partial_rotary_factor": (1.0,),
    }
    huggingface.require(told, allowed)
    told = {"rope_theta": scaling.get("rope_theta", config.get("rope_theta"))}
    theta = huggingface.number(told, "rope_theta", 10000.0)
    if kind == "default":
        return Rotary(theta)
    factor = huggingface.number(scaling, "factor")
    if kind == "linear":
        return Rotary(theta, factor)
    context = scaling.get("original_max_position_embeddings")
    band = (
        huggingface.number(scaling, "low_freq_factor"),
        huggingface.number(scaling, "high_freq_factor"),
        int(context or huggingface.size(config, "max_position_embeddings")),
    )
    return Rotary(theta, factor, band)
