import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import recover, sequence_labels

LABELS = jnp.array([[2, 0, -100], [1, -100, -100], [0, 1, 2]])


def some_logits():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 4)), jnp.float32)


def test_loss_is_the_mean_over_what_counts():
    rows, columns = np.nonzero(np.asarray(LABELS) >= 0)
    expected = recover.cross_entropy(
        some_logits()[rows, columns], LABELS[rows, columns]
    )
    loss = sequence_labels.cross_entropy(some_logits(), LABELS)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    nothing = jnp.full((1, 2), sequence_labels.IGNORED)
    assert sequence_labels.cross_entropy(some_logits()[:1, :2], nothing) == 0


def test_tokens_and_sequences_that_are_right():
    tops = jnp.array([[2, 0, 3], [1, 0, 0], [0, 2, 2]])
    logits = some_logits() + 10 * jax.nn.one_hot(tops, 4)
    assert sequence_labels.right_tokens(logits, LABELS).tolist() == [
        [True, True, False],
        [True, False, False],
        [True, False, True],
    ]
    assert sequence_labels.exact_match(logits, LABELS).tolist() == [True, True, False]
    accuracy = sequence_labels.token_accuracy(logits, LABELS)
    np.testing.assert_allclose(accuracy, 5 / 6, rtol=1e-6)
