"""The likeliest sequences, found with a fixed number of unfinished ones at a time.

Works with any model that tells the next token from what it keeps of those before. The
loop is `jax.lax.while_loop`, so that a search can be jitted as a whole; it decides as
the one of Hugging Face's transformers does.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# (what is kept, tokens `[N]` written last, how many were written before them)
# -> (logits `[N, V]` of the next token, what is kept).
StepFn = Callable[[Any, Array, Array], tuple[Array, Any]]

# (what is kept, rows `[N]`) -> what is kept, of these rows.
TakeFn = Callable[[Any, Array], Any]


class Tokens(NamedTuple):
    """Tokens with a meaning, and how many are written at most."""

    start_id: int  # stands before the first
    end_id: int  # ends a sequence
    pad_id: int  # stands after the end
    length: int  # written at most, the end included


class Stopping(enum.Enum):
    """When the search of an example ends before `Tokens.length`.

    Attributes:
        HEURISTIC: when the best unfinished sequence, as long as it is, scores below all
            finished ones (`early_stopping=False` of transformers).
        FULL: as that, or when as many are finished as there are beams (`True`).
        BOUND: when the best unfinished sequence would score below all finished ones
            even at full length, without any further loss (`"never"`).
    """

    HEURISTIC = enum.auto()
    FULL = enum.auto()
    BOUND = enum.auto()


class Hypotheses(NamedTuple):
    """Finished sequences of each example, the best first.

    Attributes:
        tokens: `[B, K, L]` int32, filled up after the end.
        scores: `[B, K]` float32: log-probability divided by length to the power of
            the penalty; -inf where there is no sequence.
    """

    tokens: Array
    scores: Array


class _Beams(NamedTuple):
    """The search of one example; K sequences are unfinished, up to K are finished."""

    tokens: Array  # [K, L]
    scores: Array  # [K], log-probabilities
    done: Hypotheses  # [K, L] and [K]
    is_open: Array  # [], whether finished sequences may still be added


def greedy(step_fn: StepFn, kept: Any, num_rows: int, tokens: Tokens) -> Array:
    """Returns the sequences `[N, L]` int32 that take the likeliest token each time.

    Args:
        step_fn: the model.
        kept: what it needs for the first token.
        num_rows: N, of the sequences.
        tokens: the meaning of tokens, and the greatest length L.
    """

    def unfinished(carry: Any) -> Array:
        step, _, _, ended, _ = carry
        return (step < tokens.length) & ~jnp.all(ended)

    def advance(carry: Any) -> Any:
        step, last, kept, ended, written = carry
        logits, kept = step_fn(kept, last, step)
        top = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        last = jnp.where(ended, jnp.int32(tokens.pad_id), top)
        written = jax.lax.dynamic_update_index_in_dim(written, last, step, axis=1)
        return step + 1, last, kept, ended | (last == tokens.end_id), written

    start = jnp.full(num_rows, tokens.start_id, jnp.int32)
    written = jnp.full((num_rows, tokens.length), tokens.pad_id, jnp.int32)
    carry = (jnp.int32(0), start, kept, jnp.zeros(num_rows, bool), written)
    return jax.lax.while_loop(unfinished, advance, carry)[-1]


def beam_search(
    step_fn: StepFn,
    take_fn: TakeFn,
    kept: Any,
    num_examples: int,
    tokens: Tokens,
    *,
    num_beams: int,
    length_penalty: float = 1.0,
    stopping: Stopping = Stopping.HEURISTIC,
) -> Hypotheses:
    """Returns the best sequences that are found with `num_beams` at a time.

    Args:
        step_fn: the model; its rows are those of the first example's beams, then the
            second's, and so on.
        take_fn: takes rows of what the model keeps.
        kept: what it needs for the first token, of `num_examples * num_beams` rows.
        num_examples: B, of the batch.
        tokens: the meaning of tokens, and the greatest length.
        num_beams: K, sequences at a time.
        length_penalty: scores are divided by the length to this power; above 0 favours
            long sequences, as log-probabilities are negative.
        stopping: when to stop.

    Raises:
        ValueError: if there are no beams or no tokens.
    """
    if num_beams < 1 or tokens.length < 1:
        raise ValueError(f"{num_beams=} and length={tokens.length} must be positive")
    norms = np.arange(1, tokens.length + 1, dtype=np.float64) ** length_penalty
    longest = norms[-1] if length_penalty > 0 else None

    def unfinished(carry: Any) -> Array:
        step, _, beams, _ = carry
        return (step < tokens.length) & jnp.any(beams.is_open)

    def advance(carry: Any) -> Any:
        step, last, beams, kept = carry
        logits, kept = step_fn(kept, last.reshape(-1), step)
        logits = logits.reshape(num_examples, num_beams, -1).astype(jnp.float32)
        norm = jnp.asarray(norms, jnp.float32)[step]
        bound = norm
        if stopping is Stopping.BOUND and longest is not None:
            bound = jnp.float32(longest)
        beams, parents = jax.vmap(_advance, (0, 0, None, None, None, None, None))(
            logits, beams, step, norm, bound, tokens, stopping
        )
        first = num_beams * jnp.arange(num_examples, dtype=jnp.int32)
        kept = take_fn(kept, (first[:, None] + parents).reshape(-1))
        last = jax.lax.dynamic_index_in_dim(beams.tokens, step, 2, keepdims=False)
        return step + 1, last, beams, kept

    beams = jax.tree.map(
        lambda x: jnp.broadcast_to(x[None], (num_examples, *x.shape)),
        _start(num_beams, tokens),
    )
    last = jnp.full((num_examples, num_beams), tokens.start_id, jnp.int32)
    carry = (jnp.int32(0), last, beams, kept)
    return jax.lax.while_loop(unfinished, advance, carry)[2].done


def _start(num_beams: int, tokens: Tokens) -> _Beams:
    nothing = jnp.full((num_beams, tokens.length), tokens.pad_id, jnp.int32)
    none = jnp.full(num_beams, -jnp.inf)
    # All beams are the same at first: one of them goes on.
    return _Beams(
        nothing, none.at[0].set(0.0), Hypotheses(nothing, none), jnp.bool(True)
    )


def _advance(
    logits: Array,
    beams: _Beams,
    step: Array,
    norm: Array,
    bound: Array,
    tokens: Tokens,
    stopping: Stopping,
) -> tuple[_Beams, Array]:
    """Adds a token to the beams of one example; returns the beams they come from too.

    Args:
        logits: `[K, V]` of the next token.
        beams: so far.
        step: how many tokens they have.
        norm: what log-probabilities are divided by at the new length.
        bound: the same at the length that an unfinished sequence is judged by.
        tokens: the meaning of tokens.
        stopping: when to stop.
    """
    num_beams, num_words = logits.shape
    scores = beams.scores[:, None] + jax.nn.log_softmax(logits)
    # Each beam may end, and K that do not are wanted besides.
    scores, places = jax.lax.top_k(scores.reshape(-1), 2 * num_beams)
    parents, words = places // num_words, (places % num_words).astype(jnp.int32)
    written = jax.lax.dynamic_update_index_in_dim(
        beams.tokens[parents], words, step, axis=1
    )
    ended = (words == tokens.end_id) | (step + 1 == tokens.length)

    among_best = jnp.arange(2 * num_beams) < num_beams
    final = jnp.where(ended & among_best & beams.is_open, scores / norm, -jnp.inf)
    merged = Hypotheses(
        jnp.concatenate([beams.done.tokens, written]),
        jnp.concatenate([beams.done.scores, final]),
    )
    best, chosen = jax.lax.top_k(merged.scores, num_beams)
    done = Hypotheses(merged.tokens[chosen], best)

    scores, chosen = jax.lax.top_k(jnp.where(ended, -jnp.inf, scores), num_beams)
    is_full = best[-1] > -jnp.inf
    is_open = beams.is_open & ((scores[0] / bound > best[-1]) | ~is_full)
    if stopping is Stopping.FULL:
        is_open &= ~is_full
    return _Beams(written[chosen], scores, done, is_open), parents[chosen]
