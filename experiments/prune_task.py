"""What a model is for: how its outputs are judged and which of its tokens count."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxprune import recover, samples, sequence_labels, similarity
from jaxprune.batches import MaskFn
from jaxprune.models import blocks, t5, text

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Task:
    """The functions that know the meaning of inputs, outputs and labels.

    Attributes:
        loss: `(outputs, labels) -> []`, the mean over a batch.
        correct: `(outputs, labels) -> [n]` boolean.
        weights: of the positions of labels in distillation; equal if None.
        token_masks: by stack, `inputs -> [n, t]`, False for padding; every position
            counts in a stack that is not listed.
        reads: by the path of a kernel, the stack whose tokens its layer reads.
        estimator: of similarity.
    """

    loss: recover.LossFn
    correct: Callable[[Any, Any], Array]
    weights: recover.WeightsFn | None = None
    token_masks: Mapping[str, MaskFn] = dataclasses.field(default_factory=dict)
    reads: Callable[[str], str] = lambda path: blocks.STACK
    estimator: similarity.Estimator = similarity.DEFAULT_ESTIMATOR


def _top_class_is_right(logits: Array, labels: Array) -> Array:
    return logits.argmax(-1) == labels


CLASSIFICATION = Task(recover.cross_entropy, _top_class_is_right)
_MEANS = similarity.Estimator(samples=samples.means_as_samples)
# Two sentences are alike where the means over their tokens are: the tokens of one
# sentence are no independent samples.
TEXT_CLASSIFICATION = Task(
    recover.cross_entropy,
    _top_class_is_right,
    token_masks={blocks.STACK: text.token_mask},
    estimator=_MEANS,
)
# An answer is right if every word of it is, and the end.
ANSWERS = Task(
    sequence_labels.cross_entropy,
    sequence_labels.exact_match,
    sequence_labels.counts,
    token_masks={t5.ENCODER: text.token_mask, t5.DECODER: text.decoder_token_mask},
    reads=t5.reads,
    estimator=_MEANS,
)
