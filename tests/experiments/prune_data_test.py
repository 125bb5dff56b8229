"""No example serves two purposes, and held-out texts are not in training."""

import numpy as np
import pytest

from experiments import data, prune_data, prune_images


def numbered(dataset):
    """Texts are numbers, so that an example can be told."""
    return np.array([int(text) for text in dataset.texts]), dataset.labels


@pytest.fixture
def emotion(tmp_path):
    parts = {"train": range(20), "val": range(18, 30), "test": [3, *range(28, 40)]}
    for name, numbers in parts.items():
        lines = [f"{number};joy" for number in numbers]
        (tmp_path / f"{name}.txt").write_text("\n".join(["text;label", *lines]) + "\n")
    return tmp_path


def load_numbers(directory, **options):
    settings = {"seed": 0, "num_calibration": 5, "num_selection": 6}
    settings |= {"trained_elsewhere": True, "needs_training": False} | options
    return prune_data.load(
        "emotion", str(directory), lambda train: numbered, **settings
    )


def test_validation_selects_and_what_it_leaves_certifies(emotion):
    splits = load_numbers(emotion)
    training, selection, certificate = (
        set(getattr(splits, name).inputs.tolist())
        for name in ("training", "selection", "certificate")
    )
    assert training == set(range(20))
    assert len(selection) == 6
    # 18 and 19 stand in train, 28 and 29 in validation, 3 in train.
    assert selection | certificate == set(range(20, 40))
    assert not selection & certificate
    assert splits.describe() == {
        "training": 20,
        "calibration": 5,
        "selection": 6,
        "certificate": 14,
        "dropped_duplicates": 5,
    }


def test_few_training_examples_are_drawn_from_all(emotion):
    def load(num_training):
        return load_numbers(
            emotion,
            num_training=num_training,
            num_certificate=num_training,
            needs_training=True,
        )

    few, all_of_them = load(8), load(None)
    drawn = few.training.inputs.tolist()
    assert drawn == all_of_them.training.inputs.tolist()[:8] != list(range(8))
    assert few.calibration.inputs.tolist() == drawn[:5]
    assert (
        few.certificate.inputs.tolist() == all_of_them.certificate.inputs.tolist()[:8]
    )
    assert len(load(100).training) == 20
    assert len(load(100).certificate) == 14


@pytest.mark.parametrize("trained_elsewhere", [True, False])
def test_images_are_parted_without_a_validation_split(trained_elsewhere):
    splits = prune_data.load(
        "digits",
        None,
        lambda train: prune_images.make_prepare(None, train),
        seed=1,
        num_calibration=100,
        num_selection=10_000,
        trained_elsewhere=trained_elsewhere,
        needs_training=True,
    )
    train, test = (len(data.load("digits", name)) for name in ("train", "test"))
    source = test if trained_elsewhere else train
    assert len(splits.selection) == source // 5
    assert len(splits.training) == train - (0 if trained_elsewhere else train // 5)
    assert len(splits.certificate) == test - (test // 5 if trained_elsewhere else 0)
