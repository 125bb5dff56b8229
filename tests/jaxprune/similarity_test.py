"""Streamed similarity against naive loops, published forms and its own laws."""

import itertools
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxprune import cka, similarity

update = jax.jit(similarity.update, static_argnames="estimator")

LAYERS = 3
SIXTEEN = similarity.Estimator(group_size=16)
WIDTH = 6


def model(variables, inputs):
    """Three layers of different widths; the output is the last of them."""
    activations = []
    for weights in variables:
        inputs = jnp.tanh(inputs @ weights)
        activations.append(inputs)
    return inputs, activations


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    widths = [WIDTH, 8, 5, 7]
    return [
        rng.normal(size=(a, b)).astype(np.float32)
        for a, b in itertools.pairwise(widths)
    ]


def data(n, seed=1):
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


def naive_state(layers, groups):
    """HSIC sums in float64, by the definition with U-centered matrices."""

    def u_center(k):
        n = len(k)
        k = k - np.diag(np.diag(k))
        rows = k.sum(1) / (n - 2)
        k = k - rows[:, None] - rows[None, :] + k.sum() / ((n - 1) * (n - 2))
        return k - np.diag(np.diag(k))

    total = np.zeros((len(layers), len(layers)))
    for group in groups:
        grams = [x[group] @ x[group].T / x.shape[1] for x in layers]
        centered = [u_center(k) for k in grams]
        n = len(group)
        total += n * np.array(
            [[(a * b).sum() / (n * (n - 3)) for b in centered] for a in centered]
        )
    return total


def naive_cka(hsic):
    scale = np.sqrt(np.diag(hsic))
    return hsic / scale[:, None] / scale[None, :]


def float64_layers(variables, x):
    return [np.asarray(a, np.float64) for a in model(variables, x)[1]]


@pytest.mark.parametrize(
    ("n", "splits"),
    [
        # Groups of at most 20: without a rest if there are less than twice as many.
        (50, [10, 20, 30, 40]),
        # A prime number of examples leaves a rest: groups of 18, 18 and 17.
        (53, [18, 36]),
    ],
)
def test_matches_naive_sum_over_groups(variables, n, splits):
    x = data(n)
    estimator = similarity.Estimator(group_size=20)
    matrix = similarity.similarity_matrix(model, variables, [x], estimator=estimator)
    groups = np.split(np.arange(n), splits)
    expected = naive_cka(naive_state(float64_layers(variables, x), groups))
    np.testing.assert_allclose(matrix, expected, atol=2e-6)
    assert matrix.dtype == jnp.float32


def test_stream_equals_loop_of_updates(variables):
    x = data(96)
    state = similarity.init(LAYERS)
    for batch in np.split(x, 3):
        activations = model(variables, batch)[1]
        state = update(state, activations, None, estimator=SIXTEEN)
    matrix = similarity.similarity_matrix(
        model, variables, np.split(x, 3), estimator=SIXTEEN
    )
    np.testing.assert_allclose(similarity.finish(state), matrix, atol=1e-6)
    assert float(state.weight) == 96


def test_partial_last_batch(variables):
    x = data(58)
    matrix = similarity.similarity_matrix(
        model, variables, [x[:32], x[32:]], estimator=SIXTEEN
    )
    groups = np.split(np.arange(58), [16, 32, 48])
    expected = naive_cka(naive_state(float64_layers(variables, x), groups))
    np.testing.assert_allclose(matrix, expected, atol=2e-6)


def test_rest_below_four_examples_is_left_out(variables):
    x = data(35)
    batches = [x[:32], x[32:]]
    whole = similarity.accumulate(model, variables, batches, estimator=SIXTEEN)
    part = similarity.accumulate(model, variables, batches[:1], estimator=SIXTEEN)
    np.testing.assert_allclose(whole.hsic, part.hsic, rtol=1e-6)
    assert float(whole.weight) == 32


