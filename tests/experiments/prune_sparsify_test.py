"""Sparsity after depth, and which of several levels is kept."""

import jax
import numpy as np
import pytest

from experiments import prune_models, prune_sparsify, prune_task
from jaxprune import prunable
from jaxprune.models import bert, t5_network, text


@pytest.fixture(scope="module")
def small():
    source = prune_models.for_images("small_resnet", None, (8, 8, 1), "0123456789")
    structure = prunable.Structure({"blocks": (0, 7)})
    model = source.model.build(structure)
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0))
    return model, variables, source.module(structure), [images]


@pytest.mark.parametrize("method", prune_sparsify.METHODS)
def test_levels_are_shares_of_each_kernel(method, small):
    model, variables, module, calibration = small
    found = prune_sparsify.candidates(
        method,
        (0.5, 0.25),
        model,
        variables,
        module,
        calibration,
        prune_task.CLASSIFICATION,
        reestimate=True,
    )
    assert [candidate.sparsity for candidate in found] == [0.0, 0.25, 0.5]
    assert found[0].variables is variables
    for candidate in found[1:]:
        params = candidate.variables["params"]
        kernel = np.asarray(params["block_1"]["conv2"]["kernel"])
        assert np.mean(kernel == 0) == pytest.approx(candidate.sparsity)
        total = sum(x.size for x in jax.tree.leaves(params))
        zeros = sum(
            np.sum((np.asarray(new) == 0) & (np.asarray(old) != 0))
            for new, old in zip(
                jax.tree.leaves(params),
                jax.tree.leaves(variables["params"]),
                strict=True,
            )
        )
        assert candidate.share == pytest.approx(zeros / total)


def small_bert():
    config = bert.BertConfig(
        vocab_size=20,
        max_positions=8,
        hidden_size=8,
        num_layers=2,
        num_heads=2,
        intermediate_size=16,
    )
    batch = text.pad([[5, 6, 7, 8], [9, 4]])
    other = batch._replace(token_ids=np.where(batch.mask, batch.token_ids, 3))
    module = bert.Bert(config)
    return module, prune_task.TEXT_CLASSIFICATION, batch, other


def small_t5():
    config = t5_network.T5Config(
        vocab_size=20,
        hidden_size=8,
        num_heads=2,
        head_size=4,
        intermediate_size=16,
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    # Both sides are four long, and where one is padded the other is not.
    batch, _ = text.pairs([[5, 6, 7], [9]], [[8], [4, 5, 6]], start_id=0)
    other = batch._replace(
        token_ids=np.where(batch.mask, batch.token_ids, 3),
        decoder_ids=np.where(batch.decoder_mask, batch.decoder_ids, 3),
    )
    return t5_network.T5(config), prune_task.ANSWERS, batch, other


@pytest.mark.parametrize("make", [small_bert, small_t5])
def test_padding_does_not_count_in_what_layers_see(make):
    module, task, batch, other = make()
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(other), strict=True)
    )
    variables = module.init(jax.random.key(0), batch)
    inputs, expected = (
        prune_sparsify.kernel_inputs(module, variables, [one], task)
        for one in (batch, other)
    )
    kernels = [
        jax.tree_util.keystr(keys[1:], simple=True, separator="/")
        for keys, _ in jax.tree_util.tree_leaves_with_path(variables)
    ]
    assert set(inputs) == {path for path in kernels if path.endswith("kernel")}
    for path, entry in inputs.items():
        np.testing.assert_allclose(entry.norms, expected[path].norms, rtol=1e-5)


def test_the_sparsest_below_the_first_failure_is_kept():
    base = np.arange(1000) < 900
    correct = [np.arange(1000) < 900 - lost for lost in (2, 5, 60, 3)]
    chosen, certificates = prune_sparsify.certified(base, correct, 0.02, 0.95)
    assert chosen == 1
    assert [certificate.passed for certificate in certificates] == [True, True, False]
    chosen, certificates = prune_sparsify.certified(base, correct[2:], 0.02, 0.95)
    assert chosen == 0
    assert not certificates[0].passed


def test_a_single_model_has_a_bound_of_its_own():
    base = np.arange(1000) < 900
    chosen, (certificate,) = prune_sparsify.certified(base, [base], 0.02, 0.95)
    assert chosen == 0
    assert certificate.accuracy_drop_upper_bound < 0.02
