"""One pruning run: from weights to a smaller, repaired and certified network."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from experiments import (
    json_files,
    progress,
    prune_analysis,
    prune_data,
    prune_evaluate,
    prune_measure,
    prune_repair,
    prune_report,
    prune_select,
    prune_task,
    prune_training,
    prune_weights,
)
from jaxprune import certify, checkpoints, heal, mpruner, recover
from jaxprune.batches import num_examples
from jaxprune.prunable import Prunable, Variables

_CALIBRATION_BATCH = 250


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
        job.model, splits.training.inputs.shape[1:], splits.num_classes
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

    state = mpruner.run(source.model, settings, run.functions(variables), state, save)
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
        self._task = prune_task.IMAGE_CLASSIFICATION
        self._evaluator = prune_evaluate.Evaluator(self._task)
        inputs = splits.calibration.inputs
        self._calibration = prune_data.full_batches(
            inputs, prune_data.batch_size(inputs, _CALIBRATION_BATCH)
        )
        self._key = jax.random.key(job.seed)
        self._train = functools.partial(
            prune_training.train,
            workdir,
            self._task,
            splits.training,
            self._evaluate,
            prune_training.augmentation(job.dataset),
        )
        self._heal = functools.partial(
            prune_repair.without_gradients, job.heal, self._calibration
        )

    def functions(self, base_variables: Variables) -> mpruner.Functions:
        """Returns what the loop calls."""
        rule = prune_select.Rule(
            self._job.score,
            self._job.clusters,
            self._job.threshold,
            self._calibration,
            self._task.token_masks,
            self._loss,
            self._key,
        )
        return mpruner.Functions(
            analyse=functools.partial(
                prune_analysis.analyse, self._workdir, self._task, self._calibration
            ),
            select=functools.partial(prune_select.select, rule),
            heal=self._heal,
            recover=functools.partial(self._recover, base_variables),
            evaluate=self._evaluate,
        )

    def base_variables(self) -> dict[str, Any]:
        """Reads the weights, or trains them and keeps them in the workdir."""
        model, path = self._source.model, self._workdir / "base"
        if checkpoints.exists(path):
            return checkpoints.load(path)[0]
        if self._job.weights is not None:
            variables = prune_weights.read(self._source, self._job.weights)
        else:
            init_key, order_key = jax.random.split(jax.random.fold_in(self._key, 0))
            recipe = recover.Recipe(
                self._job.train_epochs,
                batch_size=self._job.batch_size,
                learning_rate=self._job.learning_rate,
            )
            start = jax.jit(model.init)(init_key)
            variables = self._train(model, start, recipe, order_key, name="train")
        checkpoints.save(path, variables, {"model": self._source.name})
        return variables

    def _evaluate(self, model: Prunable, variables: Variables) -> float:
        """Returns the accuracy on the selection split."""
        return self._evaluator.accuracy(model, variables, self._splits.selection)

    def _loss(self, model: Prunable, variables: Variables) -> float:
        """Returns the loss on a calibration batch, after re-estimation."""
        inputs = self._calibration[0]
        labels = self._splits.calibration.labels[: num_examples(inputs)]
        if "batchnorm" in self._job.heal:
            variables = heal.reestimate_batch_norm(model, variables, [inputs])
        outputs = jax.jit(model.apply)(variables, inputs)
        return float(self._task.loss(outputs, jnp.asarray(labels)))

    def _recover(
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
            mask = prune_repair.next_to_cuts(model, variables, plans)
        teacher = None
        if self._job.distillation:
            kept = {name: tuple(b) for name, b in model.structure.kept.items()}
            teacher = recover.Teacher(self._source.model, base_variables, kept)
        recipe = recover.Recipe(
            self._job.recovery_epochs,
            batch_size=self._job.batch_size,
            learning_rate=self._job.learning_rate / 2,
            distillation=self._job.distillation,
        )
        return self._train(
            model,
            variables,
            recipe,
            jax.random.fold_in(self._key, number),
            name=f"recover, round {number}",
            mask=mask,
            teacher=teacher,
        )

    def conclude(self, variables: Variables, state: mpruner.State) -> dict[str, Any]:
        """Measures both models on untouched examples and writes all outputs."""
        base = self._source.model
        accepted = state.accepted.structure
        models = {
            "base": (base, variables),
            "pruned": (base.build(accepted), state.accepted.variables),
        }
        examples = self._splits.certificate
        progress.note(f"certifying on {len(examples)} examples")
        correct = {
            name: self._evaluator.correct(*model, examples)
            for name, model in models.items()
        }
        certificate = certify.accuracy_drop_certificate(
            correct["base"],
            correct["pruned"],
            self._job.max_accuracy_drop,
            self._job.confidence,
        )
        measured = prune_measure.measure(models, correct, examples.inputs)
        measured["base"]["selection_accuracy"] = state.base_accuracy
        measured["pruned"] |= {
            "selection_accuracy": state.accepted_accuracy,
            "kept_blocks": {name: list(kept) for name, kept in accepted.kept.items()},
            "adapters": {name: list(b) for name, b in accepted.adapters.items()},
        }
        prune_weights.write(self._source, *models["pruned"], self._workdir)
        return prune_report.write(
            self._workdir,
            dataclasses.asdict(self._job),
            state,
            measured,
            dataclasses.asdict(certificate),
            json_files.read_json(self._workdir / prune_analysis.TIMING_FILE),
        )
