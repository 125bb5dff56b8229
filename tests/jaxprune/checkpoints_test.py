import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import checkpoints

TREE = {
    "params": {"w": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(2, jnp.bfloat16)},
    "count": jnp.int32(3),
}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def test_what_is_saved_is_loaded(tmp_path):
    checkpoints.save(tmp_path / "c", TREE, {"depth": 3})
    tree, description = checkpoints.load(tmp_path / "c", like=shapes(TREE))
    assert description == {"depth": 3} == checkpoints.describe(tmp_path / "c")
    assert jax.tree.structure(tree) == jax.tree.structure(TREE)
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_another_model_is_refused(tmp_path):
    checkpoints.save(tmp_path / "c", TREE, {})
    other = {"params": {"w": jnp.zeros((2, 4)), "extra": jnp.zeros(1)}}
    with pytest.raises(ValueError, match="of another model") as error:
        checkpoints.load(tmp_path / "c", like=other)
    assert "params/extra is missing" in str(error.value)
    assert "count is unexpected" in str(error.value)


def test_a_missing_checkpoint_is_told(tmp_path):
    assert not checkpoints.exists(tmp_path / "c")
    with pytest.raises(ValueError, match="no checkpoint at"):
        checkpoints.load(tmp_path / "c")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match="holds no 'jaxprune checkpoint"):
        checkpoints.load(tmp_path / "c")


def test_damage_is_told(tmp_path):
    checkpoints.save(tmp_path / "c", TREE, {})
    for file in (tmp_path / "c" / "variables").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="is damaged"):
        checkpoints.load(tmp_path / "c")


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "c", TREE, {"version": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path / "c", TREE, {"version": 2})
    monkeypatch.undo()
    assert checkpoints.load(tmp_path / "c")[1] == {"version": 1}
    checkpoints.save(tmp_path / "c", TREE, {"version": 3})
    assert checkpoints.describe(tmp_path / "c") == {"version": 3}


@pytest.fixture
def little_room():
    """Files of more than 30 000 bytes cannot be written, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_the_old_files_stay_and_no_partial_ones(tmp_path, little_room):
    noise = np.random.default_rng(0).normal(size=(200, 200))
    checkpoints.save(tmp_path / "c", TREE, {"version": 1})
    tensors = tmp_path / "t.safetensors"
    checkpoints.save_safetensors(tensors, {"a": np.ones(3)}, {})
    with pytest.raises(OSError, match="cannot be written"):
        checkpoints.save(tmp_path / "c", {"w": noise}, {"version": 2})
    with pytest.raises(OSError, match="cannot be written"):
        checkpoints.save_safetensors(tensors, {"a": noise}, {})
    assert checkpoints.load(tmp_path / "c")[1] == {"version": 1}
    assert checkpoints.load_safetensors(tensors)["a"].shape == (3,)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "t.safetensors"]


def test_a_stop_after_a_stop_loses_nothing(tmp_path, monkeypatch):
    """Stopped between the renames, resumed, and stopped before the new one stands."""
    checkpoints.save(tmp_path / "c", TREE, {"version": 1})
    (tmp_path / "c").rename(tmp_path / ".c.old")

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path / "c", TREE, {"version": 2})
    monkeypatch.undo()
    assert checkpoints.load(tmp_path / "c")[1] == {"version": 1}


def test_a_stop_between_the_two_renames_loses_nothing(tmp_path):
    checkpoints.save(tmp_path / "c", TREE, {"version": 1})
    (tmp_path / "c").rename(tmp_path / ".c.old")
    assert checkpoints.exists(tmp_path / "c")
    assert checkpoints.load(tmp_path / "c")[1] == {"version": 1}
    checkpoints.save(tmp_path / "c", TREE, {"version": 2})
    assert checkpoints.load(tmp_path / "c")[1] == {"version": 2}


def test_safetensors_round_trip(tmp_path):
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros(1, np.float32)}
    checkpoints.save_safetensors(tmp_path / "m.safetensors", tensors, {"format": "pt"})
    # Whoever may read the directory's other files may read this one.
    (tmp_path / "other").touch()
    modes = {(tmp_path / n).stat().st_mode for n in ("other", "m.safetensors")}
    assert len(modes) == 1
    again = checkpoints.load_safetensors(tmp_path / "m.safetensors")
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    assert set(checkpoints.load_safetensors(tmp_path)) == {"a", "b"}
    checkpoints.save_safetensors(tmp_path / "n.safetensors", tensors, {})
    with pytest.raises(ValueError, match="a second time"):
        checkpoints.load_safetensors(tmp_path)


def test_what_is_no_safetensors_file_is_told(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        checkpoints.load_safetensors(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.load_safetensors(tmp_path / "missing.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no file \*\.safetensors"):
        checkpoints.load_safetensors(tmp_path / "empty")
