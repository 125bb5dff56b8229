r"""One solver over growing radii against a new one for each, backend by backend.

    python -m experiments.benchmarks.incremental --workdir=OUT \
      --data_dir=../shared/data --networks=64_784_256_10 --norm=l1 --radius=1,2,3,4

Both sides get the same encoding of the same nested queries, so that only what a solver
keeps from one query to the next differs: in one session, what it learnt; in new ones,
nothing, and its clauses are built again. Encoding is counted for neither. Each side may
use the limit for each query; where one does not decide, the sample is named and left
out of the ratios, for then the times say nothing.
"""

import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import json_files, progress, run_state, text_table
from experiments.benchmarks import verification
from jaxsnn.sat import backends
from jaxsnn.sat.backends import Status
from jaxsnn.sat.encode import Encoding, encode

_MEASUREMENTS = "incremental.jsonl"

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "networks", ["64_784_256_10"], "Names of published networks.", flag_values=FLAGS
)
flags.DEFINE_list(
    "backends", list(backends.BACKENDS), "Solvers to compare.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "num_samples", 14, "Samples of each network.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_enum("norm", "l1", ["l1", "linf"], "Norm.", flag_values=FLAGS)
flags.DEFINE_list("radius", ["1", "2", "3", "4"], "Radii.", flag_values=FLAGS)
flags.DEFINE_float("timeout_s", 10.0, "Limit of each query.", flag_values=FLAGS)
flags.DEFINE_integer("repeats", 3, "Measurements.", lower_bound=1, flag_values=FLAGS)


def in_one_session(encoding: Encoding, backend: str, seconds: float) -> dict[str, Any]:
    """Solves the queries in turn with one solver."""
    started = time.monotonic()
    session = backends.BACKENDS[backend](encoding.problem)
    found = []
    for assumptions in encoding.assumptions:
        found.append(session.solve(assumptions, seconds).status)
    session.close()
    return _measured(found, started)


def in_new_sessions(encoding: Encoding, backend: str, seconds: float) -> dict[str, Any]:
    """Solves each query with a solver of its own."""
    started = time.monotonic()
    found = []
    for assumptions in encoding.assumptions:
        session = backends.BACKENDS[backend](encoding.problem)
        found.append(session.solve(assumptions, seconds).status)
        session.close()
    return _measured(found, started)


def _measured(found: Sequence[Status], started: float) -> dict[str, Any]:
    return {
        "seconds": time.monotonic() - started,
        "statuses": [status.value for status in found],
    }


def rows(records: Sequence[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """Returns a row for each network and backend: medians over samples and repeats.

    Raises:
        RuntimeError: the two sides decide differently; a defect of the program.
    """
    found = []
    groups = dict.fromkeys((r["network"], r["backend"]) for r in records)
    for network, backend in groups:
        mine = [
            r for r in records if (r["network"], r["backend"]) == (network, backend)
        ]
        kept, left_out = [], set()
        for record in mine:
            pairs = list(
                zip(record["one"]["statuses"], record["new"]["statuses"], strict=True)
            )
            if any(Status.INTERRUPTED.value in pair for pair in pairs):
                left_out.add(record["sample"])
            elif any(a != b for a, b in pairs):
                raise RuntimeError(f"{backend} contradicts itself on {record}")
            else:
                kept.append(record)
        if not kept:
            continue
        ratios = [r["new"]["seconds"] / r["one"]["seconds"] for r in kept]
        one, new = (sum(r[side]["seconds"] for r in kept) for side in ("one", "new"))
        found.append(
            {
                "name": f"{network} {backend}",
                "peer": "a new solver for each query",
                "ours_seconds": one,
                "peer_seconds": new,
                "ratio": new / one,
                "median_ratio": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
                "measurements": len(kept),
                "undecided_samples": sorted(left_out),
                "device": device,
            }
        )
    return found


def plot(found: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws both sides' seconds, a pair of bars for each row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.8 + 0.6 * len(found)), layout="constrained")
    axes = figure.subplots()
    places = [float(place) for place in range(len(found))]
    for shift, side, label in (
        (-0.2, "ours_seconds", "one solver for all radii"),
        (0.2, "peer_seconds", "a new solver for each"),
    ):
        shifted = [place + shift for place in places]
        axes.barh(shifted, [row[side] for row in found], height=0.36, label=label)
    axes.set_yticks(places, [row["name"] for row in found])
    axes.invert_yaxis()
    axes.set_xlabel("seconds over all samples that both decide")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then measures."""
    del argv
    for name in FLAGS.backends:
        if name not in backends.BACKENDS:
            raise run_state.usage_error(
                "backends", name, f"must be among {', '.join(backends.BACKENDS)}"
            )
    radii = verification.parse_radii(FLAGS.radius)
    if not FLAGS.timeout_s > 0:
        raise run_state.usage_error("timeout_s", FLAGS.timeout_s, "must be positive")
    if FLAGS.data_dir is None:
        raise run_state.usage_error("data_dir", None, "is required: mnist and s4nn")
    tasks = verification.make_tasks(
        FLAGS.data_dir, FLAGS.networks, FLAGS.num_samples, radii, FLAGS.norm
    )
    present = [name for name in FLAGS.backends if name in backends.installed()]
    skipped = [name for name in FLAGS.backends if name not in present]
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=(_MEASUREMENTS, "incremental.json", "incremental.png"),
        overwrite=FLAGS.overwrite,
    )
    run_state.record(run.workdir, device=run_state.describe_device())
    path = run.workdir / _MEASUREMENTS
    known = {
        (r["network"], r["sample"], r["backend"], r["repeat"])
        for r in json_files.read_jsonl(path)
    }
    total = sum(len(t.samples) for t in tasks) * len(present) * FLAGS.repeats
    with progress.Progress("incremental", total, done=len(known)) as bar:
        for task in tasks:
            for sample, queries in zip(task.samples, task.queries, strict=True):
                encoding = encode(task.network, queries)
                for backend in present:
                    for repeat in range(FLAGS.repeats):
                        key = (task.name, sample, backend, repeat)
                        if key in known:
                            continue
                        sides = (encoding, backend, FLAGS.timeout_s)
                        record = dict(
                            zip(
                                ("network", "sample", "backend", "repeat"),
                                key,
                                strict=True,
                            )
                        )
                        record["one"] = in_one_session(*sides)
                        record["new"] = in_new_sessions(*sides)
                        json_files.append_jsonl(path, record)
                        bar.advance(backend=backend)
    facts = run_state.describe_device()
    device = f"{facts['kind']}, {facts['cpu_count']} cores"
    found = rows(json_files.read_jsonl(path), device)
    report = {"timeout_s": FLAGS.timeout_s, "rows": found, "skipped": skipped}
    json_files.write_json_atomic(run.workdir / "incremental.json", report)
    plot(found, run.workdir / "incremental.png")
    header = [
        "queries",
        "one solver s",
        "new solvers s",
        "ratio",
        "median",
        "undecided",
    ]
    cells = [
        [
            row["name"],
            row["ours_seconds"],
            row["peer_seconds"],
            row["ratio"],
            row["median_ratio"],
            len(row["undecided_samples"]),
        ]
        for row in found
    ]
    print(text_table.render(header, cells))
    if skipped:
        print(f"\nskipped, not installed: {', '.join(skipped)}")
    print(f"\nrows: {run.workdir / 'incremental.json'}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
