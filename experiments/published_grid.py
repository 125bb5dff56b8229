r"""Decides the queries of arXiv 2408.10900 again and compares with what it published.

    python -m experiments.published_grid --workdir=OUT --data_dir=../shared/data \
      --radius=1,2,3,4 --timeout_s=60 --workers=2

Each network is one run of `verify_snn`, in `OUT/NETWORK`; `OUT/grid.json` sums them up
and, for L1 balls, lists every verdict that differs from a published one: with our
counterexample, replayed here on the rounded and on the published weights, or with the
stage that proved robustness. `OUT/tables.md` shows the same to people. The same command
resumes where it was interrupted. With `--proof_dir` every robust verdict leaves a
proof, and `check_proofs` goes through all verdicts at the end.
"""

import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import (
    grid_proofs,
    grid_report,
    json_files,
    progress,
    published,
    results,
    run_state,
)
from jaxsnn.sat import solve

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "networks", [], "Names of published networks, all by default.", flag_values=FLAGS
)
flags.DEFINE_enum("norm", "l1", ["l1", "linf", "l0"], "Norm.", flag_values=FLAGS)
flags.DEFINE_list("radius", ["1", "2", "3", "4"], "Radii.", flag_values=FLAGS)
flags.DEFINE_enum(
    "backend",
    "portfolio",
    ["portfolio", *solve.NAMES],
    "Solver of the last stage.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "stages",
    ["bounds", "attack", "solve"],
    "Stages that run, in this order.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "timeout_s", 60.0, "Limit of the last stage for each query.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "workers", 2, "Solver processes.", lower_bound=1, flag_values=FLAGS
)


flags.DEFINE_string(
    "proof_dir",
    None,
    "Directory for a proof of every robust verdict, confirmed at the end.",
    flag_values=FLAGS,
)


def proofs_of(network: published.Network) -> pathlib.Path | None:
    """Returns the directory of one network's proofs."""
    return (
        None if FLAGS.proof_dir is None else pathlib.Path(FLAGS.proof_dir, network.name)
    )


def decide(
    network: published.Network, samples: Sequence[int], workdir: pathlib.Path
) -> float:
    """Runs `verify_snn` on one network; returns wall-clock seconds, start included.

    Raises:
        RuntimeError: with what it wrote, if it fails.
    """
    flags_of_run = {
        "network": network.path,
        "num_steps": network.num_steps,
        "dataset": network.dataset,
        "data_dir": FLAGS.data_dir,
        "split": "train",
        "samples": ",".join(map(str, samples)),
        "norm": FLAGS.norm,
        "radius": ",".join(FLAGS.radius),
        "stages": ",".join(FLAGS.stages),
        "backend": FLAGS.backend,
        "timeout_s": FLAGS.timeout_s,
        "workers": FLAGS.workers,
        "seed": FLAGS.seed,
        "workdir": workdir,
    }
    if (proof_dir := proofs_of(network)) is not None:
        flags_of_run["proof_dir"] = proof_dir
    command = [sys.executable, "-m", "experiments.verify_snn"]
    command += [f"--{name}={value}" for name, value in flags_of_run.items()]
    started = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"verify_snn on {network.name} failed:\n{run.stderr}")
    return time.monotonic() - started


def main(argv: Sequence[str]) -> None:
    """Checks the flags, decides what is not decided yet, compares."""
    del argv
    if FLAGS.data_dir is None:
        raise run_state.usage_error(
            "data_dir", None, "is required: s4nn, mnist and fashion_mnist"
        )
    networks = published.select(FLAGS.data_dir, FLAGS.networks)
    verdicts = published.verdicts(FLAGS.data_dir)
    samples = published.samples(verdicts)
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("grid.json", "tables.md", *(n.name for n in networks)),
        volatile=("workers",),
        overwrite=FLAGS.overwrite,
    )
    run_state.record(run.workdir, device=run_state.describe_device())
    wall = json_files.read_json(run.workdir / "grid.json", {}).get("wall", {})
    with progress.Progress("networks", len(networks), done=len(wall)) as bar:
        for network in networks:
            if network.name not in wall:
                wall[network.name] = decide(
                    network, samples, run.workdir / network.name
                )
                json_files.write_json_atomic(run.workdir / "grid.json", {"wall": wall})
                bar.advance(network=network.name)
    rows: list[dict[str, Any]] = []
    comparisons: list[grid_report.Comparison] = []
    for network in networks:
        one = results.read_run(run.workdir / network.name)
        rows += results.summarize([one])
        if FLAGS.norm == "l1":
            comparisons += grid_report.compare(network, one.records, verdicts)
    report = grid_report.make(rows, comparisons, wall, FLAGS.data_dir)
    if FLAGS.proof_dir is not None:
        report["proofs"] = [
            grid_proofs.confirm(
                directory, run.workdir / network.name, FLAGS.data_dir, FLAGS.workers
            )
            for network in networks
            if (directory := proofs_of(network)) is not None
        ]
    json_files.write_json_atomic(run.workdir / "grid.json", report)
    tables = grid_report.to_markdown(report)
    if "proofs" in report:
        tables += "\n" + grid_proofs.to_markdown(report["proofs"])
    (run.workdir / "tables.md").write_text(tables, encoding="utf-8")
    print(tables)


if __name__ == "__main__":
    run_state.run(main, FLAGS)
