"""What a T5 writes: token by token, keys and values of earlier tokens kept."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.models import beam_search as search
from jaxprune.models.t5_network import T5
from jaxprune.models.text import Text, token_mask

Array = jax.Array
Variables = Mapping[str, Any]


def greedy(module: T5, variables: Variables, text: Text, length: int) -> Array:
    """Returns what takes the likeliest token each time, `[B, length]` int32.

    Pure, to be jitted by the caller with `module` and `length` static.

    Args:
        module: of the depth of `variables`.
        variables: its parameters.
        text: what is read.
        length: tokens written at most, the one that ends a sequence included.

    Raises:
        ValueError: if there is no room for a token.
    """
    step_fn, cache = _start(module, variables, text, length)
    return search.greedy(step_fn, cache, len(text.token_ids), _tokens(module, length))


def beam_search(
    module: T5,
    variables: Variables,
    text: Text,
    length: int,
    *,
    num_beams: int,
    length_penalty: float = 1.0,
    stopping: search.Stopping = search.Stopping.HEURISTIC,
) -> search.Hypotheses:
    """Returns the best sequences that are found with `num_beams` at a time.

    Pure, to be jitted by the caller with all but `variables` and `text` static.

    Args:
        module: of the depth of `variables`.
        variables: its parameters.
        text: what is read.
        length: tokens written at most, the one that ends a sequence included.
        num_beams: K, sequences at a time.
        length_penalty: see `jaxprune.models.beam_search`.
        stopping: when to stop.

    Raises:
        ValueError: if there are no beams, or there is no room for a token.
    """
    step_fn, cache = _start(module, variables, text, length, num_beams)
    return search.beam_search(
        step_fn,
        _take,
        cache,
        len(text.token_ids),
        _tokens(module, length),
        num_beams=num_beams,
        length_penalty=length_penalty,
        stopping=stopping,
    )


def _tokens(module: T5, length: int) -> search.Tokens:
    config = module.config
    return search.Tokens(config.start_id, config.end_id, config.pad_id, length)


def _start(
    module: T5, variables: Variables, text: Text, length: int, repeats: int = 1
) -> tuple[search.StepFn, Any]:
    """Returns the step function, and the cache before the first token.

    Each example is repeated in neighbouring rows.
    """
    if length < 1 or repeats < 1:
        raise ValueError(f"{length=} and num_beams={repeats} must be positive")
    mask = jnp.asarray(token_mask(text))
    source: Any = module.apply(variables, text.token_ids, mask, method="encode")

    def write(cache: Any, tokens: Array, step: Array, *source: Array) -> Any:
        return module.apply(
            {**variables, **cache},
            tokens,
            step,
            *source,
            length,
            method="write",
            mutable=["cache"],
        )

    first = jnp.full(len(mask), module.config.start_id, jnp.int32)
    _, cache = write({}, first, jnp.int32(0), source, mask)
    # Of this run, only what was computed of the source is kept.
    cache = jax.tree.map_with_path(
        lambda path, x: x if _is_of_source(path) else jnp.zeros_like(x), cache
    )
    cache = jax.tree.map(lambda x: jnp.repeat(x, repeats, x.ndim - 4), cache)
    source, mask = (jnp.repeat(x, repeats, 0) for x in (source, mask))
    return lambda cache, tokens, step: write(cache, tokens, step, source, mask), cache


def _is_of_source(path: Any) -> bool:
    return str(path[-1].key).startswith("source_")


def _take(cache: Any, rows: Array) -> Any:
    # Rows are of the same example, so that what is of the source can stay. Arrays are
    # `[B, S, H, D]`, after the blocks if those are scanned.
    return jax.tree.map_with_path(
        lambda path, x: x if _is_of_source(path) else x.take(rows, axis=x.ndim - 4),
        cache,
    )
