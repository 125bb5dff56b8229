r"""Prunes the redundant blocks of a network, repairs it, and certifies what that cost.

    python -m experiments.prune_model --model=resnet56 --weights=FILE \
      --dataset=cifar10_jpeg --data_dir=DIR --threshold=0.98 --stride=1 \
      --max_accuracy_drop=0.01 --confidence=0.95 --heal=batchnorm,linear \
      --recovery_epochs=3 --freeze=false --score=cka --clusters=anchored --workdir=OUT

Without --weights the model is trained first. The state is saved after every step and
every epoch; the same command resumes. `report.json`, `report.html`, `checkpoint/` and,
for weights in safetensors, `pruned.safetensors` end the run.
"""

from collections.abc import Sequence

from absl import flags

from experiments import data, model_names, run_state

HEALERS = ("batchnorm", "linear", "refit")
SCORES = ("cka", "block_influence", "angular", "loss", "last", "random")
CLUSTERS = ("anchored", "optimal", "rescored")
SPARSIFIERS = ("magnitude", "wanda")
OUTPUTS = (
    "report.json",
    "report.html",
    "analysis.json",
    "noise.json",
    "similarity*.npy",
    "checkpoint",
    "pruned.safetensors",
    "config.json",
    "pruned",
    # State, from which an interrupted run goes on.
    "base",
    "loop",
    "training",
    ".*.partial",
    ".*.old",
)

FLAGS = run_state.new_flags()
flags.DEFINE_string(
    "model",
    None,
    "small_resnet, resnet20 .. resnet110 (6n + 2), resnet18 .. resnet152 (ImageNet's), "
    "vit, bert, t5, or module:function of your own, where function() returns a "
    "jaxprune.Prunable.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "weights",
    None,
    "Safetensors file or directory, or a checkpoint of this project; trained first "
    "when it is left out.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "size",
    "small",
    ["small", "base"],
    "Of bert and t5 without --weights: small, which a CPU trains in minutes, or base, "
    "that of BERT-base and T5-base.",
    flag_values=FLAGS,
)
flags.DEFINE_string("dataset", None, "Data set.", required=True, flag_values=FLAGS)
flags.DEFINE_float(
    "threshold", 0.98, "Similarity that makes a cluster, in (0, 1].", flag_values=FLAGS
)
flags.DEFINE_integer(
    "stride",
    1,
    "K of the first round: of a cluster, every K-th block after the first is removed.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "max_accuracy_drop",
    0.01,
    "Largest accepted drop of accuracy against the unpruned model, in [0, 1].",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "confidence", 0.95, "Of the certificate, in (0, 1).", flag_values=FLAGS
)
flags.DEFINE_list(
    "heal",
    None,
    "Repairs without gradients: refit (kept blocks fitted anew, which costs no "
    "parameters), linear (maps in the place of removed blocks, which do), batchnorm "
    "(statistics estimated anew), several, or none. By default refit where the model "
    "says how, else batchnorm,linear.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "recovery_epochs",
    3,
    "Epochs of training after each cut.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "freeze",
    False,
    "In recovery, train only the blocks next to a cut (and what is in no block).",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "score",
    "cka",
    list(SCORES),
    "Rule that chooses blocks; the others remove as many as cka would.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "clusters",
    "anchored",
    list(CLUSTERS),
    "anchored: the paper's rule; optimal: removes the most (see --block_cost); "
    "rescored: of the 8 that remove the most, the one of least loss after repair.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "block_cost",
    "parameters",
    ["parameters", "latency"],
    "What optimal and rescored clusters save the most of; latency is measured.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "remove",
    [],
    "Blocks to remove instead of those that a rule chooses: numbers of the unpruned "
    "model, with the stack where there are several, such as encoder:3,decoder:5.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "noise_permutations",
    0,
    "Permutations of a calibration batch that tell which similarity unrelated blocks "
    "reach by chance, with a warning if that is the threshold; 0 does not look.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "train_epochs",
    8,
    "Epochs of training without --weights, or of weights without a head for the task.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "finetune_epochs",
    0,
    "Epochs of training of --weights before anything is pruned: a fair baseline.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_rounds",
    None,
    "Largest number of rounds; 0 trains and measures the unpruned model alone.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Peak rate of training, twice that of recovery; by default 2e-3, of transformers "
    "1e-3 from scratch and 5e-5 from weights.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "distillation",
    0.5,
    "Weight of the unpruned model's logits in recovery, in [0, 1].",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size", 64, "Examples of a training step.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "max_length",
    64,
    "Tokens after which texts are cut.",
    lower_bound=4,
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "sparsity",
    [],
    "Shares of each kernel to set to zero after blocks were removed, such as 0.1,0.2; "
    "the largest that is certified together with the ones below it is kept.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "sparsify",
    "wanda",
    list(SPARSIFIERS),
    "Rule that chooses those weights.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "calibration_examples",
    2000,
    "Training examples for similarity and repair.",
    lower_bound=8,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "selection_examples",
    2000,
    "Examples that decide whether a cut is accepted; at most a fifth of their split.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "training_examples",
    None,
    "Training examples to learn from, drawn at random, where there is no time for all; "
    "those for calibration are among them.",
    lower_bound=8,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "certificate_examples",
    None,
    "Examples of the final comparison and its certificate, drawn at random; all that "
    "serve nothing else by default.",
    lower_bound=8,
    flag_values=FLAGS,
)


def _require(fine: bool, flag: str, remedy: str) -> None:
    if not fine:
        raise run_state.usage_error(flag, FLAGS[flag].value, remedy)


