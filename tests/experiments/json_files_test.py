"""Whole files and whole lines, whatever happens to the writer."""

import enum
import json
import os

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments import json_files


class Colour(enum.Enum):
    RED = "red"


def test_what_is_not_json_is_encoded_plainly(tmp_path):
    value = {
        "scalar": np.float32(0.5),
        "array": np.arange(3),
        "path": tmp_path,
        "enumeration": Colour.RED,
        "tuple": (1, 2),
    }
    json_files.write_json_atomic(tmp_path / "x.json", value)
    assert json_files.read_json(tmp_path / "x.json") == {
        "scalar": 0.5,
        "array": [0, 1, 2],
        "path": str(tmp_path),
        "enumeration": "red",
        "tuple": [1, 2],
    }


def test_not_a_number_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "x.json"
    json_files.write_json_atomic(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="nan"):
        json_files.write_json_atomic(path, {"loss": float("nan")})
    assert json_files.read_json(path) == {"loss": 1.0}


def test_failed_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def no_space(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        json_files.write_atomic(tmp_path / "x", "text")
    assert list(tmp_path.iterdir()) == []


def test_read_json_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json: not a JSON file"):
        json_files.read_json(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        json_files.read_json(tmp_path / "y.json")
    assert json_files.read_json(tmp_path / "y.json", missing=None) is None


def test_missing_lines_file_is_empty(tmp_path):
    assert json_files.read_jsonl(tmp_path / "none.jsonl") == []


def test_damage_before_the_last_line_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:2: not a JSON line"):
        json_files.read_jsonl(path)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    records=st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=5),
    data=st.data(),
)
def test_any_cut_loses_only_what_was_not_finished(records, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "x.jsonl"
    json_files.append_jsonl(path, *records)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    assert json_files.read_jsonl(path) == records[:kept]
    json_files.append_jsonl(path, {"after": "the crash"})
    assert json_files.read_jsonl(path) == [*records[:kept], {"after": "the crash"}]


def test_torn_line_longer_than_a_block_is_dropped(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"b": "' + "x" * 20_000)
    json_files.append_jsonl(path, {"a": 2})
    assert json_files.read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_as_plain_is_what_reading_gives():
    value = {"radii": (1, 2), 3: None}
    assert json_files.as_plain(value) == json.loads(json.dumps(value))
