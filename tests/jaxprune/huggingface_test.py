import numpy as np
import pytest

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
