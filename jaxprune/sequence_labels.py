"""Labels of every position of a sequence: what they cost, and which are right.

Logits are `[B, T, V]`, labels `[B, T]`; positions whose label is `IGNORED` (or any
negative number) do not count. Both functions that judge are told what was to be written
before each position. That is enough for whole sequences: one is written word for word
by greedy decoding exactly if each of its positions is right given those before it.
"""

import jax
import jax.numpy as jnp
import optax

Array = jax.Array

IGNORED = -100  # as PyTorch has it


def counts(labels: Array) -> Array:
    """Returns `[B, T]` booleans, True for positions that count.

    >>> counts(jnp.array([[7, 1, IGNORED]])).tolist()
    [[True, True, False]]
    """
    return labels >= 0


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Returns the mean over the positions of a batch that count; natural logarithm.

    >>> labels = jnp.array([[1, IGNORED], [0, 3]])
    >>> round(float(cross_entropy(jnp.zeros((2, 2, 4)), labels)), 4)
    1.3863
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(labels, 0)
    )
    return jnp.sum(jnp.where(counts(labels), losses, 0.0)) / _number(labels)


def right_tokens(logits: Array, labels: Array) -> Array:
    """Returns `[B, T]` booleans: the top word is the label, at positions that count.

    >>> labels = jnp.array([[1, IGNORED], [0, 3]])
    >>> right_tokens(jax.nn.one_hot(jnp.array([[1, 1], [0, 2]]), 4), labels).tolist()
    [[True, False], [True, False]]
    """
    return counts(labels) & (jnp.argmax(logits, axis=-1) == labels)


def token_accuracy(logits: Array, labels: Array) -> Array:
    """Returns the share of the positions that count whose top word is the label."""
    return jnp.sum(right_tokens(logits, labels), dtype=jnp.float32) / _number(labels)


def exact_match(logits: Array, labels: Array) -> Array:
    """Returns `[B]` booleans: all positions that count are right.

    >>> labels = jnp.array([[1, IGNORED], [0, 3]])
    >>> exact_match(jax.nn.one_hot(jnp.array([[1, 1], [0, 2]]), 4), labels).tolist()
    [True, False]
    """
    return jnp.all(right_tokens(logits, labels) | ~counts(labels), axis=-1)


def _number(labels: Array) -> Array:
    """Returns how many positions count, at least one."""
    return jnp.maximum(jnp.sum(counts(labels), dtype=jnp.float32), 1.0)
