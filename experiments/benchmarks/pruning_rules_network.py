"""The network that the rules prune, and what each rule decides by.

A block is removed by silencing its residual branch, which gives the pruned network bit
for bit, as the library's tests show: so one compiled program judges every plan.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data, prune_images
from jaxprune import (
    baselines,
    checkpoints,
    clusters,
    cost,
    heal,
    plan,
    prunable,
    recover,
    refit,
    similarity,
)
from jaxprune.models import resnet, weights

Blocks = tuple[int, ...]

_BATCH = 250
_LOSS_IMAGES = 125
_PLANS = 16  # of which the one of least loss is taken


def read_images(
    split: str, data_dir: str | None, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `count` images of a split, drawn by the seed, and their labels."""
    found = data.load("cifar10_jpeg", split, data_dir)
    drawn = np.random.default_rng(seed).permutation(len(found))[:count]
    images, labels = prune_images.make_prepare(None, found)(found)
    return images[drawn], labels[drawn]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A ResNet with its variables, and two compiled programs.

    Attributes:
        model: unpruned.
        variables: of the model.
        params: number of parameters of each block.
    """

    model: prunable.Prunable
    variables: dict[str, Any]
    params: tuple[int, ...]

    @functools.cached_property
    def _predict(self) -> Any:
        return jax.jit(lambda v, x: self.model.apply(v, x).argmax(-1))

    @functools.cached_property
    def _loss(self) -> Any:
        def loss(variables: Any, images: Any, labels: Any) -> Any:
            # Normalised by the batch's own statistics: BatchNorm is re-estimated.
            logits = self.model.train(variables, images).outputs
            return recover.cross_entropy(logits, labels)

        return jax.jit(loss)

    def correct(
        self, variables: Any, images: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        """Returns which images are classified right."""
        right = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            filled = np.pad(part, ((0, _BATCH - len(part)), (0, 0), (0, 0), (0, 0)))
            right.append(np.asarray(self._predict(variables, filled))[: len(part)])
        return np.concatenate(right) == labels

    def without(self, blocks: Sequence[int], variables: Any = None) -> dict[str, Any]:
        """Returns the variables with blocks silenced."""
        variables = self.variables if variables is None else variables
        params = dict(variables["params"])
        for block in blocks:
            own = params[f"block_{block}"]
            silent = jax.tree.map(jnp.zeros_like, own["bn2"])
            params[f"block_{block}"] = {**own, "bn2": silent}
        return {**variables, "params": params}

    def loss_without(
        self, blocks: Sequence[int], images: np.ndarray, labels: np.ndarray
    ) -> float:
        """Returns the cross-entropy of the pruned network, BatchNorm re-estimated."""
        return float(self._loss(self.without(blocks), images, labels))


def load(depth: int, path: str) -> Network:
    """Returns the network with published weights."""
    config = resnet.cifar_config(depth)
    model = resnet.prunable_resnet(config)
    like = jax.eval_shape(model.init, jax.random.key(0))
    tensors = checkpoints.load_safetensors(path)
    variables = weights.read(resnet.weight_table(config), tensors, like)
    layout = model.stack(resnet.STACK).layouts["params"]
    assert layout is not None
    params = [cost.count_parameters(b) for b in layout.blocks(variables["params"])]
    return Network(model, variables, tuple(params))


def repaired(
    net: Network, blocks: Sequence[int], batches: Sequence[np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Yields variables without the blocks: untouched, re-estimated, fitted anew."""
    silenced = net.without(blocks)
    yield silenced
    yield heal.reestimate_batch_norm(net.model, silenced, batches)
    made = plan.make_plan(net.model.stack(resnet.STACK), blocks)
    model, variables = prunable.prune(net.model, net.variables, made)
    _, fresh, _ = refit.refit(
        net.model, net.variables, model, variables, made, batches, positions=16
    )
    # Back into the places of the unpruned network, next to the silent blocks.
    whole: dict[str, Any] = {}
    for name, tree in silenced.items():
        kept = {
            f"block_{b}": fresh[name][f"block_{i}"] for i, b in enumerate(made.kept)
        }
        others = {k: v for k, v in fresh[name].items() if not k.startswith("block_")}
        whole[name] = {**tree, **others, **kept}
    yield whole


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What the rules decide by, of one seed's calibration images."""

    net: Network
    seed: int
    key: jax.Array
    images: np.ndarray
    labels: np.ndarray
    threshold: float
    matrix: np.ndarray
    cosines: baselines.CosineState

    @functools.cached_property
    def _stack(self) -> plan.Stack:
        return self.net.model.stack(resnet.STACK)

    @functools.cached_property
    def _movable(self) -> list[int]:
        fixed = {0, *self._stack.protected}
        return [b for b in range(self._stack.num_blocks) if b not in fixed]

    def _size(self, blocks: Sequence[int]) -> int:
        return sum(self.net.params[block] for block in blocks)

    @functools.cached_property
    def anchored(self) -> Blocks:
        """What the paper's rule removes; its parameters are everyone's budget."""
        found = clusters.anchored(self.matrix, self.threshold)
        removed = clusters.removable(found)
        return tuple(b for b in removed if b not in self._stack.protected)

    def choose(self, rule: str) -> Blocks:
        """Returns the blocks that a rule removes within the budget."""
        if rule == "cka anchored":
            return self.anchored
        if rule == "cka optimal":
            return self._plans()[0]
        if rule == "cka rescored":
            best, *others = self._plans()
            # Plans that use less would be compared at fewer removed parameters.
            large = [p for p in others if self._size(p) >= 0.9 * self._budget]
            return baselines.rescore([best, *large], self._loss)[0][1]
        if rule == "last":
            return self._in_order(self._movable[::-1])
        if rule == "random":
            order = jax.random.permutation(self.key, len(self._movable))
            return self._in_order([self._movable[i] for i in np.asarray(order)])
        if rule == "block influence":
            influence = np.asarray(baselines.block_influence(self.cosines))
            return self._in_order(sorted(self._movable, key=lambda b: influence[b]))
        if rule == "angular":
            return self._closest_span()
        return self._greedy()

    @functools.cached_property
    def _budget(self) -> int:
        return self._size(self.anchored)

    def _loss(self, blocks: Blocks) -> float:
        part = slice(_LOSS_IMAGES)
        return self.net.loss_without(blocks, self.images[part], self.labels[part])

    def _in_order(self, ranked: Sequence[int]) -> Blocks:
        """Takes blocks from the first on, passing over those beyond the budget."""
        taken: list[int] = []
        for block in ranked:
            if self._size([*taken, block]) <= self._budget:
                taken.append(block)
        return tuple(sorted(taken))

    def _plans(self) -> list[Blocks]:
        """Returns the best plans of the programme, at the loosest threshold within."""
        stack = self._stack
        for threshold in np.arange(0.90, 1.0, 0.0025):
            found = clusters.best_clusters(
                self.matrix,
                float(threshold),
                self.net.params,
                stack.stages,
                tuple(stack.protected),
                num_plans=_PLANS,
            )
            plans = [clusters.removable(each) for each in found]
            if self._size(plans[0]) <= self._budget:
                return plans
        return [()]

    def _closest_span(self) -> Blocks:
        """Returns the span at the least angle of those that use up the budget."""
        angles = np.asarray(self.cosines.angle / self.cosines.weight)
        spans = []
        for first in self._movable:
            span: list[int] = []
            block = first
            while block in self._movable and self._size([*span, block]) <= self._budget:
                span.append(block)
                block += 1
            if span and self._size(span) >= 0.8 * self._budget:
                spans.append((float(angles[first - 1, span[-1]]), tuple(span)))
        return min(spans)[1] if spans else ()

    def _greedy(self) -> Blocks:
        """Removes the block of least loss, one at a time, while the budget lasts."""
        removed: Blocks = ()
        while True:
            options = [
                tuple(sorted((*removed, block)))
                for block in self._movable
                if block not in removed
                and self._size((*removed, block)) <= self._budget
            ]
            if not options:
                return removed
            removed = baselines.rescore(options, self._loss)[0][1]


def score(
    net: Network,
    seed: int,
    key: jax.Array,
    images: np.ndarray,
    labels: np.ndarray,
    threshold: float,
) -> Scores:
    """Returns what the rules decide by; similarity and cosines are computed here."""
    batches = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    activations_fn = net.model.activations[resnet.STACK]
    matrix = similarity.similarity_matrix(activations_fn, net.variables, batches)
    cosines = baselines.cosine_state(activations_fn, net.variables, batches)
    return Scores(
        net, seed, key, images, labels, threshold, np.asarray(matrix), cosines
    )
