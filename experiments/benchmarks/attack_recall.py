r"""Of the counterexamples that exist, how many the attack finds, and in what time.

    python -m experiments.benchmarks.attack_recall --workdir=OUT \
      --runs=GRID/16_784_512_10,GRID/64_784_256_10

Each run is a workdir of `verify_snn` that ended with the complete stage, such as those
of `published_grid`: what it falsified, ties without any perturbation left out, is what
exists. The attack is compiled first and then measured alone; samples travel through it
together. `attack_recall.json` holds a row for each run and radius, and what was missed.
"""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import check_results, json_files, progress, run_state, text_table
from experiments.benchmarks import batched_stages
from jaxsnn.sat.query import Query, Stage, Verdict

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "runs", [], "Workdirs of verify_snn, separated by commas.", flag_values=FLAGS
)


def existing(run: check_results.Run) -> dict[float, dict[int, Query]]:
    """Returns the queries that a run falsified by a change, by radius and sample."""
    found: dict[float, dict[int, Query]] = collections.defaultdict(dict)
    for record in run.records:
        changed = record["stage"] != Stage.CLEAN.value
        if record["verdict"] == Verdict.FALSIFIED.value and changed:
            query = check_results.derive_query(run, record)
            found[record["radius"]][record["sample"]] = query
    return dict(sorted(found.items()))


def measure(
    run: check_results.Run, queries: Mapping[int, Query], seed: int
) -> tuple[list[int], float]:
    """Runs the attack alone on queries that have counterexamples.

    Args:
        run: what they are about.
        queries: of one radius, by sample.
        seed: of the attack.

    Returns:
        The samples that it missed, and its seconds without compilation.
    """
    network, asked = run.network, list(queries.values())
    seconds, found = batched_stages.decide(network, asked, Stage.ATTACK, seed)
    missed = [sample for at, sample in enumerate(queries) if at not in found]
    return sorted(missed), seconds


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then measures."""
    del argv
    if not FLAGS.runs:
        raise run_state.usage_error("runs", [], "must name workdirs of verify_snn")
    opened = {path: check_results.open_run(path, FLAGS.data_dir) for path in FLAGS.runs}
    work = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("attack_recall.json",),
        overwrite=FLAGS.overwrite,
    )
    facts = run_state.describe_device()
    run_state.record(work.workdir, device=facts)
    exist = {path: existing(run) for path, run in opened.items()}
    report = work.workdir / "attack_recall.json"
    rows: list[dict[str, Any]] = json_files.read_json(report, {}).get("rows", [])
    done = {(row["run"], row["radius"]) for row in rows}
    total = sum(map(len, exist.values()))
    with progress.Progress("attack", total, done=len(done)) as bar:
        for path, run in opened.items():
            for radius, queries in exist[path].items():
                if (path, radius) in done:
                    continue
                missed, seconds = measure(run, queries, FLAGS.seed)
                rows.append(
                    {
                        "run": path,
                        "name": pathlib.Path(path).name,
                        "norm": run.limits["norm"],
                        "radius": radius,
                        "exist": len(queries),
                        "found": len(queries) - len(missed),
                        "missed": missed,
                        "milliseconds_per_query": 1000 * seconds / len(queries),
                        "device": f"{facts['kind']}, {facts['cpu_count']} cores",
                    }
                )
                json_files.write_json_atomic(report, {"rows": rows})
                bar.advance(run=rows[-1]["name"])
    shown = ("name", "norm", "radius", "exist", "found", "missed")
    table = [
        [row[column] for column in shown] + [f"{row['milliseconds_per_query']:.0f}"]
        for row in rows
    ]
    print(text_table.render([*shown, "ms a query"], table))
    sums = [sum(row[name] for row in rows) for name in ("found", "exist")]
    print(f"\nfound {sums[0]} of {sums[1]}; rows: {report}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
