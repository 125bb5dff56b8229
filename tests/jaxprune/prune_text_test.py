"""Texts of different lengths through analysis, plan and removal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import clusters, plan, prunable, samples, similarity
from jaxprune.models import bert, blocks, decoder, text
from tests.jaxprune import naive

STACK = bert.STACK
LENGTHS = np.random.default_rng(0).integers(3, 9, 48)


def batch(pad_id=0, left=False):
    rng = np.random.default_rng(1)
    sequences = [rng.integers(1, 30, n).tolist() for n in LENGTHS]
    return text.pad(sequences, pad_id=pad_id, left=left)


def halves(inputs):
    return [jax.tree.map(lambda x, s=s: x[s::2], inputs) for s in (0, 1)]


def doubled_bert():
    """A random BERT whose blocks 2 and 4 say again what the blocks before them say."""
    config = bert.tiny_config(
        vocab_size=30,
        hidden_size=16,
        num_heads=2,
        intermediate_size=32,
        max_positions=10,
    )
    shapes = jax.eval_shape(bert.prunable_bert(config).init, jax.random.key(0))
    params = dict(naive.randomized(shapes)["params"])
    identity = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    for index in (2, 4):
        before = params[f"block_{index - 1}"]
        params[f"block_{index - 1}"] = {**before, "mlp_norm": identity}
        block = {**params[f"block_{index}"]}
        block["attention_norm"] = block["mlp_norm"] = identity
        for part in ("attention", "mlp"):
            zero = jax.tree.map(jnp.zeros_like, block[part]["output"])
            block[part] = {**block[part], "output": zero}
        params[f"block_{index}"] = block
    # Scanned blocks are compiled in the time of one.
    return bert.prunable_bert(config, scan=True), blocks.stack({"params": params})


ESTIMATORS = {
    "examples": similarity.Estimator(group_size=24),
    "means": similarity.Estimator(group_size=24, samples=samples.means_as_samples),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_doubled_blocks_are_found_and_removed(name):
    model, variables = doubled_bert()
    inputs = batch()

    def analyse(inputs):
        return np.asarray(
            similarity.similarity_matrix(
                model.activations[STACK],
                variables,
                halves(inputs),
                estimator=ESTIMATORS[name],
                mask_fn=text.token_mask,
            )
        )

    matrix = analyse(inputs)
    found = clusters.anchored(matrix, threshold=0.98)
    assert clusters.removable(found) == (2, 4)
    # What stands where there is no token does not matter.
    np.testing.assert_allclose(analyse(batch(pad_id=17)), matrix, atol=1e-5)
    made = plan.make_plan(model.stack(STACK), clusters.removable(found))
    smaller, pruned = prunable.prune(model, variables, made)
    assert smaller.structure.kept == {STACK: (0, 1, 3, 5)}
    np.testing.assert_allclose(
        jax.jit(smaller.apply)(pruned, inputs),
        jax.jit(model.apply)(variables, inputs),
        rtol=1e-3,
        atol=1e-3,
    )


def test_without_masks_padding_decides():
    """Which is why they are there."""
    model, variables = doubled_bert()
    analyse = lambda inputs, **options: similarity.similarity_matrix(  # noqa: E731
        model.activations[STACK], variables, [inputs], **options
    )
    apart = np.abs(analyse(batch()) - analyse(batch(pad_id=17))).max()
    assert apart > 1e-3


def test_padding_of_decoders_does_not_count():
    config = decoder.tiny_config(
        vocab_size=30, hidden_size=8, num_layers=3, num_heads=2, num_kv_heads=1
    )
    model = decoder.prunable_decoder(config, scan=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    variables = naive.randomized(shapes)
    one, other = (
        similarity.similarity_matrix(
            model.activations[STACK],
            variables,
            halves(inputs),
            estimator=ESTIMATORS["means"],
            mask_fn=text.token_mask,
        )
        for inputs in (batch(), batch(pad_id=17, left=True))
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
