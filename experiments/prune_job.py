"""One pruning run: from weights to a smaller, repaired and certified network."""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import json_files, progress, prune_data, prune_report, prune_weights
from jaxprune import (
    baselines,
    certify,
    checkpoints,
    clusters,
    cost,
    heal,
    mpruner,
    prunable,
    recover,
    similarity,
)
from jaxprune import plan as plan_lib
from jaxprune.prunable import Prunable, Variables

_EVALUATION_BATCH = 500
_CALIBRATION_BATCH = 250
_LATENCY_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Job:
    """What to prune and how; the fields are the flags of prune_model."""

    model: str
    weights: str | None
    dataset: str
    data_dir: str | None
    threshold: float
    stride: int
    max_accuracy_drop: float
    confidence: float
    heal: tuple[str, ...]
    recovery_epochs: int
    freeze: bool
    score: str
    clusters: str
    train_epochs: int
    max_rounds: int | None
    learning_rate: float
    distillation: float
    batch_size: int
    calibration_examples: int
    selection_examples: int
    seed: int


def run_job(job: Job, workdir: pathlib.Path) -> dict[str, Any]:
    """Prunes, writes all outputs, prints the summary, and returns the report."""
    progress.note(f"reading {job.dataset}")
    splits = prune_data.load(
        job.dataset,
        job.data_dir,
        seed=job.seed,
        num_calibration=job.calibration_examples,
        num_selection=job.selection_examples,
        trained_elsewhere=job.weights is not None,
        needs_training=job.weights is None or job.recovery_epochs > 0,
    )
    source = prune_weights.make(
        job.model, splits.training.images.shape[1:], splits.num_classes
    )
    run = _Run(job, workdir, splits, source)
    variables = run.base_variables()
    settings = mpruner.Settings(
        max_accuracy_drop=job.max_accuracy_drop,
        stride=job.stride,
        max_stride=max(3, job.stride),
        max_rounds=job.max_rounds,
    )
    state = mpruner.load_state(workdir / "loop")
    if state is None:
        state = mpruner.init(source.model, variables, settings)

    before = state

    def save(state: mpruner.State) -> None:
        nonlocal before
        mpruner.save_state(workdir / "loop", state)
        prune_report.tell(before, state, job.threshold)
        before = state

    functions = mpruner.Functions(
        analyse=run.analyse,
        select=run.select,
        heal=run.heal,
        recover=functools.partial(run.recover, variables),
        evaluate=run.evaluate,
    )
    state = mpruner.run(source.model, settings, functions, state, save)
    return run.conclude(variables, state)


