import json
import math

import numpy as np
import pytest

from jaxprune import checkpoints
from jaxprune.models import huggingface


def test_directories_survive_the_round_trip(tmp_path):
    config = {"model_type": "bert", "name": "größer", "nested": [1, {"a": None}]}
    tensors = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    huggingface.write_directory(tmp_path / "new", config, tensors)
    huggingface.write_directory(tmp_path / "new", config, tensors)
    found, read = huggingface.read_directory(tmp_path / "new")
    assert found == config
    np.testing.assert_array_equal(read["a.weight"], tensors["a.weight"])


def test_what_is_no_directory_of_a_model_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"config.json' cannot be read"):
        huggingface.read_directory(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config.json' cannot be read"):
        huggingface.read_directory(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no file \*\.safetensors"):
        huggingface.read_directory(tmp_path)


@pytest.mark.parametrize("found", ["8", 8.5, 0, -8, True, [8]])
def test_sizes_are_positive_whole_numbers(found):
    with pytest.raises(ValueError, match=r"has hidden_size=.*not a whole number above"):
        huggingface.size({"hidden_size": found}, "hidden_size")
    assert huggingface.size({"hidden_size": None}, "hidden_size", 8) == 8
    assert huggingface.size({"pad_token_id": 0}, "pad_token_id", least=0) == 0


@pytest.mark.parametrize("found", ["1e-6", 0, -1e-6, math.nan, math.inf, False])
def test_numbers_are_positive_and_finite(found):
    with pytest.raises(ValueError, match=r"has eps=.*not a positive number"):
        huggingface.number({"eps": found}, "eps")
    assert huggingface.number({"eps": 1}, "eps") == 1.0


def test_only_the_files_that_the_index_lists_are_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name, value in [("one", 1), ("two", 2), ("consolidated", 3)]:
        tensors = {name: np.full(2, value, np.float32)}
        checkpoints.save_safetensors(tmp_path / f"{name}.safetensors", tensors, {})
    index = tmp_path / "model.safetensors.index.json"
    parts = {"one": "one.safetensors", "two": "two.safetensors"}
    index.write_text(json.dumps({"weight_map": parts}))
    assert set(huggingface.read_directory(tmp_path)[1]) == {"one", "two"}
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ValueError, match=r"gone.safetensors' cannot be read"):
        huggingface.read_directory(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index.json' cannot be read"):
        huggingface.read_directory(tmp_path)
