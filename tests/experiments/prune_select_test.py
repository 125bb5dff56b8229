"""Plans are compared by what they save and by their loss."""

import jax
import numpy as np
import pytest

from experiments import prune_select
from jaxprune import cost
from jaxprune.models import resnet

CONFIG = resnet.ResNetConfig((4,), (4,), num_classes=3, image_shape=(6, 6, 1))


def select(monkeypatch, matrix, **changes):
    model = resnet.prunable_resnet(CONFIG)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    # Losses by what is kept: without block 2 alone, it is least.
    losses = {(0, 1, 3): 0.1, (0, 2, 3): 0.2, (0, 1, 2): 0.3}
    facts = {
        "score": "cka",
        "clusters": "rescored",
        "block_cost": "parameters",
        "threshold": 0.9,
        "calibration": [np.zeros((2, 6, 6, 1), np.float32)],
        "token_masks": {},
        "loss": lambda model, _: losses.get(model.structure.kept[resnet.STACK], 9.0),
        "key": jax.random.key(0),
    }
    rule = prune_select.Rule(**{**facts, **changes})
    matrices = {resnet.STACK: matrix}
    return prune_select.select(rule, model, variables, matrices, 1)[resnet.STACK]


def test_of_the_plans_that_remove_most_the_one_of_least_loss(monkeypatch):
    assert select(monkeypatch, np.ones((4, 4)), clusters="optimal") == (1, 2, 3)
    assert select(monkeypatch, np.ones((4, 4))) == (2,)


def test_nothing_alike_removes_nothing(monkeypatch):
    assert select(monkeypatch, np.eye(4)) == ()


@pytest.mark.parametrize(
    ("milliseconds", "removed"), [([1, 1, 5, 1], (2,)), ([1, 5, 1, 1], (1, 3))]
)
def test_measured_latency_decides_where_plans_exclude_each_other(
    monkeypatch, milliseconds, removed
):
    """Blocks 1 and 2 are alike, 0 and 1 as well, but not all three; 2 and 3, too."""
    matrix = np.eye(4)
    for block in range(3):
        matrix[block, block + 1] = matrix[block + 1, block] = 0.95
    monkeypatch.setattr(cost, "block_latencies", lambda *_: milliseconds)
    found = select(monkeypatch, matrix, clusters="optimal", block_cost="latency")
    assert found == removed