def _check_flags() -> None:
    """Checks all that can be known before jax is imported."""
    in_unit_interval = "must lie in [0, 1]"
    drop, distillation = FLAGS.max_accuracy_drop, FLAGS.distillation
    _require(0 < FLAGS.threshold <= 1, "threshold", "must lie in (0, 1]")
    _require(0 < FLAGS.confidence < 1, "confidence", "must lie in (0, 1)")
    _require(0 <= drop <= 1, "max_accuracy_drop", in_unit_interval)
    _require(0 <= distillation <= 1, "distillation", in_unit_interval)
    rate = FLAGS.learning_rate
    _require(rate is None or 0 < rate < 1, "learning_rate", "must lie in (0, 1)")
    heal = FLAGS.heal
    known = heal in (None, ["none"]) or (set(heal) <= set(HEALERS) and len(heal))
    _require(bool(known), "heal", f"valid are {', '.join(HEALERS)}, or none")
    levels = _sparsity()
    _require(
        all(0 < level < 1 for level in levels) and len(set(levels)) == len(levels),
        "sparsity",
        "must be different shares in (0, 1), separated by commas, such as 0.1,0.2",
    )
    _require(
        all(entry.rpartition(":")[2].isdecimal() for entry in FLAGS.remove),
        "remove",
        "must be numbers of blocks, such as 3,4 or encoder:3,decoder:5",
    )
    _require(
        FLAGS.size == "small" or (FLAGS.model in ("bert", "t5") and not FLAGS.weights),
        "size",
        "is that of bert or t5 without --weights; other models have one size",
    )
    own = ":" in FLAGS.model
    _require(
        not (levels and own and FLAGS.sparsify == "wanda"),
        "sparsify",
        "needs to know the layers of a model of your own; magnitude does not",
    )
    data.check_dataset(FLAGS.dataset, FLAGS.data_dir)
    reads = model_names.kind(FLAGS.model, FLAGS.dataset)
    if FLAGS.weights is None:
        _require(
            not FLAGS.finetune_epochs,
            "finetune_epochs",
            "needs --weights; --train_epochs trains without them",
        )
    else:
        model_names.check_weights(FLAGS.model, FLAGS.weights, reads)
        if model_names.is_hugging_face(FLAGS.weights) and ":" not in FLAGS.model:
            _check_checkpoint(FLAGS.weights)


def _check_checkpoint(path: str) -> None:
    """Checks that a checkpoint of transformers can take these texts and classes."""
    if FLAGS.model != "bert":
        return
    config = model_names.read_config(path, FLAGS.model)
    positions = config.get("max_position_embeddings") or 512
    _require(
        isinstance(positions, int) and FLAGS.max_length <= positions,
        "max_length",
        f"the model reads at most {positions} tokens",
    )
    classifies = "Classification" in str(config.get("architectures"))
    found = int(config.get("num_labels") or len(config.get("id2label") or "ab"))
    wanted = len(data.class_names(FLAGS.dataset))
    _require(
        not classifies or found == wanted,
        "weights",
        f"tells {found} classes apart, --dataset={FLAGS.dataset} has {wanted}; give "
        "the model without its head",
    )


def _heal() -> tuple[str, ...] | None:
    if FLAGS.heal is None:
        return None
    return () if FLAGS.heal == ["none"] else tuple(FLAGS.heal)


def _sparsity() -> tuple[float, ...]:
    try:
        return tuple(sorted(map(float, FLAGS.sparsity)))
    except ValueError:
        return (float("nan"),)


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then prunes."""
    del argv
    _check_flags()
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=OUTPUTS,
        overwrite=FLAGS.overwrite,
    )
    # Only now, because importing jax takes seconds.
    from experiments import prune_job

    job = prune_job.Job(
        model=FLAGS.model,
        weights=FLAGS.weights,
        size=FLAGS.size,
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        threshold=FLAGS.threshold,
        stride=FLAGS.stride,
        max_accuracy_drop=FLAGS.max_accuracy_drop,
        confidence=FLAGS.confidence,
        heal=_heal(),
        recovery_epochs=FLAGS.recovery_epochs,
        freeze=FLAGS.freeze,
        score=FLAGS.score,
        clusters=FLAGS.clusters,
        block_cost=FLAGS.block_cost,
        remove=tuple(FLAGS.remove),
        noise_permutations=FLAGS.noise_permutations,
        train_epochs=FLAGS.train_epochs,
        finetune_epochs=FLAGS.finetune_epochs,
        max_rounds=FLAGS.max_rounds,
        learning_rate=FLAGS.learning_rate
        or model_names.learning_rate(FLAGS.model, FLAGS.weights),
        distillation=FLAGS.distillation,
        batch_size=FLAGS.batch_size,
        max_length=FLAGS.max_length,
        sparsity=_sparsity(),
        sparsify=FLAGS.sparsify,
        calibration_examples=FLAGS.calibration_examples,
        selection_examples=FLAGS.selection_examples,
        training_examples=FLAGS.training_examples,
        certificate_examples=FLAGS.certificate_examples,
        seed=FLAGS.seed,
    )
    run_state.record(run.workdir, device=run_state.describe_device())
    try:
        prune_job.run_job(job, run.workdir)
    except run_state.UsageError:
        # Nothing was done with these flags: the workdir stays free for others.
        if not run.resumed:
            (run.workdir / run_state.RUN_FILE).unlink()
        raise


if __name__ == "__main__":
    run_state.run(main, FLAGS)
