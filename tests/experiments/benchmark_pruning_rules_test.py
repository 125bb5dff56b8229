import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import pruning_rules
from experiments.benchmarks import pruning_rules_network as network
from jaxprune import baselines, plan, prunable
from jaxprune.models import resnet


@pytest.fixture(scope="module")
def net():
    config = resnet.ResNetConfig((3, 2), (4, 8), num_classes=3, image_shape=(8, 8, 2))
    model = resnet.prunable_resnet(config)
    variables = jax.jit(model.init)(jax.random.key(0))
    return network.Network(model, variables, (10, 10, 10, 30, 40))


def test_silenced_blocks_are_removed_ones(net):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 8, 8, 2)).astype(np.float32)
    made = plan.make_plan(net.model.stack(resnet.STACK), [1, 4])
    smaller, variables = prunable.prune(net.model, net.variables, made)
    removed = jax.jit(smaller.apply)(variables, images)
    silenced = jax.jit(net.model.apply)(net.without([1, 4]), images)
    np.testing.assert_array_equal(removed, silenced)


def test_rules_keep_within_the_budget(net, monkeypatch):
    """By hand: blocks 1, 2 and 4 may go, the paper's rule takes 1 and 2 (20)."""
    matrix = np.eye(5)
    matrix[0, 1:3] = matrix[1:3, 0] = 0.99
    angles = jnp.asarray(np.ones((5, 5)), jnp.float32) * 0.5
    cosines = baselines.CosineState(angles, angles, jnp.float32(1.0))
    scores = network.Scores(
        net, 0, jax.random.key(0), np.zeros(0), np.zeros(0), 0.98, matrix, cosines
    )
    losses = {(1,): 2.0, (2,): 1.0, (1, 2): 1.5}
    monkeypatch.setattr(
        network.Network, "loss_without", lambda self, blocks, *_: losses[tuple(blocks)]
    )
    chosen = {rule: scores.choose(rule) for rule in pruning_rules.RULES}
    assert chosen["cka anchored"] == (1, 2)
    assert chosen["cka optimal"] == (1, 2)
    assert chosen["last"] == (1, 2)  # block 4 alone is beyond the budget
    assert chosen["greedy by loss"] == (1, 2)
    assert chosen["angular"] == (1, 2)
    for blocks in chosen.values():
        assert sum(net.params[b] for b in blocks) <= 20
        assert not {0, 3} & set(blocks)


def test_intervals_pair_rules_image_by_image(tmp_path):
    rng = np.random.default_rng(1)
    reference = rng.random((3, 400)) < 0.8
    worse = reference & (rng.random((3, 400)) < 0.9)
    correct = {
        (rule, seed): value
        for rule, value in [("cka anchored", reference), ("last", worse)]
        for seed in range(2)
    }
    removed = {key: [1, 2] for key in correct}
    rows = pruning_rules.summarize(correct, removed, [1, 5, 7], np.ones(400, bool))
    assert "difference" not in rows[0]
    found = rows[1]["difference"]["refit"]
    lost = reference[2] & ~worse[2]
    assert found["mean"] == pytest.approx(-lost.mean())
    deviation = np.sqrt(lost.mean() * (1 - lost.mean()))
    assert found["high"] - found["mean"] == pytest.approx(1.96 * deviation / 20)
    assert rows[1]["removed_params"] == [12, 12]
    assert "last" in pruning_rules.describe(rows)
    pruning_rules.plot(rows, tmp_path / "rules.png")
    assert (tmp_path / "rules.png").stat().st_size > 1000
