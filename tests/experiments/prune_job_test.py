"""Every rule and option runs, and does what it says."""

import pathlib

import jax
import numpy as np
import pytest

from experiments import prune_job, prune_models, prune_repair
from jaxprune import checkpoints
from tests.experiments import prune_model_test

OWN = f"{prune_model_test.__name__}:tiny"
STACK = prune_model_test.STACK
DEFAULTS = {
    "model": OWN,
    "weights": None,
    "size": "small",
    "dataset": "digits",
    "data_dir": None,
    "threshold": 0.3,
    "stride": 1,
    "max_accuracy_drop": 1.0,
    "confidence": 0.95,
    "heal": (),
    "recovery_epochs": 0,
    "freeze": False,
    "score": "cka",
    "clusters": "anchored",
    "block_cost": "parameters",
    "remove": (),
    "noise_permutations": 0,
    "train_epochs": 2,
    "finetune_epochs": 0,
    "max_rounds": 1,
    "learning_rate": 2e-3,
    "distillation": 0.5,
    "batch_size": 64,
    "max_length": 64,
    "sparsity": (),
    "sparsify": "magnitude",
    "calibration_examples": 64,
    "selection_examples": 100,
    "training_examples": None,
    "certificate_examples": None,
    "seed": 0,
}


@pytest.fixture(autouse=True)
def _promotion():
    # optax raises a Python float to an integer power in Adam's bias correction.
    with jax.numpy_dtype_promotion("standard"):
        yield


def prune(workdir: pathlib.Path, **changes):
    workdir.mkdir()
    return prune_job.run_job(prune_job.Job(**{**DEFAULTS, **changes}), workdir)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Trained once; its checkpoint is what the other runs begin with."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    with jax.numpy_dtype_promotion("standard"):
        report = prune(workdir)
    assert report["base"]["origin"] == "trained here for 2 epochs"
    return str(workdir / "base")


@pytest.mark.parametrize(
    "score", ["last", "random", "block_influence", "angular", "loss"]
)
def test_every_score_removes_as_many_as_cka(score, base, tmp_path):
    """With stride 2, one block of a cluster of three."""
    report = prune(tmp_path / "run", weights=base, score=score, stride=2)
    kept = report["pruned"]["kept_blocks"][STACK]
    assert kept in ([0, 1], [0, 2])
    assert score != "last" or kept == [0, 1]
    assert report["base"]["origin"] == "the weights as they were given"


def test_stride_two_keeps_every_second_of_a_cluster(base, tmp_path):
    report = prune(tmp_path / "run", weights=base, stride=2)
    assert report["rounds"][0]["removed"] == {STACK: [1]}
    assert report["pruned"]["kept_blocks"][STACK] == [0, 2]


def test_the_blocks_that_are_named_go_and_no_others(base, tmp_path):
    """Also where they are alike to none."""
    report = prune(
        tmp_path / "run", weights=base, threshold=1.0, remove=("2",), max_rounds=None
    )
    (attempt,) = report["rounds"]
    assert attempt["removed"] == {STACK: [2]}
    assert attempt["threshold"] is None
    assert attempt["accepted"]
    assert report["pruned"]["kept_blocks"][STACK] == [0, 1]


def test_optimal_clusters_need_all_pairs_to_be_alike(base, tmp_path):
    """With a threshold between neighbours' and distant blocks' similarity."""
    matrix = np.load(pathlib.Path(base).with_name("similarity.npy"))
    between = float((matrix[0, 1] + matrix[0, 2]) / 2)
    report = prune(
        tmp_path / "run", weights=base, threshold=between, clusters="optimal"
    )
    assert len(report["pruned"]["kept_blocks"][STACK]) == 2


def test_a_threshold_within_the_noise_is_warned_of(base, tmp_path):
    with pytest.warns(UserWarning, match="by chance on this data"):
        report = prune(
            tmp_path / "run", weights=base, threshold=1e-3, noise_permutations=20
        )
    assert 1e-3 < report["noise_floor"][STACK] < 0.5


def test_what_is_frozen_does_not_move(base, tmp_path):
    """The last block goes: block 1 and what is in no block train, block 0 does not."""
    workdir = tmp_path / "run"
    prune(workdir, weights=base, score="last", stride=2, freeze=True, recovery_epochs=1)
    before, _ = checkpoints.load(base)
    after, _ = checkpoints.load(workdir / "checkpoint")

    def moved(name):
        return not np.array_equal(after["params"][name], before["params"][name])

    moving = {name for name in after["params"] if moved(name)}
    assert moving == {"layer_1", "stem", "head"}


def test_a_fair_baseline_is_fine_tuned_first(base, tmp_path):
    report = prune(tmp_path / "run", weights=base, finetune_epochs=1)
    origin = "the weights as they were given, fine-tuned here for 1 epoch"
    assert report["base"]["origin"] == origin
    before, _ = checkpoints.load(base)
    after, _ = checkpoints.load(tmp_path / "run" / "base")
    assert not np.array_equal(after["params"]["stem"], before["params"]["stem"])


def test_what_could_not_be_removed_is_explained(base, tmp_path, capsys):
    report = prune(tmp_path / "run", weights=base, max_accuracy_drop=0.0)
    assert report["pruned"]["num_blocks"] == 3
    assert report["rounds"][0]["accepted"] is False
    shown = capsys.readouterr().out
    assert "Nothing was removed: no cut kept the accuracy" in shown
    prune(tmp_path / "alike", weights=base, threshold=1.0)
    assert "no blocks are alike at this threshold" in capsys.readouterr().out


def test_repairs_by_default_are_those_a_model_allows():
    small = prune_models.for_images("small_resnet", None, (8, 8, 1), "0123456789")
    assert prune_repair.default_methods("small_resnet", small.model) == ("refit",)
    own = prune_model_test.tiny()
    assert prune_repair.default_methods(OWN, own) == ("batchnorm", "linear")
    assert prune_repair.methods_for(("batchnorm", "linear"), own) == ()