def test_merge_is_the_state_of_all_examples(variables):
    batches = np.split(data(96), 3)
    parts = [
        similarity.accumulate(model, variables, [batch], estimator=SIXTEEN)
        for batch in batches
    ]
    merged = similarity.merge(parts[2], similarity.merge(parts[0], parts[1]))
    whole = similarity.accumulate(model, variables, batches, estimator=SIXTEEN)
    np.testing.assert_allclose(merged.hsic, whole.hsic, rtol=1e-6)
    assert float(merged.weight) == float(whole.weight) == 96


def test_ratio_of_sums_is_near_the_truth_for_small_groups(variables):
    x = data(2048)
    layers = float64_layers(variables, x)
    truth = naive_cka(naive_state(layers, [np.arange(2048)]))
    estimator = similarity.Estimator(group_size=8)
    matrix = similarity.similarity_matrix(
        model, variables, np.split(x, 2), estimator=estimator
    )
    np.testing.assert_allclose(matrix, truth, atol=0.02)


def test_groups_sum_to_the_total(variables):
    batches = np.split(data(64), 2)
    groups = similarity.accumulate_groups(model, variables, batches, estimator=SIXTEEN)
    assert groups.hsic.shape == (4, LAYERS, LAYERS)
    total = similarity.accumulate(model, variables, batches, estimator=SIXTEEN)
    np.testing.assert_allclose(
        similarity.total(groups).hsic, total.hsic, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("n", [32, 22])
def test_two_devices_equal_one(variables, n):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batches = [data(32, 2), data(n, 3)]
    one = similarity.accumulate(model, variables, batches, estimator=SIXTEEN)
    two = similarity.accumulate(model, variables, batches, estimator=SIXTEEN, mesh=mesh)
    np.testing.assert_allclose(
        similarity.finish(one), similarity.finish(two), rtol=0, atol=1e-6
    )
    assert float(one.weight) == float(two.weight) == 32 + n


def test_devices_exchange_only_the_matrix(variables):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    step = similarity.batch_total_fn(model, mesh=mesh)
    lowered = jax.jit(step).lower(variables, data(64), np.ones(64, bool))
    program = lowered.compile().as_text()
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert other not in program
    shapes = [line for line in program.splitlines() if " all-reduce" in line]
    assert shapes
    assert all("f32[3,3]" in line or "f32[]" in line for line in shapes)


def test_masked_examples_do_not_count(variables):
    x = data(32)
    keep = np.arange(32) % 3 != 0
    dirty = np.where(keep[:, None], x, np.nan)
    masked = similarity.similarity_matrix(
        model, variables, [dirty], mask_fn=lambda _: keep, estimator=SIXTEEN
    )
    groups = [np.flatnonzero(keep[:16]), 16 + np.flatnonzero(keep[16:])]
    expected = naive_cka(naive_state(float64_layers(variables, x), groups))
    np.testing.assert_allclose(masked, expected, atol=2e-6)


def test_padded_tokens_do_not_count():
    rng = np.random.default_rng(4)
    tokens = rng.normal(size=(24, 5, 3)).astype(np.float32)
    lengths = rng.integers(2, 6, size=24)
    mask = np.arange(5)[None] < lengths[:, None]
    other = np.tanh(tokens @ rng.normal(size=(3, 4)).astype(np.float32))

    def state(padding):
        layers = [np.where(mask[..., None], x, padding) for x in (tokens, other)]
        return similarity.finish(
            update(
                similarity.init(2),
                [jnp.asarray(x, jnp.float32) for x in layers],
                jnp.asarray(mask),
            )
        )

    np.testing.assert_allclose(state(np.nan), state(0.0), atol=1e-6)
    # Padding adds no similarity: with tokens independent of each other it stays low.
    independent = rng.normal(size=(24, 5, 4)).astype(np.float32)
    unrelated = update(similarity.init(2), [tokens, independent], jnp.asarray(mask))
    assert abs(float(similarity.finish(unrelated)[0, 1])) < 0.15


@pytest.mark.parametrize("debiased", [True, False])
def test_rbf_and_biased_estimators(variables, debiased):
    x = data(20)
    estimator = similarity.Estimator(20, gram=cka.rbf_gram, debiased=debiased)
    matrix = similarity.similarity_matrix(model, variables, [x], estimator=estimator)
    first, _, last = model(variables, x)[1]
    expected = jax.jit(lambda: cka.rbf_cka(first, last, debiased=debiased))()
    np.testing.assert_allclose(matrix[0, 2], expected, atol=1e-5)


def test_bfloat16_activations(variables):
    def half(variables, x):
        output, layers = model(variables, x)
        return output, [layer.astype(jnp.bfloat16) for layer in layers]

    matrix = similarity.similarity_matrix(half, variables, [data(64)])
    exact = similarity.similarity_matrix(model, variables, [data(64)])
    assert matrix.dtype == jnp.float32
    np.testing.assert_allclose(matrix, exact, atol=2e-3)


def test_constant_and_nan_layers_are_undefined(variables):
    def broken(variables, x):
        output, layers = model(variables, x)
        return output, [
            layers[0],
            jnp.full((len(x), 4), 0.3),
            jnp.where(x[:, :1] > 0, jnp.nan, layers[1]),
            layers[2],
        ]

    matrix = np.asarray(similarity.similarity_matrix(broken, variables, [data(64)]))
    assert np.isnan(matrix[[1, 2], :]).all()
    assert np.isnan(matrix[:, [1, 2]]).all()
    assert np.isfinite(matrix[np.ix_([0, 3], [0, 3])]).all()


def test_inputs_may_be_any_tree(variables):
    def tree_model(variables, inputs):
        return model(variables, inputs["x"])

    x = data(28)
    batches = [{"x": x[:16]}, {"x": x[16:]}]
    matrix = similarity.similarity_matrix(tree_model, variables, batches)
    expected = similarity.similarity_matrix(model, variables, [x[:16], x[16:]])
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batches"),
        ([data(1)], "at least 4 examples, got 1"),
        ([{}], "holds no arrays"),
    ],
)
def test_refused_batches(variables, batches, message):
    with pytest.raises(ValueError, match=message):
        similarity.similarity_matrix(model, variables, batches)


