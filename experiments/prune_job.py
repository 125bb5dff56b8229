"""One pruning run: from weights to a smaller, repaired and certified network."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from experiments import (
    data,
    json_files,
    model_names,
    progress,
    prune_analysis,
    prune_base,
    prune_data,
    prune_evaluate,
    prune_images,
    prune_measure,
    prune_models,
    prune_repair,
    prune_report,
    prune_select,
    prune_sparsify,
    prune_text,
    prune_training,
    prune_weights,
)
from jaxprune import heal, mpruner, recover
from jaxprune.batches import num_examples
from jaxprune.prunable import Prunable, Variables

_CALIBRATION_BATCH = 250


@dataclasses.dataclass(frozen=True)
class Job:
    """What to prune and how; the fields are the flags of prune_model."""

    model: str
    weights: str | None
    size: str
    dataset: str
    data_dir: str | None
    threshold: float
    stride: int
    max_accuracy_drop: float
    confidence: float
    heal: tuple[str, ...] | None
    recovery_epochs: int
    freeze: bool
    score: str
    clusters: str
    block_cost: str
    remove: tuple[str, ...]
    noise_permutations: int
    train_epochs: int
    finetune_epochs: int
    max_rounds: int | None
    learning_rate: float
    distillation: float
    batch_size: int
    max_length: int
    sparsity: tuple[float, ...]
    sparsify: str
    calibration_examples: int
    selection_examples: int
    training_examples: int | None
    certificate_examples: int | None
    seed: int


def run_job(job: Job, workdir: pathlib.Path) -> dict[str, Any]:
    """Prunes, writes all outputs, prints the summary, and returns the report."""
    progress.note(f"reading {job.dataset}")
    splits, source = _read(job)
    source = prune_weights.begun_from(source, job.weights)
    if job.heal is None:
        methods = prune_repair.default_methods(job.model, source.model)
        job = dataclasses.replace(job, heal=methods)
    run = _Run(job, workdir, splits, source)
    base = run.base()
    settings = mpruner.Settings(
        max_accuracy_drop=job.max_accuracy_drop,
        stride=job.stride,
        max_stride=max(3, job.stride),
        max_rounds=job.max_rounds,
    )
    state = mpruner.load_state(workdir / "loop")
    if state is None:
        state = mpruner.init(source.model, base.variables, settings)

    before = state
    chosen = "as named" if job.remove else f"at threshold {job.threshold}"

    def save(state: mpruner.State) -> None:
        nonlocal before
        mpruner.save_state(workdir / "loop", state)
        prune_report.tell(before, state, chosen)
        before = state

    functions = run.functions(base.variables)
    state = mpruner.run(source.model, settings, functions, state, save)
    return run.conclude(base, state)


def _read(job: Job) -> tuple[prune_data.Splits, prune_weights.Source]:
    """Returns the examples and the model that was made for them."""
    load = functools.partial(
        prune_data.load,
        job.dataset,
        job.data_dir,
        seed=job.seed,
        num_calibration=job.calibration_examples,
        num_selection=job.selection_examples,
        num_training=job.training_examples,
        num_certificate=job.certificate_examples,
        trained_elsewhere=job.weights is not None,
        needs_training=job.weights is None
        or job.recovery_epochs + job.finetune_epochs > 0,
    )
    directory = job.weights if model_names.is_hugging_face(job.weights) else None
    if model_names.kind(job.model, job.dataset) is model_names.Kind.IMAGES:
        splits = load(functools.partial(prune_images.make_prepare, directory))
        shape = splits.training.inputs.shape[1:]
        names = splits.class_names
        return splits, prune_models.for_images(job.model, directory, shape, names)
    tokenizer = prune_text.obtain_tokenizer(
        job.model, job.dataset, job.data_dir, directory
    )
    source = prune_models.for_texts(
        job.model,
        directory,
        tokenizer,
        job.max_length,
        data.class_names(job.dataset),
        job.size,
    )
    if job.model == "t5":
        ids = (source.config.start_id, source.config.end_id)
        prepare = functools.partial(
            prune_text.to_answer, tokenizer, job.max_length, *ids
        )
    else:
        prepare = functools.partial(prune_text.to_classify, tokenizer, job.max_length)
    return load(prepare), source


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
        self._task = source.task
        self._evaluator = prune_evaluate.Evaluator(self._task)
        inputs = splits.calibration.inputs
        self._calibration = prune_data.full_batches(
            inputs, prune_data.batch_size(inputs, _CALIBRATION_BATCH)
        )
        self._key = jax.random.key(job.seed)
        self._given = None
        if job.remove:
            self._given = prune_select.given(job.remove, source.model)
        self._train = functools.partial(
            prune_training.train,
            workdir,
            self._task,
            splits.training,
            self._evaluate,
            prune_images.augmentation(job.dataset),
        )
        self._healers = job.heal or ()
        self._heal = functools.partial(
            prune_repair.without_gradients,
            self._healers,
            self._calibration,
            token_masks=self._task.token_masks,
        )

    def functions(self, base_variables: Variables) -> mpruner.Functions:
        """Returns what the loop calls."""
        rule = prune_select.Rule(
            self._job.score,
            self._job.clusters,
            self._job.block_cost,
            self._job.threshold,
            self._calibration,
            self._task.token_masks,
            self._loss,
            self._key,
            self._given,
        )
        return mpruner.Functions(
            analyse=self._analyse,
            select=functools.partial(prune_select.select, rule),
            heal=self._heal,
            recover=functools.partial(self._recover, base_variables),
            evaluate=self._evaluate,
        )

    def _analyse(self, model: Prunable, variables: Variables) -> dict[str, Any]:
        """Returns similarity by stack, after a look at the noise if it is asked for."""
        path = self._workdir / prune_analysis.NOISE_FILE
        if self._job.noise_permutations and not path.exists():
            floors = prune_analysis.check_noise(
                self._task,
                self._job.threshold,
                self._job.noise_permutations,
                jax.random.fold_in(self._key, 2000),
                model,
                variables,
                self._calibration[0],
            )
            json_files.write_json_atomic(path, {"noise_floor": floors})
        return prune_analysis.analyse(
            self._workdir, self._task, self._calibration, model, variables
        )

    def base(self) -> prune_base.Base:
        """Reads the weights, or trains them, and keeps them in the workdir."""
        recipe = recover.Recipe(
            self._job.train_epochs,
            batch_size=self._job.batch_size,
            learning_rate=self._job.learning_rate,
        )
        return prune_base.obtain(
            self._source,
            self._job.weights,
            self._workdir,
            self._train,
            recipe,
            self._job.finetune_epochs,
            jax.random.fold_in(self._key, 0),
        )

    def _evaluate(self, model: Prunable, variables: Variables) -> float:
        """Returns the accuracy on the selection split."""
        return self._evaluator.accuracy(model, variables, self._splits.selection)

    def _loss(self, model: Prunable, variables: Variables) -> float:
        """Returns the loss on a calibration batch, after re-estimation."""
        inputs = self._calibration[0]
        labels = self._splits.calibration.labels[: num_examples(inputs)]
        if self._healers:
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

    def conclude(self, base: prune_base.Base, state: mpruner.State) -> dict[str, Any]:
        """Measures both models on untouched examples and writes all outputs."""
        structure = state.accepted.structure
        unpruned, pruned = self._source.model, self._source.model.build(structure)
        candidates = prune_sparsify.candidates(
            self._job.sparsify,
            self._job.sparsity,
            pruned,
            state.accepted.variables,
            self._source.module(structure),
            self._calibration,
            self._task,
            reestimate=bool(self._healers),
        )
        examples = self._splits.certificate
        progress.note(f"certifying on {len(examples)} examples")
        base_correct = self._evaluator.correct(unpruned, base.variables, examples)
        correct = [
            # Nothing was accepted: it is the same model.
            base_correct
            if candidate.variables is state.accepted.variables
            and structure == unpruned.structure
            else self._evaluator.correct(pruned, candidate.variables, examples)
            for candidate in candidates
        ]
        chosen, certificates = prune_sparsify.certified(
            base_correct, correct, self._job.max_accuracy_drop, self._job.confidence
        )
        variables = candidates[chosen].variables
        measured = prune_measure.measure(
            {"base": (unpruned, base.variables), "pruned": (pruned, variables)},
            {"base": base_correct, "pruned": correct[chosen]},
            examples.inputs,
        )
        measured["base"] |= {
            "origin": base.origin,
            "selection_accuracy": state.base_accuracy,
        }
        measured["pruned"] |= {
            "selection_accuracy": self._evaluate(pruned, variables),
            "sparsity": candidates[chosen].sparsity,
            "repairs": prune_repair.methods_for(self._healers, pruned),
            "kept_blocks": {name: list(kept) for name, kept in structure.kept.items()},
            "adapters": {name: list(b) for name, b in structure.adapters.items()},
        }
        prune_weights.write(self._source, pruned, variables, self._workdir)
        return prune_report.write(
            self._workdir,
            dataclasses.asdict(self._job),
            state,
            measured,
            dataclasses.asdict(certificates[chosen]),
            {
                "data": self._splits.describe(),
                "sparsified": prune_sparsify.describe(
                    candidates, correct, certificates
                ),
                **json_files.read_json(self._workdir / prune_analysis.TIMING_FILE),
                **json_files.read_json(
                    self._workdir / prune_analysis.NOISE_FILE, missing={}
                ),
            },
        )
