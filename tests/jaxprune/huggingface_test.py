import json

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
