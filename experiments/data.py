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

import csv
import dataclasses
import gzip
import importlib.util
import io
import itertools
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Collection

import numpy as np

from experiments import image_folder, run_state, toy_seq2seq


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one split, in a fixed order: an index names an example for good.

    Attributes:
        name: name of the data set.
        split: name of the split.
        labels: `[N]` int32 in `0..num_classes-1`.
        class_names: name of each class.
        images: `[N, height, width]` (grey) or `[N, height, width, 3]` uint8; for iris
            `[N, 4]` uint8 in millimetres; None for texts.
        texts: N strings; None for images.
        max_value: largest value an image of this data set can have; None for texts.
        answers: what is to be written about each text, where no class says it.
    """

    name: str
    split: str
    labels: np.ndarray
    class_names: tuple[str, ...]
    images: np.ndarray | None = None
    texts: tuple[str, ...] | None = None
    max_value: int | None = None
    answers: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, those absent from this split included."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)


_Loader = Callable[[str, str, pathlib.Path, int | None], Dataset]


@dataclasses.dataclass(frozen=True)
class _Source:
    load: _Loader
    # For each split, the files it is read from; of each, the plain or the `.gz` form.
    files: dict[str, tuple[str, ...]]
    # Import name and distribution of a package that reads or holds it.
    needs: tuple[str, str] | None = None


def names() -> tuple[str, ...]:
    """Returns the names that `load` knows."""
    return tuple(_SOURCES)


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
    return _TEXT_FORMATS[name][1] if name in _TEXT_FORMATS else ()


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
        run_state.UsageError: as `check_dataset`, or a file is damaged.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"{limit=} must be at least 1, or None for all examples")
    directory = _find_files(name, split, data_dir)
    return _source(name).load(name, split, directory, limit)


def _source(name: str) -> _Source:
    if name not in _SOURCES:
        raise run_state.usage_error(
            "dataset", name, f"unknown data set; valid are {', '.join(_SOURCES)}"
        )
    return _SOURCES[name]


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
        if all(_existing(directory / file) for file in files[split]):
            return directory
    state = "lacks" if pathlib.Path(data_dir).is_dir() else "does not exist; must hold"
    raise run_state.usage_error(
        "data_dir", data_dir, f"{state} {wanted}, which --dataset={name} reads"
    )


def _existing(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the file, or its uncompressed form, or None."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return next((p for p in (path, plain) if p.exists()), None)


def _damaged(path: pathlib.Path, reason: str) -> run_state.UsageError:
    return run_state.usage_error(
        "data_dir", path, f"is damaged ({reason}); fetch it again"
    )


# Loaders, one for each format.


def _load_builtin(
    name: str, split: str, directory: pathlib.Path, limit: int | None
) -> Dataset:
    del directory
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    tables = pathlib.Path(spec.origin).parent / "datasets" / "data"
    # Read without importing scikit-learn, which takes seconds.
    if name == "digits":
        table = np.loadtxt(tables / "digits.csv.gz", delimiter=",")
        images, step, max_value = table[:, :-1].reshape(-1, 8, 8), 701, 16
        class_names = _DIGIT_NAMES
    else:
        table = np.loadtxt(tables / "iris.csv", delimiter=",", skiprows=1)
        images, step, max_value = np.rint(10 * table[:, :-1]), 37, 79
        class_names = ("setosa", "versicolor", "virginica")
    labels = table[:, -1].astype(np.int32)
    visited = (np.arange(len(labels)) * step) % len(labels)
    rank = np.empty(len(labels), int)
    for label in np.unique(labels):
        of_class = visited[labels[visited] == label]
        rank[of_class] = np.arange(len(of_class))
    is_test = rank[visited] % 5 == 4
    chosen = visited[is_test if split == "test" else ~is_test][:limit]
    return Dataset(
        name=name,
        split=split,
        images=images[chosen].astype(np.uint8),
        labels=labels[chosen],
        class_names=class_names,
        max_value=max_value,
    )


_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _load_idx(
    name: str, split: str, directory: pathlib.Path, limit: int | None
) -> Dataset:
    images_file, labels_file = _SOURCES[name].files[split]
    images = _read_idx(directory / images_file, num_dims=3)
    labels = _read_idx(directory / labels_file, num_dims=1)
    if len(images) != len(labels):
        raise _damaged(directory, f"{len(images)} images but {len(labels)} labels")
    return Dataset(
        name=name,
        split=split,
        images=images[:limit],
        labels=labels[:limit].astype(np.int32),
        class_names=_DIGIT_NAMES if name == "mnist" else _FASHION_NAMES,
        max_value=255,
    )


def _read_idx(path: pathlib.Path, num_dims: int) -> np.ndarray:
    """Reads unsigned bytes in the IDX format, compressed or not.

    The header is two zero bytes, the type (8: unsigned byte), the number of dimensions,
    and each dimension as big-endian 32-bit integer
    (http://yann.lecun.com/exdb/mnist/).
    """
    found = _existing(path)
    assert found is not None, path
    try:
        data = found.read_bytes()
        data = gzip.decompress(data) if found.suffix == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(found, str(error)) from error
    header = 4 + 4 * num_dims
    if data[:4] != bytes((0, 0, 8, num_dims)) or len(data) < header:
        raise _damaged(found, f"not {num_dims}-dimensional IDX bytes")
    shape = np.frombuffer(data[4:header], ">u4").astype(int)
    if len(data) != header + shape.prod():
        raise _damaged(found, f"{len(data) - header} bytes for shape {shape.tolist()}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _load_jpeg_zip(
    name: str, split: str, directory: pathlib.Path, limit: int | None
) -> Dataset:
    from PIL import Image

    (file,) = _SOURCES[name].files[split]
    try:
        with zipfile.ZipFile(directory / file) as archive:
            members = [m for m in archive.namelist() if m.endswith(".jpg")]
            # Balanced prefixes: number first, then class.
            members.sort(key=lambda m: tuple(reversed(m.split("/"))))
            class_names = tuple(sorted({m.split("/")[-2] for m in members}))
            labels = [class_names.index(m.split("/")[-2]) for m in members[:limit]]
            images = np.empty((len(labels), 32, 32, 3), np.uint8)
            for row, member in enumerate(members[:limit]):
                with Image.open(io.BytesIO(archive.read(member))) as image:
                    images[row] = np.asarray(image)
    except (zipfile.BadZipFile, OSError, IndexError) as error:
        reason = f"not a zip of class/number.jpg: {error}"
        raise _damaged(directory / file, reason) from error
    return Dataset(
        name=name,
        split=split,
        images=images,
        labels=np.array(labels, np.int32),
        class_names=class_names,
        max_value=255,
    )


def _load_image_folder(
    name: str, split: str, directory: pathlib.Path, limit: int | None
) -> Dataset:
    try:
        images, labels, class_names = image_folder.read(directory, split, limit)
    except (OSError, ValueError) as error:
        raise run_state.usage_error("data_dir", directory, str(error)) from error
    return Dataset(
        name=name,
        split=split,
        images=images,
        labels=labels,
        class_names=class_names,
        max_value=255,
    )


_EMOTION_NAMES = ("sadness", "joy", "love", "anger", "fear", "surprise")
# Delimiter, names of the classes, and what stands for them in the file.
_TEXT_FORMATS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "emotion": (";", _EMOTION_NAMES, _EMOTION_NAMES),
    "sst2": ("\t", ("negative", "positive"), ("0", "1")),
}


def _load_text(
    name: str, split: str, directory: pathlib.Path, limit: int | None
) -> Dataset:
    (file,) = _SOURCES[name].files[split]
    path = directory / file
    delimiter, class_names, in_file = _TEXT_FORMATS[name]
    with path.open(encoding="utf-8", newline="") as stream:
        lines = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        rows = list(itertools.islice(lines, 1, None if limit is None else limit + 1))
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or row[1] not in in_file:
            reason = f"expected a text, {delimiter!r} and one of {', '.join(in_file)}"
            raise _damaged(path, f"line {number}: {reason}, got {row!r}")
    return Dataset(
        name=name,
        split=split,
        texts=tuple(row[0] for row in rows),
        labels=np.array([in_file.index(row[1]) for row in rows], np.int32),
        class_names=class_names,
    )


def _load_sorted_digits(
    name: str, split: str, directory: pathlib.Path, limit: int | None
) -> Dataset:
    del directory
    texts, answers = (part[:limit] for part in toy_seq2seq.sorted_digits(split))
    labels = np.zeros(len(texts), np.int32)
    return Dataset(name, split, labels, (), texts=texts, answers=answers)


_IDX_FILES: dict[str, tuple[str, ...]] = {
    split: (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
    for split, stem in (("train", "train"), ("test", "t10k"))
}
_NO_FILES: dict[str, tuple[str, ...]] = {"train": (), "test": ()}
_SOURCES: dict[str, _Source] = {
    "digits": _Source(_load_builtin, _NO_FILES, needs=("sklearn", "scikit-learn")),
    "iris": _Source(_load_builtin, _NO_FILES, needs=("sklearn", "scikit-learn")),
    "mnist": _Source(_load_idx, _IDX_FILES),
    "fashion_mnist": _Source(_load_idx, _IDX_FILES),
    "cifar10_jpeg": _Source(
        _load_jpeg_zip,
        {"train": ("train.zip",), "test": ("test.zip",)},
        needs=("PIL", "pillow"),
    ),
    "image_folder": _Source(
        _load_image_folder,
        {"train": ("train",), "test": ("test",)},
        needs=("PIL", "pillow"),
    ),
    "emotion": _Source(
        _load_text,
        {"train": ("train.txt",), "validation": ("val.txt",), "test": ("test.txt",)},
    ),
    "sst2": _Source(
        _load_text,
        {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)},
    ),
    "sorted_digits": _Source(_load_sorted_digits, {**_NO_FILES, "validation": ()}),
}
