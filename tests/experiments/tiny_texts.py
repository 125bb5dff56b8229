"""A data set of a few words, laid out as dair-ai/emotion is."""

import pathlib

import numpy as np

WORDS = ["i", "feel", "so", "glad", "sad", "mad", "today", "and", "very", "then"]


def write(directory: pathlib.Path) -> None:
    """Writes three splits; a text with "glad" is joy, any other anger."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 96), ("val", 24), ("test", 40)):
        lines = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(count)]
        labelled = [f"{line};{'joy' if 'glad' in line else 'anger'}" for line in lines]
        content = "\n".join(["text;label", *labelled]) + "\n"
        (directory / f"{name}.txt").write_text(content)
