"""Sparsity after depth, and which of several levels is kept."""

import jax
import numpy as np
import pytest

from experiments import prune_models, prune_sparsify
from jaxprune import prunable


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
        method, (0.5, 0.25), model, variables, module, calibration, reestimate=True
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
