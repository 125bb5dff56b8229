"""One structure has one latency, however often it is asked for."""

import jax
import numpy as np

from experiments import prune_measure
from jaxprune import make_plan, prune
from jaxprune.models import resnet


def test_models_of_one_structure_are_timed_once():
    config = resnet.ResNetConfig((3,), (4,), num_classes=3, image_shape=(6, 6, 1))
    base = resnet.prunable_resnet(config)
    variables = jax.jit(base.init)(jax.random.key(0))
    smaller, fewer = prune(base, variables, make_plan(base.stack("blocks"), [1]))
    measured = prune_measure.measure(
        {
            "base": (base, variables),
            "sparse": (base, jax.tree.map(np.zeros_like, variables)),
            "pruned": (smaller, fewer),
        },
        {name: np.ones(4, bool) for name in ("base", "sparse", "pruned")},
        np.zeros((4, 6, 6, 1), np.float32),
    )
    assert measured["base"]["latency_ms"] == measured["sparse"]["latency_ms"]
    assert measured["pruned"]["latency_ms"] != measured["base"]["latency_ms"]
    assert measured["pruned"]["flops"] < measured["base"]["flops"]
    assert measured["pruned"]["num_blocks"] == 2
