import json

import numpy as np
import pytest

from experiments import data, float_agreement, run_state


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A tiny network as published, and four images instead of MNIST."""
    (tmp_path / "s4nn").mkdir()
    rng = np.random.default_rng(0)
    weights = {"weights_0": rng.normal(9, 30, (3, 4)) * 2}
    weights["weights_1"] = rng.normal(40, 60, (2, 3))
    np.savez(tmp_path / "s4nn" / "6_784_3_2.npz", **weights)
    images = data.Dataset(
        name="mnist",
        split="test",
        labels=np.array([0, 1, 1, 0]),
        class_names=("a", "b"),
        images=rng.integers(0, 256, (4, 2, 2)).astype(np.uint8),
        max_value=255,
    )
    monkeypatch.setattr(data, "check_dataset", lambda *arguments: None)
    monkeypatch.setattr(data, "load", lambda *arguments: images)
    return tmp_path


def exit_code(*arguments):
    with pytest.raises(SystemExit) as left:
        run_state.run(float_agreement.main, float_agreement.FLAGS, ["x", *arguments])
    return left.value.code or 0


def test_agreement_is_counted_once_a_network(directory, capsys):
    flags = [f"--data_dir={directory}", f"--workdir={directory / 'out'}"]
    assert exit_code(*flags) == 0
    text = (directory / "out" / "agreement.json").read_text()
    (row,) = json.loads(text)["rows"]
    assert row["network"] == "6_784_3_2"
    assert row["images"] == 4
    assert row["same_prediction"] == 1.0
    assert exit_code(*flags) == 0
    assert (directory / "out" / "agreement.json").read_text() == text
    assert "same_prediction" in capsys.readouterr().out


def test_wrong_flags_exit_2_with_one_line(tmp_path, capsys):
    assert exit_code(f"--workdir={tmp_path / 'out'}") == 2
    assert "--data_dir" in capsys.readouterr().err
