r"""What bounds and attack cost and decide, per sample, over many samples of a network.

    python -m experiments.benchmarks.batched_stages --data_dir=../shared/data \
      --networks=64_784_256_10 --norm=l1 --radius=2 --num_samples=1000 --workdir=OUT

The first test images, robustness of the prediction; each stage alone, compiled before
it is measured, intervals in NumPy as their peer. `batched_stages.json` holds a row for
each network, radius and stage, and how many queries each stage decided: of attacks a
share of the counterexamples that exist, which a run of `verify_snn` tells.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import data, json_files, progress, published, run_state, text_table
from jaxsnn import integer
from jaxsnn.sat import intervals, replay
from jaxsnn.sat.query import Query, Stage, Verdict
from jaxsnn.sat.radius import l1_family, linf_family
from jaxsnn.sat.spec import IntegerNetwork

_FAMILIES = {"l1": l1_family, "linf": linf_family}
_PEER = "intervals in NumPy, one query at a time"

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "networks", ["64_784_256_10"], "Names of published networks.", flag_values=FLAGS
)
flags.DEFINE_enum("norm", "l1", list(_FAMILIES), "Norm.", flag_values=FLAGS)
flags.DEFINE_list("radius", ["2"], "Radii.", flag_values=FLAGS)
flags.DEFINE_integer(
    "num_samples", 100, "Of the test file.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("repeats", 3, "Measurements.", lower_bound=1, flag_values=FLAGS)


def make_queries(
    entry: published.Network, data_dir: str, norm: str, radius: int, num_samples: int
) -> tuple[IntegerNetwork, list[Query]]:
    """Returns a network and a query for each of its first test images.

    Those whose clean outputs tie are left out.
    """
    from jaxsnn import coding

    network = integer.load(entry.path, entry.num_steps)
    dataset = data.load(entry.dataset, "test", data_dir)
    assert dataset.images is not None
    assert dataset.max_value is not None
    images = dataset.images[:num_samples].reshape(num_samples, -1)
    queries = []
    for steps in coding.latency(images, entry.num_steps, dataset.max_value):
        outputs = replay.spike_steps(network, steps)[-1]
        label = replay.prediction(outputs)
        query = _FAMILIES[norm](steps, label, entry.num_steps).query(radius)
        if not query.violated_by(outputs):
            queries.append(query)
    return network, queries


def decide(
    network: IntegerNetwork, queries: Sequence[Query], stage: Stage, seed: int
) -> tuple[float, set[int]]:
    """Runs one stage alone; returns seconds without compilation, and what it decided.

    The second are positions in `queries`, which travel through the stage together.
    """
    import jax

    from jaxsnn.verify import cascade

    compiled: list[float] = []
    config = cascade.CascadeConfig(stages=(stage,), batch_size=64)
    started = time.monotonic()
    decisions = list(
        cascade.verify(
            network,
            [[query] for query in queries],
            config,
            jax.random.key(seed),
            lambda _, seconds: compiled.append(seconds),
        )
    )
    seconds = time.monotonic() - started - sum(compiled)
    decided = (Verdict.ROBUST, Verdict.FALSIFIED)
    return seconds, {one.sample for one in decisions if one.result.verdict in decided}


def measure(
    network: IntegerNetwork, queries: Sequence[Query], stage: Stage, seed: int
) -> tuple[float, int]:
    """Returns seconds without compilation, and the number of queries decided."""
    seconds, decided = decide(network, queries, stage, seed)
    return seconds, len(decided)


def measure_peer(network: IntegerNetwork, queries: Sequence[Query]) -> float:
    """Returns seconds of the intervals alone, at most ten queries, scaled up."""
    few = queries[:10]
    started = time.monotonic()
    for query in few:
        intervals.proves(network, query)
    return (time.monotonic() - started) * len(queries) / len(few)


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then measures."""
    del argv
    if FLAGS.data_dir is None:
        raise run_state.usage_error("data_dir", None, "is required: mnist and s4nn")
    try:
        radii = sorted({int(radius) for radius in FLAGS.radius})
        if not radii or radii[0] < 0:
            raise ValueError
    except ValueError:
        raise run_state.usage_error(
            "radius", FLAGS.radius, "must be whole numbers, 0 or more"
        ) from None
    entries = published.select(FLAGS.data_dir, FLAGS.networks)
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("batched_stages.json",),
        overwrite=FLAGS.overwrite,
    )
    facts = run_state.describe_device()
    run_state.record(run.workdir, device=facts)
    device = f"{facts['kind']}, {facts['cpu_count']} cores"
    rows: list[dict[str, Any]] = []
    stages = (Stage.BOUNDS, Stage.ATTACK)
    total = len(entries) * len(radii) * len(stages)
    with progress.Progress("benchmark", total) as bar:
        for entry in entries:
            for radius in radii:
                network, queries = make_queries(
                    entry, FLAGS.data_dir, FLAGS.norm, radius, FLAGS.num_samples
                )
                peer = measure_peer(network, queries)
                for stage in stages:
                    found = [
                        measure(network, queries, stage, FLAGS.seed)
                        for _ in range(FLAGS.repeats)
                    ]
                    seconds = [each for each, _ in found]
                    ours = statistics.median(seconds)
                    bounds = stage is Stage.BOUNDS
                    rows.append(
                        {
                            "name": f"{entry.name} {FLAGS.norm} {radius} {stage.value}",
                            "queries": len(queries),
                            "decided": found[0][1],
                            "milliseconds_per_query": 1000 * ours / len(queries),
                            "ours_seconds": ours,
                            "ours_spread": [min(seconds), max(seconds)],
                            "peer_seconds": peer if bounds else None,
                            "ratio": peer / ours if bounds else None,
                            "peer": _PEER if bounds else None,
                            "device": device,
                        }
                    )
                    json_files.write_json_atomic(
                        run.workdir / "batched_stages.json", {"rows": rows}
                    )
                    bar.advance(stage=rows[-1]["name"])
    shown = ("name", "queries", "decided", "milliseconds_per_query")
    table = [[row[column] for column in shown] for row in rows]
    table = [[*row[:-1], f"{row[-1]:.1f}"] for row in table]
    print(text_table.render([column.replace("_", " ") for column in shown], table))
    print(f"\nrows: {run.workdir / 'batched_stages.json'}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
