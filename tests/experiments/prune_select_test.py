"""Plans are compared by what they save and by their loss."""

import jax
import numpy as np
import pytest

from experiments import prune_select, run_state
from jaxprune import cost
from jaxprune.models import resnet, t5

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


def test_given_blocks_are_told_by_stack():
    writer = t5.prunable_t5(t5.tiny_config(vocab_size=9))
    named = prune_select.given(("decoder:3", "encoder:1", "decoder:2"), writer)
    assert named == {"encoder": (1,), "decoder": (2, 3)}
    single = resnet.prunable_resnet(CONFIG)
    assert prune_select.given(("3", "1"), single) == {resnet.STACK: (1, 3)}
    with pytest.raises(run_state.UsageError, match="--remove=1: say of which stack"):
        prune_select.given(("1",), writer)
    with pytest.raises(run_state.UsageError, match="--remove=4: cannot remove"):
        prune_select.given(("4",), single)
    with pytest.raises(run_state.UsageError, match="--remove=encoder:0: "):
        prune_select.given(("encoder:0",), writer)
