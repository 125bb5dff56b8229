"""Baselines against naive loops and exhaustive search."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import baselines


def token_layers(num_layers=5, seed=0):
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(num_layers, 6, 4, 3)).astype(np.float32)
    return np.cumsum(steps, axis=0)


def naive_mean_cosine(a, b, mask):
    total = [
        a[i, t] @ b[i, t] / (np.linalg.norm(a[i, t]) * np.linalg.norm(b[i, t]))
        for i, t in itertools.product(*map(range, mask.shape))
        if mask[i, t]
    ]
    return np.mean(total), np.mean(np.arccos(np.clip(total, -1, 1)) / np.pi)


def test_cosines_of_tokens():
    layers = token_layers()
    mask = np.random.default_rng(1).random((6, 4)) < 0.7
    dirty = np.where(mask[None, ..., None], layers, np.nan)
    fn = lambda variables, x: (None, list(jnp.moveaxis(x, 1, 0)))  # noqa: E731
    batches = np.moveaxis(dirty, 0, 1)
    # The batch axis leads; two batches, the second of which is filled up.
    state = baselines.cosine_state(
        fn,
        None,
        [batches[:4], batches[4:]],
        mask_fn=lambda x: ~np.isnan(x[:, 0, :, 0]),
    )
    assert float(state.weight) == mask.sum()
    for i, j in itertools.product(range(5), repeat=2):
        cosine, angle = naive_mean_cosine(layers[i], layers[j], mask)
        assert float(state.cosine[i, j] / state.weight) == pytest.approx(
            cosine, abs=1e-5
        )
        assert float(state.angle[i, j] / state.weight) == pytest.approx(angle, abs=1e-3)


def test_influence_and_span_from_the_state():
    layers = token_layers()
    ones = np.ones((6, 4), bool)
    state = baselines.cosine_update(baselines.cosine_init(5), list(layers))
    influence = np.asarray(baselines.block_influence(state))
    assert np.isnan(influence[0])
    for i in range(1, 5):
        cosine, _ = naive_mean_cosine(layers[i - 1], layers[i], ones)
        assert influence[i] == pytest.approx(1 - cosine, abs=1e-5)
    for length in (1, 2, 3):
        angles = {
            first: naive_mean_cosine(
                layers[first - 1], layers[first + length - 1], ones
            )[1]
            for first in range(1, 6 - length)
        }
        first = min(angles, key=angles.get)
        expected = tuple(range(first, first + length))
        assert baselines.closest_span(state, length) == expected


def test_shapes_that_differ_are_not_compared():
    rng = np.random.default_rng(2)
    activations = [rng.normal(size=(8, w)).astype(np.float32) for w in (3, 3, 5, 5)]
    state = baselines.cosine_update(baselines.cosine_init(4), activations)
    influence = np.asarray(baselines.block_influence(state))
    assert np.isnan(influence).tolist() == [True, False, True, False]
    removed = baselines.lowest_scores(influence, 2)
    assert removed == (1, 3)
    assert baselines.closest_span(state, 1) in {(1,), (3,)}
    with pytest.raises(ValueError, match="no 2 consecutive blocks"):
        baselines.closest_span(state, 2)


def test_zero_vectors_have_no_direction():
    state = baselines.cosine_update(baselines.cosine_init(2), [jnp.zeros((2, 3))] * 2)
    assert np.isfinite(state.cosine).all()


def test_last_and_lowest_by_hand():
    assert baselines.last_blocks(5, 2) == (3, 4)
    assert baselines.last_blocks(5, 0) == ()
    assert baselines.last_blocks(5, 3, protected=[3]) == (1, 2, 4)
    scores = [math.nan, 0.4, 0.1, 0.1, 0.3]
    assert baselines.lowest_scores(scores, 2) == (2, 3)
    assert baselines.lowest_scores(scores, 2, protected=[2]) == (3, 4)


def test_random_blocks_are_uniform_and_reproducible():
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = [baselines.random_blocks(key, 5, 2, protected=[0]) for key in keys]
    assert drawn[0] == baselines.random_blocks(keys[0], 5, 2, protected=[0])
    pairs = set(itertools.combinations(range(1, 5), 2))
    assert set(drawn) == pairs
    counts = [drawn.count(pair) for pair in pairs]
    assert min(counts) > 200 / 6 / 2.5


def test_greedy_follows_the_loss():
    rng = np.random.default_rng(3)
    table = {
        removed: rng.random()
        for k in range(6)
        for removed in itertools.combinations(range(5), k)
    }
    table[1,] = math.nan
    plans = baselines.greedy_by_loss(table.__getitem__, 5, 3, protected=[4])
    before = ()
    for plan in plans:
        options = [tuple(sorted((*before, b))) for b in range(4) if b not in before]
        best = min(options, key=lambda o: np.nan_to_num(table[o], nan=9))
        assert plan == best
        before = plan
    assert len(plans) == 3


def test_rescore_puts_nan_last():
    scored = baselines.rescore([(1,), (2,), (3,)], lambda r: [0, math.nan, 2, 1][r[0]])
    assert scored == [(1.0, (3,)), (2.0, (2,)), (math.inf, (1,))]


@pytest.mark.parametrize(
    "rule",
    [
        lambda n: baselines.last_blocks(3, n, [0]),
        lambda n: baselines.random_blocks(jax.random.key(0), 3, n, [0]),
        lambda n: baselines.lowest_scores([1, 2, 3], n, [0]),
        lambda n: baselines.greedy_by_loss(lambda r: 0.0, 3, n, [0]),
    ],
)
@pytest.mark.parametrize("num_removed", [-1, 3])
def test_too_many_are_refused(rule, num_removed):
    message = rf"num_removed={num_removed} is not in 0\.\.2: 3 blocks, of which 1 must"
    with pytest.raises(ValueError, match=message):
        rule(num_removed)


def test_no_batches():
    with pytest.raises(ValueError, match="no batches"):
        baselines.cosine_state(lambda v, x: (x, [x]), None, [])
