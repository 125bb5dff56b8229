"""Data sets as NumPy arrays, read from the files their authors publish.

| name | files in `data_dir` | splits |
| --- | --- | --- |
| digits | none: ships with scikit-learn | train, test |
| iris | none: ships with scikit-learn | train, test |
| mnist, fashion_mnist | `train-images-idx3-ubyte.gz`, ... | train, test |
| cifar10_jpeg | `train.zip`, `test.zip` of `class/number.jpg` | train, test |
| image_folder | `train/class/name.jpg`, `test/class/name.jpg` | train, test |
| emotion | `train.txt`, `val.txt`, `test.txt`: `text;label` | train, validation, test |
| sst2 | `train.tsv`, `dev.tsv`, `test.tsv` | train, validation, test |
| sorted_digits | none: a formula gives it | train, validation, test |

`data_dir` is the directory of the data set, or the one above it when the directory of
the data set bears its name.
"""

import importlib.util
import os
import pathlib
from collections.abc import Collection

from experiments import run_state
from experiments.data_formats import SOURCES, TEXT_FORMATS, Source, existing
from experiments.dataset import Dataset as Dataset


def names() -> tuple[str, ...]:
    """Returns the names that `load` knows."""
    return tuple(SOURCES)


def splits(name: str) -> tuple[str, ...]:
    """Returns the splits of a data set.

    >>> splits("emotion")
    ('train', 'validation', 'test')
    """
    return tuple(_source(name).files)


def class_names(name: str) -> tuple[str, ...]:
    """Returns the names of the classes of a data set of texts, if it has classes.

    >>> class_names("sst2")
    ('negative', 'positive')
    """
    return TEXT_FORMATS[name][1] if name in TEXT_FORMATS else ()


def check_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    needed_splits: Collection[str] | None = None,
) -> None:
    """Checks that name, splits and files exist, without reading any of them.

    Args:
        name: name of the data set.
        data_dir: where its files are; ignored by digits and iris.
        needed_splits: splits that will be loaded, all by default.

    Raises:
        run_state.UsageError: naming the flag (--dataset, --split or --data_dir), what
            was looked for, and what would be valid.
    """
    for split in splits(name) if needed_splits is None else needed_splits:
        _find_files(name, split, data_dir)


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Loads one split of a data set.

    Orders are fixed. mnist, fashion_mnist, emotion and sst2 keep that of their files.
    digits and iris are visited in steps of 701 and 37 (prime to their sizes, so that
    writers and classes mix), and of each class every fifth example visited goes to
    test: 1442 and 355 digits, 120 and 30 irises, no random generator involved.
    cifar10_jpeg and image_folder go by number, then class, so that each prefix is
    balanced.

    Args:
        name: one of `names()`.
        split: one of `splits(name)`.
        data_dir: where the files are; ignored by digits and iris.
        limit: read the first examples only.

    Raises:
        run_state.UsageError: as `check_dataset`, or a file is damaged or empty.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"{limit=} must be at least 1, or None for all examples")
    directory = _find_files(name, split, data_dir)
    examples = _source(name).load(name, split, directory, limit)
    if not len(examples):
        raise run_state.usage_error(
            "data_dir", data_dir, f"holds no example of --dataset={name}, {split}"
        )
    return examples


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise run_state.usage_error(
            "dataset",
            name,
            f"unknown data set; valid are {', '.join(SOURCES)}",
        )
    return SOURCES[name]


def _find_files(
    name: str, split: str, data_dir: str | os.PathLike[str] | None
) -> pathlib.Path:
    """Returns the directory that holds all files of a split."""
    files = _source(name).files
    if split not in files:
        raise run_state.usage_error(
            "split", split, f"no split of {name}; valid are {', '.join(files)}"
        )
    needs = _source(name).needs
    if needs is not None and importlib.util.find_spec(needs[0]) is None:
        raise run_state.usage_error(
            "dataset",
            name,
            f"needs {needs[1]}, which is not installed; "
            "pip install 'prune-and-prove[experiments]'",
        )
    if not files[split]:
        return pathlib.Path()
    wanted = " and ".join(files[split])
    if data_dir is None:
        raise run_state.usage_error(
            "data_dir", None, f"is required: --dataset={name} reads {wanted} from there"
        )
    for directory in (pathlib.Path(data_dir), pathlib.Path(data_dir, name)):
        if all(existing(directory / file) for file in files[split]):
            return directory
    state = "lacks" if pathlib.Path(data_dir).is_dir() else "does not exist; must hold"
    raise run_state.usage_error(
        "data_dir", data_dir, f"{state} {wanted}, which --dataset={name} reads"
    )
