"""Keys and values of the tokens so far, kept from step to step of generation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def write(
    module: nn.Module, name: str, new: Array, num_slots: int, at: Array | int
) -> Array:
    """Writes into the collection `cache` of a module, and returns all that it holds.

    Args:
        module: inside its compact call.
        name: of the variable.
        new: `[B, S, H, D]` keys or values of S tokens.
        num_slots: tokens that there is room for.
        at: slot of the first of them.

    Returns:
        `[B, num_slots, H, D]`, zero where nothing was written yet.
    """
    shape = (new.shape[0], num_slots, *new.shape[2:])
    kept = module.variable("cache", name, jnp.zeros, shape, new.dtype)
    kept.value = jax.lax.dynamic_update_slice_in_dim(kept.value, new, at, axis=1)
    return kept.value