class _Run:
    """The functions that the loop calls, bound to the data of one job."""

    def __init__(
        self,
        job: Job,
        workdir: pathlib.Path,
        splits: prune_data.Splits,
        source: prune_weights.Source,
    ):
        self._job = job
        self._workdir = workdir
        self._splits = splits
        self._source = source
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._calibration = prune_data.full_batches(
            splits.calibration.images, _CALIBRATION_BATCH
        )
        self._key = jax.random.key(job.seed)

    def base_variables(self) -> dict[str, Any]:
        """Reads the weights, or trains them and keeps them in the workdir."""
        model, path = self._source.model, self._workdir / "base"
        if checkpoints.exists(path):
            return checkpoints.load(path)[0]
        if self._job.weights is not None:
            variables = prune_weights.read(self._source, self._job.weights)
        else:
            init_key, order_key = jax.random.split(jax.random.fold_in(self._key, 0))
            variables = self._train(
                model,
                jax.jit(model.init)(init_key),
                recover.Recipe(
                    self._job.train_epochs,
                    batch_size=self._job.batch_size,
                    learning_rate=self._job.learning_rate,
                ),
                order_key,
                name="train",
            )
        checkpoints.save(path, variables, {"model": self._source.name})
        return variables

    def _train(
        self,
        model: Prunable,
        variables: Variables,
        recipe: recover.Recipe,
        key: jax.Array,
        *,
        name: str,
        **options: Any,
    ) -> dict[str, Any]:
        """Trains with progress, and goes on where an earlier run stopped."""
        examples = self._splits.training
        path = self._workdir / "training"
        start = recover.init(variables, recipe, len(examples), mask=options.get("mask"))
        leaves, structure = jax.tree.flatten(start)
        resume = None
        if checkpoints.exists(path) and checkpoints.describe(path)["name"] == name:
            arrays, facts = checkpoints.load(path)
            saved = [arrays[f"{i:05d}"] for i in range(len(leaves))]
            resume = jax.tree.unflatten(structure, saved)._replace(**facts["counters"])

        def save(state: recover.TrainState) -> None:
            counters = {
                name: getattr(state, name)
                for name in ("epoch", "best_score", "epochs_since_best")
            }
            arrays = {
                f"{i:05d}": np.asarray(leaf)
                for i, leaf in enumerate(jax.tree.leaves(state))
            }
            checkpoints.save(path, arrays, {"name": name, "counters": counters})

        done = 0 if resume is None else int(resume.epoch)
        with progress.Progress(name, recipe.epochs, done=done) as bar:
            return recover.fine_tune(
                model,
                variables,
                examples.images,
                examples.labels,
                recipe,
                key,
                augment=_augment(self._job.dataset),
                resume=resume,
                save=save,
                on_epoch=lambda epoch: bar.advance(
                    loss=epoch.loss, accuracy=epoch.score
                ),
                evaluate=functools.partial(self.evaluate, model),
                **options,
            )

    def _correct(
        self, model: Prunable, variables: Variables, examples: prune_data.Examples
    ) -> np.ndarray:
        """Returns for each example whether it is classified correctly."""
        structure = json.dumps(model.structure.to_json())
        if structure not in self._compiled:
            self._compiled[structure] = jax.jit(
                lambda variables, images: model.apply(variables, images).argmax(-1)
            )
        predict = self._compiled[structure]
        predictions = []
        for start in range(0, len(examples), _EVALUATION_BATCH):
            images = examples.images[start : start + _EVALUATION_BATCH]
            # Filled up, so that all batches share one compiled program.
            missing = _EVALUATION_BATCH - len(images)
            filled = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
            predictions.append(predict(variables, filled)[: len(images)])
        return np.concatenate(predictions) == examples.labels

    def evaluate(self, model: Prunable, variables: Variables) -> float:
        """Returns the accuracy on the selection split."""
        return float(self._correct(model, variables, self._splits.selection).mean())

    def analyse(self, model: Prunable, variables: Variables) -> dict[str, np.ndarray]:
        """Returns similarity by stack; times the first analysis."""
        path = self._workdir / "analysis.json"
        matrices, seconds = {}, 0.0
        for name, activations_fn in model.activations.items():
            step = jax.jit(similarity.batch_total_fn(activations_fn))
            matrices[name], spent = _timed_similarity(
                step, variables, self._calibration
            )
            seconds += spent
        if not path.exists():
            forward = _timed_forward(model, variables, self._calibration)
            json_files.write_json_atomic(
                path, {"analysis_seconds": seconds, "forward_seconds": forward}
            )
        return matrices

    def select(
        self,
        model: Prunable,
        variables: Variables,
        matrices: Any,
        stride: int,
    ) -> dict[str, tuple[int, ...]]:
        """Returns the blocks to remove, by stack."""
        chosen = {}
        for stack in model.stacks:
            matrix = matrices[stack.name]
            if self._job.clusters == "optimal":
                params = stack.layouts["params"]
                assert params is not None
                costs = [
                    float(cost.count_parameters(block))
                    for block in params.blocks(variables["params"])
                ]
                found = clusters.optimal(
                    matrix,
                    self._job.threshold,
                    costs,
                    stack.stages,
                    tuple(stack.protected),
                    stride=stride,
                )
            else:
                found = clusters.anchored(matrix, self._job.threshold)
            removed = clusters.removable(found, stride)
            chosen[stack.name] = tuple(b for b in removed if b not in stack.protected)
        if self._job.score == "cka":
            return chosen
        return {
            stack.name: self._by_baseline(
                model, variables, stack.name, len(chosen[stack.name])
            )
            for stack in model.stacks
        }

    def _by_baseline(
        self, model: Prunable, variables: Variables, name: str, count: int
    ) -> tuple[int, ...]:
        """Returns as many blocks as CKA would remove, chosen by another rule."""
        stack = model.stack(name)
        protected = {*stack.protected, 0}
        if not count:
            return ()
        if self._job.score == "last":
            return baselines.last_blocks(stack.num_blocks, count, protected)
        if self._job.score == "random":
            key = jax.random.fold_in(self._key, 1000 + stack.num_blocks)
            return baselines.random_blocks(key, stack.num_blocks, count, protected)
        if self._job.score == "loss":
            return self._greedy(model, variables, name, count, protected)
        cosines = baselines.cosine_state(
            model.activations[name], variables, self._calibration
        )
        if self._job.score == "block_influence":
            scores = np.asarray(baselines.block_influence(cosines))
            return baselines.lowest_scores(scores, count, protected)
        # A span of neighbours: as long as fits between the blocks that must stay.
        for length in range(count, 0, -1):
            try:
                return baselines.closest_span(cosines, length, protected)
            except ValueError:
                continue
        return ()

    def _greedy(
        self,
        model: Prunable,
        variables: Variables,
        name: str,
        count: int,
        protected: set[int],
    ) -> tuple[int, ...]:
        examples = self._splits.calibration.take(np.arange(_CALIBRATION_BATCH))

        def loss(removed: tuple[int, ...]) -> float:
            plan = plan_lib.make_plan(model.stack(name), removed)
            smaller, pruned = prunable.prune(model, variables, plan)
            if "batchnorm" in self._job.heal:
                pruned = heal.reestimate_batch_norm(smaller, pruned, [examples.images])
            logits = jax.jit(smaller.apply)(pruned, examples.images)
            return float(recover.cross_entropy(logits, jnp.asarray(examples.labels)))

        depth = model.stack(name).num_blocks
        return baselines.greedy_by_loss(loss, depth, count, protected)[-1]

    def heal(
        self,
        before: Prunable,
        before_variables: Variables,
        after: Prunable,
        variables: Variables,
        plans: mpruner.Plans,
    ) -> tuple[Prunable, dict[str, Any]]:
        """Repairs without gradients, as asked for."""
        variables = dict(variables)
        if "linear" in self._job.heal and after.attach is not None:
            for plan in plans:
                after, variables, _ = heal.fit_linear_maps(
                    before,
                    before_variables,
                    after,
                    variables,
                    plan,
                    self._calibration,
                    reestimate="batchnorm" in self._job.heal,
                )
        elif "batchnorm" in self._job.heal:
            variables = heal.reestimate_batch_norm(after, variables, self._calibration)
        return after, variables

    def recover(
        self,
        base_variables: Variables,
        model: Prunable,
        variables: Variables,
        plans: mpruner.Plans,
        number: int,
    ) -> dict[str, Any]:
        """Trains the healed model, with the unpruned one as teacher."""
        if not self._job.recovery_epochs:
            return dict(variables)
        mask = None
        if self._job.freeze:
            mask = _part(model, variables, plans)
        teacher = None
        if self._job.distillation:
            kept = {name: tuple(b) for name, b in model.structure.kept.items()}
            teacher = recover.Teacher(self._source.model, base_variables, kept)
        return self._train(
            model,
            variables,
            recover.Recipe(
                self._job.recovery_epochs,
                batch_size=self._job.batch_size,
                learning_rate=self._job.learning_rate / 2,
                distillation=self._job.distillation,
            ),
            jax.random.fold_in(self._key, number),
            name=f"recover, round {number}",
            mask=mask,
            teacher=teacher,
        )

    def conclude(self, variables: Variables, state: mpruner.State) -> dict[str, Any]:
        """Measures both models on untouched examples and writes all outputs."""
        base = self._source.model
        pruned = base.build(state.accepted.structure)
        smaller = state.accepted.variables
        progress.note(f"certifying on {len(self._splits.certificate)} examples")
        examples = self._splits.certificate
        base_correct = self._correct(base, variables, examples)
        pruned_correct = self._correct(pruned, smaller, examples)
        certificate = certify.accuracy_drop_certificate(
            base_correct,
            pruned_correct,
            self._job.max_accuracy_drop,
            self._job.confidence,
        )
        images = examples.images[:_LATENCY_BATCH]
        arguments = {"base": (variables, images), "pruned": (smaller, images)}
        compiled = {
            "base": jax.jit(base.apply).lower(variables, images).compile(),
            "pruned": jax.jit(pruned.apply).lower(smaller, images).compile(),
        }
        latency = cost.compare_latency(compiled, arguments)
        measured = {
            "base": _measures(base, variables, base_correct),
            "pruned": _measures(pruned, smaller, pruned_correct),
        }
        for name, facts in measured.items():
            flops = cost.count_flops(compiled[name])
            facts["flops"] = flops and flops / len(images)
            facts["latency_ms"] = latency[name].median_ms
            facts["latency_quartiles_ms"] = latency[name][1:3]
            facts["latency_batch_size"] = len(images)
        measured["base"]["selection_accuracy"] = state.base_accuracy
        measured["pruned"]["selection_accuracy"] = state.accepted_accuracy
        measured["pruned"]["kept_blocks"] = {
            name: list(kept) for name, kept in state.accepted.structure.kept.items()
        }
        measured["pruned"]["adapters"] = {
            name: list(kept) for name, kept in state.accepted.structure.adapters.items()
        }
        prune_weights.write(self._source, pruned, smaller, self._workdir)
        timing = json_files.read_json(self._workdir / "analysis.json")
        report = prune_report.write(
            self._workdir,
            dataclasses.asdict(self._job),
            state,
            measured,
            dataclasses.asdict(certificate),
            timing,
            {stack.name: stack.stages for stack in base.stacks},
        )
        return report


