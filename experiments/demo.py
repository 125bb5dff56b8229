"""Both libraries end to end on scikit-learn's digits, in about two minutes.

    python -m experiments.demo --workdir=build/demo

1. trains a small residual network, removes the blocks that CKA finds redundant, repairs
   and fine-tunes what is left, and bounds the accuracy lost;
2. trains a temporally coded spiking network;
3. decides for 100 test digits whether moving every input spike by one or two steps can
   change the prediction;

and writes `report.html` from the files that the three runs left. Each is a command of
its own, printed before it runs.
"""

import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from experiments import data, run_state

FLAGS = run_state.new_flags()


class Step(NamedTuple):
    """One command of the demonstration."""

    title: str
    binary: str
    directory: str
    arguments: tuple[str, ...]


STEPS = (
    Step(
        "Prune a residual network",
        "prune_model",
        "prune",
        ("--model=small_resnet", "--dataset=digits"),
    ),
    Step(
        "Train a spiking network",
        "train_snn",
        "train",
        (
            "--dataset=digits",
            "--hidden=32",
            "--num_steps=32",
            "--method=surrogate",
            "--weight_bits=4",
            "--jitter=3",
            "--epochs=100",
        ),
    ),
    Step(
        "Verify it",
        "verify_snn",
        "verify",
        (
            "--network={workdir}/train/network.npz",
            "--dataset=digits",
            "--split=test",
            "--samples=0:100",
            "--norm=linf",
            "--radius=1,2",
            "--timeout_s=20",
        ),
    ),
)


def command(step: Step, workdir: pathlib.Path, seed: int) -> list[str]:
    """Returns the arguments of the interpreter for a step."""
    return [
        "-m",
        f"experiments.{step.binary}",
        *(a.format(workdir=workdir) for a in step.arguments),
        f"--seed={seed}",
        f"--workdir={workdir / step.directory}",
    ]


def main(argv: Sequence[str]) -> None:
    """Runs the steps, then composes the report."""
    del argv
    data.check_dataset("digits", None)
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=(*(step.directory for step in STEPS), "report.html", "overview.png"),
        overwrite=FLAGS.overwrite,
    )
    started = time.monotonic()
    commands = [command(step, run.workdir, FLAGS.seed) for step in STEPS]
    for number, (step, arguments) in enumerate(zip(STEPS, commands, strict=True), 1):
        print(f"\n[{number}/{len(STEPS)}] {step.title}")
        print(f"$ python {shlex.join(arguments)}\n", flush=True)
        result = subprocess.run([sys.executable, *arguments], check=False)
        if result.returncode != 0:
            print(f"step {number} of the demo failed", file=sys.stderr)
            sys.exit(result.returncode)
    # Imported here: matplotlib takes its time.
    from experiments import demo_report

    path = run.workdir / "report.html"
    demo_report.write(run.workdir, path, commands)
    demo_report.write_overview(run.workdir, run.workdir / "overview.png")
    print(f"\ndemo done in {time.monotonic() - started:.0f} s; open {path.resolve()}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
