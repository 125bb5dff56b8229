r"""Which rule chooses the blocks that can be spared, at equal removed parameters.

    python -m experiments.benchmarks.pruning_rules --workdir=OUT \
      --weights=../shared/data/resnet_cifar10/resnet56.safetensors \
      --data_dir=../shared/data/cifar10_jpeg

A CIFAR ResNet loses as many parameters by each rule as the paper's clusters remove, and
is judged untouched, with BatchNorm re-estimated, and with its blocks fitted anew; no
gradient is used. Seeds vary the calibration images, which are training images, and the
random rule; all are judged on the same test images, so that rules are compared image by
image. `pruning_rules.json` holds a row for each rule, `pruning_rules.png` draws them.
Every cell is kept when it is finished, and the same command resumes.
"""

import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import data, json_files, progress, run_state, text_table

STAGES = ("untouched", "batchnorm", "refit")
RULES = (
    "cka anchored",
    "cka optimal",
    "cka rescored",
    "last",
    "random",
    "block influence",
    "angular",
    "greedy by loss",
)
REFERENCE = RULES[0]
_BATCH = 250

FLAGS = run_state.new_flags()
flags.DEFINE_string(
    "weights", None, "Safetensors file.", required=True, flag_values=FLAGS
)
flags.DEFINE_integer(
    "depth", 56, "Of the ResNet, 6n + 2.", lower_bound=14, flag_values=FLAGS
)
flags.DEFINE_integer("seeds", 3, "Repetitions.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "calibration_examples", 500, "Images a seed.", lower_bound=250, flag_values=FLAGS
)
flags.DEFINE_integer(
    "test_examples", 2000, "Images to judge on.", lower_bound=250, flag_values=FLAGS
)
flags.DEFINE_float("threshold", 0.98, "Of the paper's clusters.", flag_values=FLAGS)
flags.DEFINE_list("rules", list(RULES), f"Among {RULES}.", flag_values=FLAGS)


def summarize(
    correct: Mapping[tuple[str, int], np.ndarray],
    removed: Mapping[tuple[str, int], Sequence[int]],
    params: Sequence[int],
    base: np.ndarray,
) -> list[dict[str, Any]]:
    """Returns a row for each rule.

    Args:
        correct: by rule and seed, `[stages, N]`: which images are classified right.
        removed: by rule and seed, the removed blocks.
        params: of each block.
        base: `[N]` of the unpruned network.

    Returns:
        Accuracies by seed, and the mean difference to the paper's rule with its 95 %
        interval over images (normal, seeds averaged for each image first).
    """
    rules = list(dict.fromkeys(rule for rule, _ in correct))
    rows = []
    for rule in rules:
        seeds = sorted(seed for name, seed in correct if name == rule)
        mine = np.mean([correct[rule, seed] for seed in seeds], axis=0)
        row: dict[str, Any] = {
            "name": rule,
            "peer": REFERENCE,
            "base_accuracy": float(base.mean()),
            "removed": [list(removed[rule, seed]) for seed in seeds],
            "removed_params": [
                sum(params[block] for block in removed[rule, seed]) for seed in seeds
            ],
            "accuracy": {
                stage: [float(correct[rule, seed][i].mean()) for seed in seeds]
                for i, stage in enumerate(STAGES)
            },
        }
        if rule != REFERENCE and REFERENCE in rules:
            theirs = np.mean([correct[REFERENCE, seed] for seed in seeds], axis=0)
            row["difference"] = {
                stage: _interval(mine[i] - theirs[i]) for i, stage in enumerate(STAGES)
            }
        rows.append(row)
    return rows


