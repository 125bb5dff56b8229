import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.models import beam_search, t5, t5_decoding, t5_network, text
from tests.jaxprune import t5_test
from tests.jaxprune.t5_test import CONFIG

LENGTH = 5
TEXT = text.pad([[3, 4, 5, 6, 7], [8, 9, 3]], 6)


@pytest.fixture(scope="module")
def variables():
    variables = t5_test.initial(t5.prunable_t5(CONFIG))
    # Logits of moderate size, so that no sequence is far ahead of all others.
    scale = variables["params"]["decoder"]["norm"]["scale"]
    variables["params"]["decoder"]["norm"]["scale"] = 0.5 * scale
    return variables


@pytest.fixture(scope="module", params=[False, True], ids=["listed", "scanned"])
def network(request, variables):
    scan = request.param
    return (
        t5_network.T5(CONFIG, scan),
        t5.stack(variables) if scan else variables,
    )


def test_logits_with_a_cache_are_those_without(variables):
    """Of scanned blocks; greedy search below has listed ones."""
    module, its_variables = t5_network.T5(CONFIG, scan=True), t5.stack(variables)
    decoder_ids = np.random.default_rng(0).integers(2, 12, (2, LENGTH)).astype(np.int32)
    decoder_ids[:, 0] = CONFIG.start_id
    batch = text.Seq2Seq(
        TEXT.token_ids, TEXT.mask, decoder_ids, np.ones_like(decoder_ids)
    )
    expected = jax.jit(t5_network.T5(CONFIG).apply)(variables, batch)

    @jax.jit
    def written(variables):
        step_fn, cache = t5_decoding._start(module, variables, TEXT, LENGTH)
        logits = []
        for step in range(LENGTH):
            tokens = jnp.asarray(decoder_ids[:, step])
            at_step, cache = step_fn(cache, tokens, jnp.int32(step))
            logits.append(at_step)
        return jnp.stack(logits, axis=1)

    np.testing.assert_allclose(written(its_variables), expected, rtol=1e-4, atol=1e-4)


def without_cache(variables, repeats):
    """The model as a step function that reads again all that was written."""
    module = t5_network.T5(CONFIG)
    source = jax.tree.map(lambda x: jnp.repeat(x, repeats, 0), TEXT[:2])

    def step_fn(written, tokens, step):
        written = jax.lax.dynamic_update_index_in_dim(written, tokens, step, axis=1)
        mask = jnp.ones_like(written)
        logits = module.apply(variables, text.Seq2Seq(*source, written, mask))
        return jax.lax.dynamic_index_in_dim(logits, step, 1, keepdims=False), written

    return step_fn, jnp.zeros((2 * repeats, LENGTH), jnp.int32)


def tokens():
    return beam_search.Tokens(CONFIG.start_id, CONFIG.end_id, CONFIG.pad_id, LENGTH)


def test_greedy_writes_what_it_would_without_a_cache(variables):
    @jax.jit
    def both(variables):
        ours = t5_decoding.greedy(t5_network.T5(CONFIG), variables, TEXT, LENGTH)
        step_fn, kept = without_cache(variables, 1)
        return ours, beam_search.greedy(step_fn, kept, 2, tokens())

    ours, expected = both(variables)
    np.testing.assert_array_equal(ours, expected)


def test_beams_are_what_they_would_be_without_a_cache(network, variables):
    module, its_variables = network

    @jax.jit
    def both(its_variables, variables):
        ours = t5_decoding.beam_search(module, its_variables, TEXT, LENGTH, num_beams=3)
        step_fn, kept = without_cache(variables, 3)
        expected = beam_search.beam_search(
            step_fn, lambda kept, rows: kept[rows], kept, 2, tokens(), num_beams=3
        )
        return ours, expected

    ours, expected = both(its_variables, variables)
    np.testing.assert_array_equal(ours.tokens, expected.tokens)
    np.testing.assert_allclose(ours.scores, expected.scores, rtol=1e-4)
    # Sequences did change places, so that a cache left in its place would show.
    assert len({tuple(x) for x in np.asarray(ours.tokens[0, :, :2]).tolist()}) > 1


def test_no_room_for_a_token_is_refused(variables):
    with pytest.raises(ValueError, match="length=0 and num_beams=1 must be positive"):
        t5_decoding.greedy(t5_network.T5(CONFIG), variables, TEXT, 0)
