"""What is told of a model before anything is loaded."""

import json

import pytest

from experiments import model_names
from experiments.model_names import Kind


@pytest.mark.parametrize(
    ("name", "dataset", "expected"),
    [
        ("small_resnet", "digits", Kind.IMAGES),
        ("resnet152", "cifar10_jpeg", Kind.IMAGES),
        ("bert", "emotion", Kind.TEXTS),
        ("os:getcwd", "sst2", Kind.TEXTS),
        ("os:getcwd", "mnist", Kind.IMAGES),
    ],
)
def test_models_read_what_they_can(name, dataset, expected):
    assert model_names.kind(name, dataset) is expected


@pytest.mark.parametrize(
    ("name", "dataset", "told"),
    [
        ("bert", "digits", "--dataset=digits: these models take texts: emotion, sst2"),
        ("resnet20", "emotion", "--dataset=emotion: these models take images: digits"),
        ("resnet50", "iris", "--dataset=iris: these models take images"),
        ("resnet51", "digits", "--model=resnet51: valid are small_resnet"),
        ("t5", "digits", ".* these models take texts: emotion, sst2, sorted_digits$"),
        ("bert", "digits", ".* these models take texts: emotion, sst2$"),
        ("gpt", "emotion", "--model=gpt: valid are small_resnet"),
    ],
)
def test_what_does_not_fit_is_told(name, dataset, told):
    with pytest.raises(ValueError, match="^" + told):
        model_names.kind(name, dataset)


def test_weights_of_another_kind_are_told(tmp_path):
    def told():
        with pytest.raises(ValueError, match="--weights=") as error:
            model_names.check_weights("bert", str(tmp_path), Kind.TEXTS)
        return str(error.value)

    assert "holds neither *.safetensors nor a checkpoint" in told()
    (tmp_path / "model.safetensors").touch()
    assert "must be a directory with config.json" in told()
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read" in told()
    (tmp_path / "config.json").write_text("[1]")
    assert "config.json names no model_type" in told()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "holds a model of type 'gpt2', not 'bert'" in told()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "holds no tokenizer.json or vocab.txt" in told()
    (tmp_path / "vocab.txt").touch()
    model_names.check_weights("bert", str(tmp_path), Kind.TEXTS)
    with pytest.raises(ValueError, match="holds a model of type 'bert', not 'vit'"):
        model_names.check_weights("vit", str(tmp_path), Kind.IMAGES)
