r"""Runs the settings of MPruner's tables again, and writes ours beside the paper's.

    python -m experiments.mpruner_tables --groups=parameters,resnet20,minilm_emotion \
      --data_dir=DIR --minilm=DIR --epochs=2 --recovery_epochs=1 --workdir=OUT

Each line is a run of `prune_model` in `OUT/GROUP/SETTING`, begun from the model that
`OUT/GROUP/base` fine-tuned. `OUT/tables.md` grows line by line; the same command
resumes where it was interrupted.
"""

import collections
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import json_files, mpruner_recipes, progress, run_state, text_table
from experiments.mpruner_recipes import Group

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "groups",
    ["parameters"],
    f"Tables: parameters, {', '.join(mpruner_recipes.GROUPS)}.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "settings",
    [],
    "Lines of the tables to run, all by default; lines that are there stay.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "minilm", None, "Directory of MiniLM-L6 in Hugging Face layout.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "epochs",
    2,
    "Epochs of fine-tuning before anything is pruned.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "recovery_epochs",
    1,
    "Epochs of training after each cut.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "training_examples",
    None,
    "Training examples of every run, where there is no time for all.",
    lower_bound=8,
    flag_values=FLAGS,
)


def prune(workdir: pathlib.Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs `prune_model`, unless it is done, and returns its report.

    What it tells of its progress is passed on.

    Raises:
        RuntimeError: with the end of what it wrote, if it fails.
    """
    command = [sys.executable, "-m", "experiments.prune_model", *arguments]
    command.append(f"--workdir={workdir}")
    if not (workdir / "report.json").is_file():
        last: collections.deque[str] = collections.deque(maxlen=20)
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as run:
            assert run.stderr is not None
            for told in run.stderr:
                print(told, end="", file=sys.stderr, flush=True)
                last.append(told)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{''.join(last)}")
    report: dict[str, Any] = json_files.read_json(workdir / "report.json")
    return report


def arguments_of(group: Group, flags_of_run: Sequence[str]) -> list[str]:
    """Returns the flags of one run, with what this binary was told filled in."""
    filled = [
        flag.format(data_dir=FLAGS.data_dir, minilm=FLAGS.minilm, epochs=FLAGS.epochs)
        for flag in (*group.task, *flags_of_run)
    ]
    if FLAGS.training_examples is not None:
        filled.insert(0, f"--training_examples={FLAGS.training_examples}")
    return [*filled, f"--seed={FLAGS.seed}"]


def line(name: str, paper: str, report: dict[str, Any]) -> list[Any]:
    """Returns a row of the table of a group."""
    pruned, base = report["pruned"], report["base"]
    certificate = report["certificate"]
    bound = certificate["accuracy_drop_upper_bound"]
    repaired = [r["accuracy_after_heal"] for r in report["rounds"] if r["accepted"]]
    return [
        name,
        f"{base['num_blocks']} to {pruned['num_blocks']}",
        f"{pruned['num_params'] / 1e6:.6f}",
        f"{100 * pruned['flops'] / base['flops']:.0f} %" if base["flops"] else "",
        f"{100 * repaired[0]:.2f}" if repaired and repaired[0] else "",
        f"{100 * base['accuracy']:.2f}",
        f"{100 * pruned['accuracy']:.2f}",
        _lost(certificate),
        f"{100 * bound:.2f}",
        f"{100 * pruned['sparsity']:g} %" if pruned["sparsity"] else "",
        paper,
    ]


def _lost(certificate: dict[str, Any]) -> str:
    """Returns points lost with their 95 % interval over paired examples (normal)."""
    lost, gained = certificate["num_lost"], certificate["num_gained"]
    count = certificate["num_examples"]
    mean = (lost - gained) / count
    margin = 1.96 * ((lost + gained) / count - mean**2) ** 0.5 / count**0.5
    low, high = 100 * (mean - margin), 100 * (mean + margin)
    return f"{100 * mean:+.2f} [{low:+.2f}, {high:+.2f}]"


_HEADER = (
    "setting",
    "blocks",
    "M params",
    "FLOPs left",
    "healed",
    "base",
    "pruned",
    "lost [95 %]",
    "lost at most (95 %)",
    "zeros",
    "the paper's nearest",
)


def parameters() -> str:
    """Returns the table of parameter counts."""
    # Only now, because importing jax takes seconds.
    from experiments import mpruner_parameters

    rows = []
    for published in progress.track(mpruner_parameters.LINES, "parameters"):
        counted = mpruner_parameters.count(published)
        rows.append(
            [
                published.model,
                published.setting,
                "/".join(map(str, published.removed)),
                counted.num_blocks,
                published.millions,
                f"{counted.num_params / 1e6:.6f}",
                published.note,
            ]
        )
    header = ["model", "setting", "removed", "blocks left", "published M", "M", "note"]
    return f"## Parameters of the published structures\n\n{_markdown(header, rows)}\n"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    shown = [["" if cell is None else str(cell) for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *shown]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _settings(group: str) -> tuple[mpruner_recipes.Setting, ...]:
    return () if group == "parameters" else mpruner_recipes.GROUPS[group].settings


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then runs group by group."""
    del argv
    known = ("parameters", *mpruner_recipes.GROUPS)
    for name in FLAGS.groups:
        if name not in known:
            raise run_state.usage_error("groups", name, f"valid are {', '.join(known)}")
        if name.startswith("minilm") and FLAGS.minilm is None:
            raise run_state.usage_error("minilm", None, f"is required by {name}")
    lines = {s.name for name in FLAGS.groups for s in _settings(name)}
    for name in FLAGS.settings:
        if name not in lines:
            told = f"valid are {', '.join(sorted(lines))}"
            raise run_state.usage_error("settings", name, told)
    if FLAGS.groups != ["parameters"] and FLAGS.data_dir is None:
        raise run_state.usage_error("data_dir", None, "is required: of all data sets")
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("tables.md", *known),
        volatile=("groups", "settings"),
        overwrite=FLAGS.overwrite,
    )

    def write(name: str, table: str) -> None:
        """Writes one table, and all there are so far, other groups' included."""
        (run.workdir / name).mkdir(exist_ok=True)
        (run.workdir / name / "table.md").write_text(table, encoding="utf-8")
        files = [run.workdir / group / "table.md" for group in known]
        tables = [f.read_text(encoding="utf-8") for f in files if f.is_file()]
        (run.workdir / "tables.md").write_text("\n".join(tables), encoding="utf-8")

    for name in FLAGS.groups:
        if name == "parameters":
            write(name, parameters())
            continue
        group, directory = mpruner_recipes.GROUPS[name], run.workdir / name
        directory.mkdir(exist_ok=True)
        rows: list[list[Any]] = []
        alone = ("--max_rounds=0", "--recovery_epochs=0")
        progress.note(f"{name}: base")
        prune(directory / "base", arguments_of(group, (*group.base, *alone)))
        for number, setting in enumerate(group.settings, 1):
            asked = not FLAGS.settings or setting.name in FLAGS.settings
            if not asked and not (directory / setting.name / "report.json").is_file():
                continue
            progress.note(f"{name}: {setting.name}, {number} of {len(group.settings)}")
            flags_of_run = (
                f"--weights={directory / 'base' / 'base'}",
                *mpruner_recipes.COMMON,
                f"--recovery_epochs={FLAGS.recovery_epochs}",
                *setting.flags,
            )
            report = prune(directory / setting.name, arguments_of(group, flags_of_run))
            rows.append(line(setting.name, setting.paper, report))
            title = f"## {group.title}\n\nDiffers from the paper: {group.caution}."
            write(name, f"{title}\n\n{_markdown(_HEADER, rows)}\n")
        print(text_table.render(list(_HEADER), rows))


if __name__ == "__main__":
    run_state.run(main, FLAGS)
