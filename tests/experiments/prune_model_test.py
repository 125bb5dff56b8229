"""The binary, as a person runs it."""

import json
import os
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import checkpoints, layouts, plan, prunable
from jaxprune.models import resnet, weights

ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": "."}
FAST = (
    "--dataset=digits",
    "--train_epochs=2",
    "--recovery_epochs=1",
    "--max_rounds=1",
    "--threshold=0.5",
    "--max_accuracy_drop=1",
    "--calibration_examples=100",
)
OWN = f"--model={__name__}:tiny"
STACK = "blocks"


def tiny(structure=None):
    """A model of one's own: three residual layers on flattened digits."""
    structure = structure or prunable.Structure({STACK: (0, 1, 2)})
    depth = len(structure.kept[STACK])

    def init(key):
        keys = jax.random.split(key, depth + 2)
        blocks = {
            f"layer_{i}": 0.1 * jax.random.normal(keys[i], (16, 16))
            for i in range(depth)
        }
        stem = 0.1 * jax.random.normal(keys[depth], (64, 16))
        head = 0.1 * jax.random.normal(keys[depth + 1], (16, 10))
        return {"params": {**blocks, "stem": stem, "head": head}}

    def activations(variables, images):
        params, outputs = variables["params"], []
        x = images.reshape(len(images), -1) @ params["stem"]
        for index in range(depth):
            x = x + jnp.tanh(x @ params[f"layer_{index}"])
            outputs.append(x)
        return x @ params["head"], outputs

    return prunable.Prunable(
        structure=structure,
        stacks=(plan.Stack(STACK, depth, {"params": layouts.Named("layer_{}")}),),
        build=tiny,
        init=init,
        apply=lambda variables, images: activations(variables, images)[0],
        activations={STACK: activations},
    )


def not_a_model():
    return 3


def command(*arguments):
    return [sys.executable, "-m", "experiments.prune_model", *arguments]


def run(*arguments, timeout=240):
    return subprocess.run(
        command(*arguments),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("prune") / "run"
    result = run(OWN, *FAST, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result


def report_of(workdir):
    return json.loads((workdir / "report.json").read_text())


def test_report_holds_what_is_promised(finished):
    workdir, result = finished
    report = report_of(workdir)
    for model in ("base", "pruned"):
        for key in ("accuracy", "num_params", "num_blocks", "flops", "latency_ms"):
            assert report[model][key] > 0
    assert report["pruned"]["kept_blocks"][STACK][0] == 0
    assert len(report["pruned"]["kept_blocks"][STACK]) == report["pruned"]["num_blocks"]
    for entry in report["rounds"]:
        assert set(entry) == {
            "threshold",
            "stride",
            "removed",
            "accuracy_before_repair",
            "accuracy_after_heal",
            "accuracy_after_recovery",
            "accepted",
            "reason",
            "seconds",
        }
    certificate = report["certificate"]
    assert certificate["num_examples"] == 355
    assert certificate["confidence"] == 0.95
    assert {"accuracy_drop", "accuracy_drop_upper_bound", "passed", "method"} <= set(
        certificate
    )
    matrix = np.load(workdir / report["similarity"])
    assert matrix.shape == (3, 3)
    assert report["analysis_seconds"] > 0
    assert report["forward_seconds"] > 0
    assert (
        "<svg" in (workdir / "report.html").read_text()
        or "data:image" in (workdir / "report.html").read_text()
    )
    assert "accuracy" in result.stdout


def test_checkpoint_is_loadable_and_is_the_pruned_model(finished):
    workdir, _ = finished
    tree, description = checkpoints.load(workdir / "checkpoint")
    structure = prunable.Structure.from_json(description["structure"])
    model = tiny(structure)
    like = jax.eval_shape(model.init, jax.random.key(0))
    assert checkpoints.checked(tree, like) is tree
    assert (
        list(structure.kept[STACK])
        == report_of(workdir)["pruned"]["kept_blocks"][STACK]
    )


def test_other_flags_are_refused(finished):
    workdir, _ = finished
    result = run(OWN, *FAST, "--threshold=0.6", f"--workdir={workdir}")
    assert result.returncode == 2
    assert "threshold" in result.stderr


def test_a_killed_run_ends_the_same(finished, tmp_path):
    """Killed as soon as it has written the n-th state, and started again."""
    workdir, _ = finished
    expected = checkpoints.load(workdir / "checkpoint")[0]
    arguments = command(OWN, *FAST, f"--workdir={tmp_path / 'run'}")
    for awaited in ("training/manifest.json", "loop/manifest.json"):
        process = subprocess.Popen(
            arguments,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 200
        while not (tmp_path / "run" / awaited).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "run" / "report.json").exists()
    result = run(OWN, *FAST, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    ours = checkpoints.load(tmp_path / "run" / "checkpoint")[0]
    chex.assert_trees_all_equal(ours, expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--threshold=1.5",), "--threshold=1.5: must lie in (0, 1]"),
        (("--threshold=nan",), "--threshold=nan: must be a finite number"),
        (("--stride=0",), "--stride=0"),
        (("--confidence=1",), "--confidence=1.0: must lie in (0, 1)"),
        (("--max_accuracy_drop=-1",), "--max_accuracy_drop=-1.0: must lie in [0, 1]"),
        (("--heal=batchnorm,prayer",), "--heal=batchnorm,prayer: valid are batchnorm"),
        (("--dataset=imagenet",), "--dataset=imagenet: unknown data set"),
        (("--dataset=emotion",), "--data_dir"),
        (("--dataset=iris",), "--dataset=iris: these models take images"),
        (("--dataset=mnist", "--data_dir=/nowhere"), "--data_dir=/nowhere"),
        (("--model=resnet21",), "--model=resnet21: valid are small_resnet"),
        (("--model=no.such:thing",), "--model=no.such:thing: no module 'no.such'"),
        (("--weights=/nowhere.safetensors",), "no such file or directory"),
        (("--recovery_epochs=-1",), "--recovery_epochs=-1"),
        (("--score=guess",), "--score=guess"),
        (("--workdir=/proc/nowhere",), "--workdir=/proc/nowhere: cannot be written"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments, told, tmp_path):
    defaults = ("--model=small_resnet", "--dataset=digits", f"--workdir={tmp_path}/w")
    result = run(*defaults, *arguments)
    assert result.returncode == 2
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_what_is_no_model_is_told(tmp_path):
    result = run(f"--model={__name__}:not_a_model", *FAST, f"--workdir={tmp_path}/w")
    assert result.returncode == 2
    assert "returned a int; it must return a jaxprune.Prunable" in result.stderr


def test_weights_that_do_not_fit_are_listed(tmp_path):
    config = resnet.ResNetConfig((1, 1), (16, 32), image_shape=(8, 8, 1))
    model = resnet.prunable_resnet(config)
    variables = jax.tree.map(
        lambda x: np.ones(x.shape, np.float32),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    tensors = weights.write(resnet.weight_table(config), variables)
    checkpoints.save_safetensors(tmp_path / "w.safetensors", tensors, {})
    result = run(
        "--model=small_resnet",
        "--dataset=digits",
        f"--weights={tmp_path / 'w.safetensors'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert result.returncode == 2
    assert "layer1.N has depth 1 in the file and 7 in the model" in result.stderr
    assert "100 missing: layer1.1" in result.stderr
    # Other flags may be tried in the same workdir.
    assert not (tmp_path / "run" / "run.json").exists()
