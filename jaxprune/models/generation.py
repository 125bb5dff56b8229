"""Text continued token by token, with keys and values of earlier tokens kept."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.models.decoder_network import Decoder
from jaxprune.models.text import Text

Array = jax.Array


def greedy(
    module: Decoder,
    variables: Mapping[str, Any],
    text: Text,
    num_tokens: int,
    *,
    end_ids: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Array:
    """Returns the most likely continuation, token by token.

    Pure, to be jitted by the caller with `module`, `num_tokens` and `end_ids` static.

    Args:
        module: of the depth of `variables`.
        variables: its parameters.
        text: what to continue, padded on either side.
        num_tokens: how many tokens to add.
        end_ids: tokens that end a text.
        pad_id: stands after the end.

    Returns:
        `[B, num_tokens]` int32.
    """
    length = text.token_ids.shape[1]
    mask = jnp.pad(jnp.asarray(text.mask), ((0, 0), (0, num_tokens)))
    last = length - 1 - jnp.argmax(text.mask[:, ::-1], axis=1)

    def run(cache: Any, tokens: Array, mask: Array, write_at: Any, at: Any) -> Any:
        logits, cache = module.apply(
            {**variables, **cache},
            Text(tokens, mask),
            write_at,
            at,
            mutable=["cache"],
        )
        return jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32), cache

    def step(carry: Any, slot: Array) -> tuple[Any, Array]:
        token, ended, mask, cache = carry
        shown = jnp.where(ended, jnp.int32(pad_id), token)
        for end in end_ids:
            ended |= token == end
        mask = mask.at[:, slot].set(1)
        token, cache = run(cache, shown[:, None], mask, slot, None)
        return (token, ended, mask, cache), shown

    token, cache = run({}, jnp.asarray(text.token_ids), mask, 0, last)
    carry = (token, jnp.zeros(len(token), bool), mask, cache)
    slots = jnp.arange(length, length + num_tokens)
    return jax.lax.scan(step, carry, slots)[1].T
