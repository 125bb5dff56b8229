"""Examples as NumPy arrays."""

import dataclasses

import numpy as np


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
