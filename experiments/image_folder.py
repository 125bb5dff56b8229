"""Images of one's own: `train/class/*.jpg` and `test/class/*.jpg`.

All images become squares of one size: the shorter side of the first training image, 224
pixels at most. Larger ones are scaled down to it by the shorter side, and the middle is
cut out.
"""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_SIZE = 224
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def class_names(split: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of the directories of a split, in alphabetical order."""
    folders = (path for path in split.iterdir() if path.is_dir())
    return tuple(sorted(path.name for path in folders if path.name[0] != "."))


def image_files(split: pathlib.Path, names: tuple[str, ...]) -> list[pathlib.Path]:
    """Returns the images of a split; the first of each class, then the second, ..."""
    of_class = [
        sorted(p for p in (split / name).iterdir() if p.suffix.lower() in _SUFFIXES)
        for name in names
    ]
    numbered = [
        (number, path) for files in of_class for number, path in enumerate(files)
    ]
    return [path for _, path in sorted(numbered, key=lambda item: item[0])]


def read(
    directory: pathlib.Path, split: str, limit: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns images `[N, S, S, 3]` uint8, labels `[N]` int32 and names of classes.

    Args:
        directory: that holds train and test.
        split: train or test.
        limit: read the first images only.

    Raises:
        ValueError: without images, or if the splits differ in their classes.
        OSError: if one cannot be read.
    """
    from PIL import Image

    names = class_names(directory / "train")
    if (found := class_names(directory / split)) != names:
        differing = sorted(set(found) ^ set(names))
        raise ValueError(f"train and {split} differ in the classes {differing[:5]}")
    first = image_files(directory / "train", names)[:1]
    files = image_files(directory / split, names)[:limit]
    if not first or not files:
        raise ValueError(f"no images class/name.jpg in {directory / split}")
    with Image.open(first[0]) as image:
        size = min(*image.size, MAX_SIZE)
    images = np.empty((len(files), size, size, 3), np.uint8)
    for row, path in enumerate(files):
        with Image.open(path) as image:
            images[row] = _square(image.convert("RGB"), size)
    labels = np.array([names.index(path.parent.name) for path in files], np.int32)
    return images, labels, names


def _square(image: "Image.Image", size: int) -> np.ndarray:
    from PIL import Image

    width, height = image.size
    scale = size / min(width, height)
    scaled = (max(size, round(scale * width)), max(size, round(scale * height)))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
