"""What a teacher says of inputs that do not change, asked once for all epochs."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.batches import num_examples, take
from jaxprune.buckets import Buckets
from jaxprune.recover import Teacher

# Shows progress: yields what it is given.
TrackFn = Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]


def with_logits(
    teacher: Teacher,
    inputs: Any,
    batch_size: int,
    *,
    buckets: Buckets | None = None,
    track: TrackFn = iter,
    max_bytes: int = 2**28,
) -> Teacher:
    """Returns a teacher that knows its logits, so that no epoch computes them again.

    It pays from the second epoch on. Without augmentation, that is: an input that
    changes has other logits each time.

    Args:
        teacher: the unpruned model.
        inputs: `[N, ...]` examples, or a tree of such arrays, as of `fine_tune`.
        batch_size: examples of one call.
        buckets: of the examples; batches are cut to the length they need.
        track: called with all batches, for progress.
        max_bytes: of logits; above it, the teacher is returned as it is.

    >>> from jaxprune.models import resnet
    >>> config = resnet.ResNetConfig((1,), (4,), image_shape=(4, 4, 1))
    >>> model = resnet.prunable_resnet(config)
    >>> teacher = Teacher(model, jax.jit(model.init)(jax.random.key(0)), {})
    >>> with_logits(teacher, np.ones((5, 4, 4, 1), np.float32), 2).logits.shape
    (5, 10)
    """
    count = num_examples(inputs)
    apply = jax.jit(teacher.model.apply)
    order = np.arange(count)
    if buckets is not None:
        order = np.argsort(buckets.lengths, kind="stable")
    # The last batch is filled up with the last example, for one compiled program.
    order = np.pad(order, (0, -count % batch_size), mode="edge")
    batches = list(order.reshape(-1, batch_size))
    cut = take if buckets is None else buckets.cut
    first = cut(inputs, batches[0])
    told = jax.eval_shape(teacher.model.apply, teacher.variables, first)
    logits = np.empty((count, *told.shape[1:]), told.dtype)
    if logits.nbytes > max_bytes:
        return teacher
    for rows in track(batches):
        logits[rows] = apply(teacher.variables, cut(inputs, rows))
    return dataclasses.replace(teacher, logits=logits)
