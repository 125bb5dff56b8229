"""Parameters of the published structures, counted without computing anything.

MPruner's tables (arXiv 2408.13482 and its repository) give parameters in millions. The
blocks that were removed of each stage follow from them; here the same blocks are taken
out of the same geometry, and what is left is counted from shapes alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxprune import cost
from jaxprune.models import bert, resnet, t5
from jaxprune.prunable import Prunable, Structure


@dataclasses.dataclass(frozen=True)
class Published:
    """A line of a table of the paper.

    Attributes:
        model: its name there.
        setting: K and threshold.
        removed: blocks of each stage (or stack) that are gone.
        millions: of parameters, as published; None where it is in error.
        note: what is wrong with it.
    """

    model: str
    setting: str
    removed: tuple[int, ...]
    millions: float | None
    note: str = ""


LINES = (
    Published("ResNet-152", "unpruned", (0, 0, 0, 0), 60.19),
    Published("ResNet-152", "K=1, .99", (0, 2, 21, 1), 31.709224),
    Published("ResNet-152", "K=1, .98", (0, 2, 25, 1), 27.24),
    Published("ResNet-152", "K=2, .99", (0, 2, 14, 1), 39.53),
    Published("ResNet-152", "K=2, .98", (0, 2, 15, 1), 38.41),
    Published("ResNet-152", "second K=1, .99", (0, 3, 26, 1), 25.84),
    Published("ResNet-152", "second K=1, .98", (0, 4, 31, 1), 19.98),
    Published("ResNet-152", "second K=2, .99", (0, 3, 19, 1), 33.66),
    Published("ResNet-152", "second K=2, .98", (0, 4, 22, 1), 30.03),
    Published("ResNet-50", "unpruned", (0, 0, 0, 0), 25.56),
    Published("ResNet-50", "K=1, .98", (0, 1, 1, 0), 24.16),
    Published("ResNet-50", "K=1, .95", (1, 2, 3, 0), 21.57),
    Published("ResNet-50", "second, .98", (0, 2, 1, 0), 23.88),
    Published("ResNet-50", "second, .95", (2, 3, 3, 0), 21.22),
    Published("ResNet-50", "second Part, .98", (0, 2, 3, 0), 21.65, "swapped there"),
    Published("ResNet-50", "second Part, .95", (1, 3, 3, 0), 21.29, "swapped there"),
    Published("BERT-base", "unpruned", (0,), 109.486854),
    Published("BERT-base", "K=1, .99", (2,), 95.31111),
    Published("BERT-base", "K=1, .98", (4,), 81.135366),
    Published("BERT-base", "second, .98", (6,), 66.959622),
    Published("T5-base", "unpruned", (0, 0), 222.9),
    Published("T5-base", "K=1, .99", (3, 7), 135.588864),
    Published("T5-base", "second", (4, 9), 109.630464, "said to be 7/3 layers"),
    Published("T5-base", "second, as said", (5, 9), None, "7/3 layers"),
)


class Counted(NamedTuple):
    """What is left of a line's model, in blocks and parameters."""

    line: Published
    num_blocks: int
    num_params: int


def unpruned(name: str) -> Prunable:
    """Returns a model of the paper at its true size; nothing is computed."""
    if name.startswith("ResNet-"):
        return resnet.prunable_resnet(resnet.imagenet_config(int(name[7:])))
    if name == "BERT-base":
        return bert.prunable_bert(bert.base_config(num_labels=6))
    return t5.prunable_t5(t5.base_config())


def structure(model: Prunable, removed: Sequence[int]) -> Structure:
    """Returns the structure that loses the last blocks of each stage or stack.

    Which blocks of a stage go does not change how many parameters are left.
    """
    groups: list[tuple[str, list[int]]] = [
        (stack.name, [b for b, s in enumerate(stack.stages) if s == stage])
        for stack in model.stacks
        for stage in sorted(set(stack.stages))
    ]
    kept: dict[str, tuple[int, ...]] = {stack.name: () for stack in model.stacks}
    for (name, blocks), count in zip(groups, removed, strict=True):
        kept[name] += tuple(blocks[: len(blocks) - count])
    return Structure(kept)


def count(line: Published) -> Counted:
    """Returns what is left of a model once the blocks of a line are gone."""
    base = unpruned(line.model)
    model = base.build(structure(base, line.removed))
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0))
    blocks = sum(stack.num_blocks for stack in model.stacks)
    return Counted(line, blocks, cost.count_parameters(shapes["params"]))
