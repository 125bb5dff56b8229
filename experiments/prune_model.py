r"""Prunes the redundant blocks of a network, repairs it, and certifies what that cost.

    python -m experiments.prune_model --model=resnet56 --weights=FILE \
      --dataset=cifar10_jpeg --data_dir=DIR --threshold=0.98 --stride=1 \
      --max_accuracy_drop=0.01 --confidence=0.95 --heal=batchnorm,linear \
      --recovery_epochs=3 --freeze=false --score=cka --clusters=anchored --workdir=OUT

Without --weights the model is trained first. The state is saved after every step and
every epoch; the same command resumes. `report.json`, `report.html`, `checkpoint/` and,
for weights in safetensors, `pruned.safetensors` end the run.
"""

import importlib.util
import pathlib
import re
from collections.abc import Sequence

from absl import flags

from experiments import data, run_state

HEALERS = ("batchnorm", "linear")
SCORES = ("cka", "block_influence", "angular", "loss", "last", "random")
CLUSTERS = ("anchored", "optimal")
IMAGES = ("digits", "mnist", "fashion_mnist", "cifar10_jpeg")
OUTPUTS = (
    "report.json",
    "report.html",
    "analysis.json",
    "similarity*.npy",
    "checkpoint",
    "pruned.safetensors",
    "config.json",
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
    "small_resnet, resnet20 .. resnet110 (6n + 2), or module:function of your own, "
    "where function() returns a jaxprune.Prunable.",
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
    list(HEALERS),
    "Repairs without gradients: batchnorm, linear, both, or none.",
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
    "anchored: the paper's rule; optimal: removes the most parameters.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "train_epochs",
    8,
    "Epochs of training without --weights.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "max_rounds", None, "Largest number of rounds.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_float(
    "learning_rate", 2e-3, "Peak rate of training and recovery.", flag_values=FLAGS
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
    _require(0 < FLAGS.learning_rate < 1, "learning_rate", "must lie in (0, 1)")
    heal = FLAGS.heal
    known = heal == ["none"] or (set(heal) <= set(HEALERS) and len(heal))
    _require(bool(known), "heal", f"valid are {', '.join(HEALERS)}, or none")
    _check_model(FLAGS.model)
    if FLAGS.weights is not None:
        path = pathlib.Path(FLAGS.weights)
        _require(path.exists(), "weights", "no such file or directory")
    data.check_dataset(FLAGS.dataset, FLAGS.data_dir, ("train", "test"))
    _require(
        FLAGS.dataset in IMAGES,
        "dataset",
        f"these models take images: {', '.join(IMAGES)}",
    )


def _check_model(name: str) -> None:
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        _require(
            found and function.isidentifier(),
            "model",
            f"no module {module!r} on the path; write package.module:function",
        )
        return
    depth = re.fullmatch(r"resnet(\d+)", name)
    _require(
        name == "small_resnet"
        or (depth is not None and int(depth[1]) % 6 == 2 and int(depth[1]) >= 8),
        "model",
        "valid are small_resnet, resnet20, resnet32, resnet44, resnet56, resnet110 "
        "(6n + 2), or module:function",
    )


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
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        threshold=FLAGS.threshold,
        stride=FLAGS.stride,
        max_accuracy_drop=FLAGS.max_accuracy_drop,
        confidence=FLAGS.confidence,
        heal=() if FLAGS.heal == ["none"] else tuple(FLAGS.heal),
        recovery_epochs=FLAGS.recovery_epochs,
        freeze=FLAGS.freeze,
        score=FLAGS.score,
        clusters=FLAGS.clusters,
        train_epochs=FLAGS.train_epochs,
        max_rounds=FLAGS.max_rounds,
        learning_rate=FLAGS.learning_rate,
        distillation=FLAGS.distillation,
        batch_size=FLAGS.batch_size,
        calibration_examples=FLAGS.calibration_examples,
        selection_examples=FLAGS.selection_examples,
        seed=FLAGS.seed,
    )
    run_state.record(run.workdir, device=run_state.describe_device())
    prune_job.run_job(job, run.workdir)


if __name__ == "__main__":
    run_state.run(main, FLAGS)