def test_nothing_that_counts_is_refused(variables):
    with pytest.raises(ValueError, match="no group of at least 4 examples"):
        similarity.similarity_matrix(
            model, variables, [data(8)], mask_fn=lambda x: np.zeros(len(x), bool)
        )


def test_refused_arguments():
    with pytest.raises(ValueError, match="group_size=3"):
        similarity.Estimator(group_size=3)
    with pytest.raises(ValueError, match="no activations"):
        similarity.group_states([])


# One of two processes: half of the batches each, the matrix of all printed by both.
PROCESS = """
import sys
import jax
import numpy as np
from jaxprune import similarity

port, index = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))
x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
layers = lambda variables, x: (x, [x, np.tanh(1) * x**3])
batches = [x[:32], x[32:]][int(index):][:1]
matrix = similarity.similarity_matrix(layers, None, batches)
print(float(matrix[0, 1]).hex())
"""


def test_two_processes_give_the_matrix_of_all_batches():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-c", PROCESS, str(port)]
    processes = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, env=environment)
        for i in range(2)
    ]
    try:
        printed = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    values = [float.fromhex(text.decode().split()[-1]) for text in printed]
    x = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
    layers = lambda variables, x: (x, [x, np.tanh(1) * x**3])  # noqa: E731
    expected = similarity.similarity_matrix(layers, None, [x[:32], x[32:]])[0, 1]
    np.testing.assert_allclose(values, [float(expected)] * 2, rtol=0, atol=1e-6)