def _interval(differences: np.ndarray) -> dict[str, float]:
    mean = float(differences.mean())
    margin = 1.96 * float(differences.std()) / len(differences) ** 0.5
    return {"mean": mean, "low": mean - margin, "high": mean + margin}


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table for a terminal and the documents, in per cent."""
    header = ["rule", "blocks", "parameters", *STAGES, "to the paper's, refit"]
    cells = []
    for row in rows:
        accuracies = [100 * np.mean(row["accuracy"][stage]) for stage in STAGES]
        told = ""
        if "difference" in row:
            at = {k: 100 * v for k, v in row["difference"]["refit"].items()}
            told = f"{at['mean']:+.1f} [{at['low']:+.1f}, {at['high']:+.1f}]"
        counts = "/".join(str(len(blocks)) for blocks in row["removed"])
        parameters = f"{np.mean(row['removed_params']):.0f}"
        shown = [f"{value:.1f}" for value in accuracies]
        cells.append([row["name"], counts, parameters, *shown, told])
    return text_table.render(header, cells)


def plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws the accuracy of each rule in each state of repair, a dot for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    colors = ("#9aa5b1", "#e09f3e", "#1f6f8b")
    for index, (stage, color) in enumerate(zip(STAGES, colors, strict=True)):
        for place, row in zip(places, rows, strict=True):
            values = 100 * np.array(row["accuracy"][stage])
            height = place + 0.22 * (1 - index)
            label = stage if place == places[0] else None
            axes.plot(values, [height] * len(values), "o", color=color, label=label)
            axes.plot([values.mean()] * 2, [height - 0.1, height + 0.1], color=color)
    axes.axvline(100 * rows[0]["base_accuracy"], color="0.3", linestyle="--")
    axes.annotate(
        "unpruned",
        (100 * rows[0]["base_accuracy"], 1.0),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="bottom",
        fontsize=8,
    )
    axes.set_yticks(places, [row["name"] for row in rows])
    axes.set_xlabel("accuracy (%), one dot a seed")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the axes, where no dot can be.
    axes.legend(
        frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0)
    )
    figure.savefig(path, dpi=150)


def measure(workdir: pathlib.Path) -> dict[str, Any]:
    """Fills the cells that are missing and returns the report."""
    import jax

    from experiments.benchmarks import pruning_rules_network as network

    started = time.perf_counter()
    progress.note("reading images")
    judged = network.read_images("test", FLAGS.data_dir, FLAGS.test_examples, 0)
    needed = FLAGS.seeds * FLAGS.calibration_examples
    training = network.read_images("train", FLAGS.data_dir, needed, FLAGS.seed)
    net = network.load(FLAGS.depth, FLAGS.weights)
    cells = [(seed, rule) for seed in range(FLAGS.seeds) for rule in FLAGS.rules]
    correct, removed = {}, {}
    (workdir / "cells").mkdir(exist_ok=True)
    scores = None
    for seed, rule in progress.track(cells, "rules"):
        name = f"{seed}-{rule.replace(' ', '_')}"
        path = workdir / "cells" / f"{name}.json"
        cell = json_files.read_json(path, missing=None)
        if cell is None:
            part = slice(
                seed * FLAGS.calibration_examples,
                (seed + 1) * FLAGS.calibration_examples,
            )
            images, labels = training[0][part], training[1][part]
            if scores is None or scores.seed != seed:
                key = jax.random.fold_in(jax.random.key(FLAGS.seed), seed)
                scores = network.score(net, seed, key, images, labels, FLAGS.threshold)
            blocks = scores.choose(rule)
            batches = [
                images[i : i + _BATCH]
                for i in range(0, len(images) - _BATCH + 1, _BATCH)
            ]
            stages = [
                net.correct(v, *judged) for v in network.repaired(net, blocks, batches)
            ]
            bits = np.packbits(np.array(stages), axis=1)
            cell = {"removed": list(blocks), "correct": bits.tolist()}
            json_files.write_json_atomic(path, cell)
        bits = np.array(cell["correct"], np.uint8)
        count = len(judged[1])
        correct[rule, seed] = np.unpackbits(bits, axis=1, count=count).astype(bool)
        removed[rule, seed] = cell["removed"]
    base = net.correct(net.variables, *judged)
    return {
        "rows": summarize(correct, removed, net.params, base),
        "calibration_examples": FLAGS.calibration_examples,
        "test_examples": len(judged[1]),
        "seconds_of_last_start": time.perf_counter() - started,
        "skipped": [],
    }


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then measures."""
    del argv
    data.check_dataset("cifar10_jpeg", FLAGS.data_dir, ("train", "test"))
    if FLAGS.depth % 6 != 2:
        raise run_state.usage_error("depth", FLAGS.depth, "must be 6n + 2, such as 56")
    if not pathlib.Path(FLAGS.weights).exists():
        raise run_state.usage_error("weights", FLAGS.weights, "no such file")
    if not 0 < FLAGS.threshold <= 1:
        raise run_state.usage_error("threshold", FLAGS.threshold, "must lie in (0, 1]")
    for rule in FLAGS.rules:
        if rule not in RULES:
            known = "; ".join(RULES)
            raise run_state.usage_error("rules", rule, f"must be among {known}")
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("pruning_rules.json", "pruning_rules.png", "cells"),
        overwrite=FLAGS.overwrite,
    )
    run_state.record(run.workdir, device=run_state.describe_device())
    report = measure(run.workdir)
    json_files.write_json_atomic(run.workdir / "pruning_rules.json", report)
    plot(report["rows"], run.workdir / "pruning_rules.png")
    print(describe(report["rows"]))
    print(f"\nrows: {run.workdir / 'pruning_rules.json'}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
