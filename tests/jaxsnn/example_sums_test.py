"""Sums over examples, against the plain sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.example_sums import sum_examples


@pytest.mark.parametrize("batch", [1, 5, 16, 17, 20, 31, 32, 50])
def test_any_number_of_examples_is_summed(batch):
    rows = jax.random.normal(jax.random.key(0), (batch, 3))
    columns = jax.random.normal(jax.random.key(1), (batch, 2))
    found = sum_examples(jnp.outer, jnp.zeros((3, 2)), rows, columns)
    expected = np.asarray(rows).T @ np.asarray(columns)
    np.testing.assert_allclose(found, expected, atol=1e-5)
