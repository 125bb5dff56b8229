"""Images as inputs of a network, and their random changes in training."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, json_files, prune_data
from jaxprune import recover

# Mean and standard deviation that published weights expect; other images go to 0..1.
_PHOTOGRAPHS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORMALIZATION = {"cifar10_jpeg": _PHOTOGRAPHS, "image_folder": _PHOTOGRAPHS}


def make_prepare(directory: str | None, train: data.Dataset) -> prune_data.PrepareFn:
    """Returns what makes normalised images `[N, H, W, C]` float32 of any split.

    Args:
        directory: of weights, whose preprocessor_config.json tells mean and deviation
            if there is one.
        train: the training split, which tells the data set.
    """
    moments = _moments(directory) or _NORMALIZATION.get(train.name)

    def prepare(dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
        assert dataset.images is not None
        assert dataset.max_value is not None
        images = np.asarray(dataset.images, np.float32) / np.float32(dataset.max_value)
        if images.ndim == 3:
            images = images[..., None]
        if moments is not None:
            shift, scale = map(np.array, moments)
            images = ((images - shift) / scale).astype(np.float32)
        return np.ascontiguousarray(images), np.asarray(dataset.labels, np.int32)

    return prepare


def _moments(directory: str | None) -> tuple[Any, Any] | None:
    if directory is None:
        return None
    path = pathlib.Path(directory) / "preprocessor_config.json"
    found = json_files.read_json(path, missing={})
    if not {"image_mean", "image_std"} <= set(found):
        return None
    return found["image_mean"], found["image_std"]


def augmentation(dataset: str) -> recover.AugmentFn | None:
    """Returns the usual augmentation: shifts, and mirrors for photographs."""
    return _shift_and_mirror if dataset in _NORMALIZATION else None


def _shift_and_mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    pixels = images.shape[1] // 8
    shift_key, mirror_key = jax.random.split(key)
    padding = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = jnp.pad(images, padding, mode="reflect")
    starts = jax.random.randint(shift_key, (len(images), 2), 0, 2 * pixels + 1)

    def crop(image: jax.Array, start: jax.Array) -> jax.Array:
        corner = (start[0], start[1], jnp.int32(0))
        return jax.lax.dynamic_slice(image, corner, images.shape[1:])

    cropped = jax.vmap(crop)(padded, starts)
    mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)
