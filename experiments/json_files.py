"""JSON that is either there entirely or not at all.

Whole files are written under a temporary name and renamed; JSON lines are appended and
forced to disk, and a last line cut short by a crash is dropped by the next reader or
writer.
"""

import enum
import json
import os
import pathlib
from typing import Any

_REQUIRED = object()


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a whole file; a reader sees the old content or the new, never a part."""
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> None:
    """Writes indented JSON atomically.

    Raises:
        ValueError: a number is not finite; JSON has no word for it.
    """
    write_atomic(path, _dumps(value, indent=2) + "\n")


def read_json(path: str | os.PathLike[str], missing: Any = _REQUIRED) -> Any:
    """Returns what the file holds, or `missing`, when given, if there is no file.

    Raises:
        FileNotFoundError: there is no such file and `missing` is not given.
        ValueError: the file is not JSON; the message names it.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if missing is _REQUIRED:
            raise
        return missing
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error


def append_jsonl(path: str | os.PathLike[str], *records: Any) -> None:
    """Appends one line for each record and waits until the disk has them.

    One process at a time may append to a file.
    """
    lines = "".join(_dumps(record) + "\n" for record in records).encode()
    with open(path, "ab+") as file:
        _drop_torn_line(file)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: str | os.PathLike[str]) -> list[Any]:
    """Returns the records of a file, none if it does not exist.

    A last line without its newline was cut short while being written and is dropped.

    Raises:
        ValueError: another line is not JSON; the message names file and line.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not a JSON line ({error})") from error
    return records


def as_plain(value: Any) -> Any:
    """Returns the value as reading it back from JSON would give it."""
    return json.loads(_dumps(value))


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False, default=_encode)


def _encode(value: Any) -> Any:
    """Encodes what the standard library cannot: NumPy, paths, enumerations."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy and jax scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def _drop_torn_line(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    block = 4096
    kept = end
    while kept > 0:
        start = max(0, kept - block)
        file.seek(start)
        newline = file.read(kept - start).rfind(b"\n")
        if newline >= 0:
            kept = start + newline + 1
            break
        kept = start
    if kept < end:
        file.truncate(kept)
