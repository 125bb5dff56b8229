"""Rows compare a pruned geometry with its unpruned one, and are kept."""

import jax
import pytest

from experiments import json_files, mpruner_parameters, run_state
from experiments.benchmarks import depth
from jaxprune.models import resnet


@pytest.mark.parametrize("name", depth.MODELS)
def test_every_structure_can_be_built(name):
    base = depth.unpruned(name)
    inputs = jax.eval_shape(lambda: depth.inputs_of(name, 0, jax.random.key(0)))
    for case in (case for case in depth.CASES if case.model == name):
        pruned = base.build(mpruner_parameters.structure(base, case.removed))
        blocks = sum(stack.num_blocks for stack in base.stacks)
        left = sum(stack.num_blocks for stack in pruned.stacks)
        assert left == blocks - sum(case.removed)
    shapes = jax.eval_shape(base.init, jax.random.key(0))
    assert jax.eval_shape(base.apply, shapes, inputs).shape[0] in (8, 32)


def test_measured_rows_stay(tmp_path, monkeypatch):
    config = resnet.ResNetConfig((3,), (4,), num_classes=3)
    monkeypatch.setattr(depth, "unpruned", lambda _: resnet.prunable_resnet(config))
    monkeypatch.setattr(depth, "CASES", (depth.Case("ResNet-20", (1,)),))
    argv = ["x", "--models=ResNet-20", "--repeats=1", f"--workdir={tmp_path}"]
    for _ in range(2):
        with pytest.raises(SystemExit) as exit_info:
            run_state.run(depth.main, depth.FLAGS, argv)
        assert not exit_info.value.code
        monkeypatch.setattr(depth, "measure", None)
    (row,) = json_files.read_json(tmp_path / "depth.json")["rows"]
    assert row["blocks"] == [3, 2]
    assert 0.5 < row["flops_ratio"] < 0.9
    assert row["ratio"] == row["ours_seconds"] / row["peer_seconds"]
