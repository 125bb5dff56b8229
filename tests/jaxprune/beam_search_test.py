import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.models import beam_search

WORDS, LENGTH, EXAMPLES = 3, 4, 2
TOKENS = beam_search.Tokens(start_id=0, end_id=1, pad_id=7, length=LENGTH)
Stopping = beam_search.Stopping


def tables(seed, words=WORDS):
    """Logits of the next word for every history of every example."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(EXAMPLES, words**LENGTH, words)).astype(np.float32) * 2


def model(table, repeats):
    """A network that knows all of what was written, as a number in base `words`."""
    words = table.shape[-1]
    examples = jnp.repeat(jnp.arange(EXAMPLES), repeats)
    logits = jnp.asarray(table)

    def step_fn(kept, tokens, step):
        kept = jnp.where(step > 0, kept * words + tokens, 0)
        return logits[examples, kept], kept

    return step_fn, jnp.zeros(EXAMPLES * repeats, jnp.int32)


def log_probabilities(table, history):
    """Of each next word of one example, in float64."""
    code = 0
    for word in history:
        code = code * table.shape[-1] + word
    logits = table[code].astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def padded(words):
    return [*words, *[TOKENS.pad_id] * (LENGTH - len(words))]


def search(**options):
    """Returns the jitted search, a function of the table."""

    @jax.jit
    def run(table):
        step_fn, kept = model(table, options["num_beams"])
        return beam_search.beam_search(
            step_fn,
            lambda kept, rows: kept[rows],
            kept,
            EXAMPLES,
            TOKENS,
            **options,
        )

    return run


def every_sequence(table, length_penalty):
    """All finished sequences of one example with their scores, the best first."""
    found = []
    for length in range(1, LENGTH + 1):
        for words in itertools.product(range(WORDS), repeat=length):
            ends = TOKENS.end_id in words[:-1]
            if ends or (length < LENGTH and words[-1] != TOKENS.end_id):
                continue
            score = sum(
                log_probabilities(table, words[:i])[words[i]] for i in range(length)
            )
            found.append((score / length**length_penalty, padded(words)))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.5])
def test_with_enough_beams_the_best_of_all_sequences_are_found(length_penalty):
    table = tables(0)
    # 8 unfinished histories of three words, each with three next words.
    beams = search(
        num_beams=24, length_penalty=length_penalty, stopping=Stopping.BOUND
    )(table)
    for example in range(EXAMPLES):
        expected = every_sequence(table[example], length_penalty)
        assert len(expected) == 1 + 2 + 4 + 24
        scores, sequences = zip(*expected[:24], strict=True)
        np.testing.assert_allclose(beams.scores[example], scores, rtol=1e-5)
        assert beams.tokens[example].tolist() == list(sequences)


def naive_search(table, num_beams, length_penalty, stopping):
    """The search of one example with Python lists."""
    beams, done = [(0.0, ())], []
    for step in range(LENGTH):
        candidates = sorted(
            (
                (score + log_probability, (*words, word))
                for score, words in beams
                for word, log_probability in enumerate(log_probabilities(table, words))
            ),
            reverse=True,
        )[: 2 * num_beams]
        last = step + 1 == LENGTH
        ended = [c for c in candidates if last or c[1][-1] == TOKENS.end_id]
        done += [
            (score / (step + 1) ** length_penalty, words)
            for score, words in candidates[:num_beams]
            if (score, words) in ended
        ]
        done = sorted(done, reverse=True)[:num_beams]
        beams = [c for c in candidates if c not in ended][:num_beams]
        if len(done) == num_beams and beams:
            length = step + 1
            if stopping is Stopping.BOUND and length_penalty > 0:
                length = LENGTH
            if stopping is Stopping.FULL:
                break
            if beams[0][0] / length**length_penalty <= done[-1][0]:
                break
    return done


@pytest.mark.parametrize("stopping", Stopping)
@pytest.mark.parametrize("length_penalty", [-1.0, 1.0])
def test_few_beams_decide_as_a_naive_search(stopping, length_penalty):
    run = search(num_beams=2, length_penalty=length_penalty, stopping=stopping)
    for seed in range(3):
        table = tables(seed, words=5)
        beams = run(table)
        for example in range(EXAMPLES):
            expected = naive_search(table[example], 2, length_penalty, stopping)
            scores, sequences = zip(*expected, strict=True)
            np.testing.assert_allclose(beams.scores[example], scores, rtol=1e-5)
            assert beams.tokens[example].tolist() == [padded(w) for w in sequences]


def test_greedy_takes_the_top_word_and_stops_at_the_end():
    table = tables(1)
    table[0, 0] = [0, 9, 0]  # ends at once
    step_fn, kept = model(table, 1)
    written = beam_search.greedy(step_fn, kept, EXAMPLES, TOKENS)
    assert written[0].tolist() == padded([1])
    for example in range(EXAMPLES):
        words = []
        while len(words) < LENGTH and TOKENS.end_id not in words:
            words.append(int(log_probabilities(table[example], words).argmax()))
        assert written[example].tolist() == padded(words)


def test_one_beam_is_greedy():
    table = tables(2)
    step_fn, kept = model(table, 1)
    written = beam_search.greedy(step_fn, kept, EXAMPLES, TOKENS)
    beams = search(num_beams=1, stopping=Stopping.FULL)(table)
    # A beam goes on after its end was the second best word, greedy search not.
    for example in range(EXAMPLES):
        expected = naive_search(table[example], 1, 1.0, Stopping.FULL)
        assert beams.tokens[example, 0].tolist() == padded(expected[0][1])
    np.testing.assert_array_equal(beams.tokens[:, 0], written)


def test_searches_without_beams_are_refused():
    with pytest.raises(ValueError, match="num_beams=0 and length=4 must be positive"):
        beam_search.beam_search(
            lambda *_: None, lambda *_: None, None, 1, TOKENS, num_beams=0
        )
