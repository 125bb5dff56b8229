"""The data sets there are, and how the files of each are read."""

import csv
import dataclasses
import gzip
import importlib.util
import io
import itertools
import pathlib
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

from experiments import image_folder, run_state, toy_seq2seq
from experiments.dataset import Dataset

# (name, split, directory, largest number of examples) -> examples.
LoadFn = Callable[[str, str, pathlib.Path, int | None], Dataset]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        load: reads a split from a directory, all of it or its first examples.
        files: for each split, those it is read from; of each, the plain or the `.gz`
            form.
        needs: import name and distribution of a package that reads or holds it.
    """

    load: LoadFn
    files: dict[str, tuple[str, ...]]
    needs: tuple[str, str] | None = None


def existing(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the file, or its uncompressed form, or None."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return next((p for p in (path, plain) if p.exists()), None)


def _damaged(path: pathlib.Path, reason: str) -> run_state.UsageError:
    return run_state.usage_error(
        "data_dir", path, f"is damaged ({reason}); fetch it again"
    )


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
    images_file, labels_file = SOURCES[name].files[split]
    images = _read_idx(directory / images_file, num_dims=3)
    labels = _read_idx(directory / labels_file, num_dims=1)
    if len(images) != len(labels):
        raise _damaged(directory, f"{len(images)} images but {len(labels)} labels")
    class_names = _DIGIT_NAMES if name == "mnist" else _FASHION_NAMES
    if (labels >= len(class_names)).any():
        reason = f"label {labels.max()} of {len(class_names)} classes"
        raise _damaged(directory / labels_file, reason)
    return Dataset(
        name=name,
        split=split,
        images=images[:limit],
        labels=labels[:limit].astype(np.int32),
        class_names=class_names,
        max_value=255,
    )


def _read_idx(path: pathlib.Path, num_dims: int) -> np.ndarray:
    """Reads unsigned bytes in the IDX format, compressed or not.

    The header is two zero bytes, the type (8: unsigned byte), the number of dimensions,
    and each dimension as big-endian 32-bit integer
    (http://yann.lecun.com/exdb/mnist/).
    """
    found = existing(path)
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

    (file,) = SOURCES[name].files[split]
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
TEXT_FORMATS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "emotion": (";", _EMOTION_NAMES, _EMOTION_NAMES),
    "sst2": ("\t", ("negative", "positive"), ("0", "1")),
}


def _load_text(
    name: str, split: str, directory: pathlib.Path, limit: int | None
) -> Dataset:
    (file,) = SOURCES[name].files[split]
    path = directory / file
    delimiter, class_names, in_file = TEXT_FORMATS[name]
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            stop = None if limit is None else limit + 1
            rows = list(itertools.islice(lines, 1, stop))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, str(error)) from error
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
SOURCES: dict[str, Source] = {
    "digits": Source(_load_builtin, _NO_FILES, needs=("sklearn", "scikit-learn")),
    "iris": Source(_load_builtin, _NO_FILES, needs=("sklearn", "scikit-learn")),
    "mnist": Source(_load_idx, _IDX_FILES),
    "fashion_mnist": Source(_load_idx, _IDX_FILES),
    "cifar10_jpeg": Source(
        _load_jpeg_zip,
        {"train": ("train.zip",), "test": ("test.zip",)},
        needs=("PIL", "pillow"),
    ),
    "image_folder": Source(
        _load_image_folder,
        {"train": ("train",), "test": ("test",)},
        needs=("PIL", "pillow"),
    ),
    "emotion": Source(
        _load_text,
        {"train": ("train.txt",), "validation": ("val.txt",), "test": ("test.txt",)},
    ),
    "sst2": Source(
        _load_text,
        {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)},
    ),
    "sorted_digits": Source(_load_sorted_digits, {**_NO_FILES, "validation": ()}),
}