def _measures(
    model: Prunable, variables: Variables, correct: np.ndarray
) -> dict[str, Any]:
    return {
        "accuracy": float(correct.mean()),
        "num_params": cost.count_parameters(variables["params"]),
        "num_blocks": sum(stack.num_blocks for stack in model.stacks),
    }


def _part(model: Prunable, variables: Variables, plans: mpruner.Plans) -> Any:
    """Returns the mask of what is trained when all but the neighbours are frozen."""
    mask: Any = None
    for plan in plans:
        layout = model.stack(plan.stack).layouts["params"]
        assert layout is not None
        part = recover.trainable_mask(
            variables["params"], layout, recover.blocks_next_to_cuts(plan)
        )
        mask = part if mask is None else jax.tree.map(np.logical_and, mask, part)
    return mask


def _timed_similarity(
    step: Callable[..., similarity.SimilarityState],
    variables: Variables,
    batches: list[np.ndarray],
) -> tuple[np.ndarray, float]:
    """Returns the matrix, and the seconds it took once compiled."""
    masks = [np.ones(len(images), bool) for images in batches]
    jax.block_until_ready(step(variables, batches[0], masks[0]))
    started = time.perf_counter()
    state = None
    for images, mask in progress.track(
        list(zip(batches, masks, strict=True)), "similarity"
    ):
        added = step(variables, images, mask)
        state = added if state is None else similarity.merge(state, added)
        jax.block_until_ready(state)  # so that the progress shown is true
    assert state is not None
    matrix = np.asarray(similarity.finish(state))
    return matrix, time.perf_counter() - started


def _timed_forward(
    model: Prunable, variables: Variables, batches: list[np.ndarray]
) -> float:
    forward = jax.jit(model.apply)
    jax.block_until_ready(forward(variables, batches[0]))
    started = time.perf_counter()
    for images in batches:
        jax.block_until_ready(forward(variables, images))
    return time.perf_counter() - started


def _augment(dataset: str) -> recover.AugmentFn | None:
    """Returns the usual augmentation: shifts, and mirrors for photographs."""
    pixels = {"cifar10_jpeg": 4}.get(dataset, 0)
    return functools.partial(_shift_and_mirror, pixels) if pixels else None


def _shift_and_mirror(pixels: int, key: jax.Array, images: jax.Array) -> jax.Array:
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
