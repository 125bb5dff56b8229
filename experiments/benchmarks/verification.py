r"""Verification against the published methods and general solvers, on the same queries.

    python -m experiments.benchmarks.verification --workdir=OUT \
      --data_dir=../shared/data --networks=5_784_10_10,64_784_256_10 --radius=1,2

Every engine gets the same exact network, the same balls and the same limit for each
query. Ours is the cascade as a user runs it; compilation is counted for none. A peer
that is not installed is named as skipped. `verification.json` holds a row for each
network, radius and peer; `verification.png` shows how many queries each engine decides
within how long. The same command resumes where it was interrupted.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags

from experiments import data, json_files, progress, published, run_state
from experiments.benchmarks import verification_report
from experiments.benchmarks.baselines import killable, our_form
from experiments.benchmarks.verification_report import OURS
from jaxsnn import integer
from jaxsnn.sat import backends, replay
from jaxsnn.sat.query import Query, Stage, l1_query, linf_query
from jaxsnn.sat.spec import IntegerNetwork

# Peer -> the package it needs and its module among the baselines.
_PUBLISHED = {
    "z3": ("z3", "smt"),
    "milp": ("scipy", "milp"),
    "search": ("jax", "direct_search"),
}
_MEASUREMENTS = "measurements.jsonl"
_BALLS = {"l1": l1_query, "linf": linf_query}

STAGES = ("bounds", "attack", "solve")

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "networks",
    ["5_784_10_10", "64_784_256_10"],
    "Names of published networks.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "peers",
    [*_PUBLISHED, *backends.BACKENDS],
    "z3, milp, search: as published; the others: a solver alone on our constraints.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "num_samples",
    3,
    "Samples of each network, the first of the published ones.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_enum("norm", "l1", list(_BALLS), "Norm of the balls.", flag_values=FLAGS)
flags.DEFINE_list("radius", ["1", "2"], "Radii of the balls.", flag_values=FLAGS)
flags.DEFINE_float("timeout_s", 15.0, "Limit of each query.", flag_values=FLAGS)
flags.DEFINE_list(
    "stages", list(STAGES), "Stages of the cascade, for ablation.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "repeats",
    3,
    "How often ours is measured; the peers, being slow, are measured once.",
    lower_bound=1,
    flag_values=FLAGS,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """The queries of one network, a row of nested ones for each sample."""

    name: str
    network: IntegerNetwork
    norm: str
    samples: tuple[int, ...]
    radii: tuple[int, ...]
    queries: tuple[tuple[Query, ...], ...]


def parse_radii(items: Sequence[str]) -> list[int]:
    """Returns radii in ascending order, each once.

    Raises:
        UsageError: naming what was given and what would be valid.
    """
    try:
        radii = sorted({int(radius) for radius in items})
        if not radii or radii[0] < 0:
            raise ValueError
    except ValueError:
        raise run_state.usage_error(
            "radius", list(items), "must be whole numbers, 0 or more"
        ) from None
    return radii


def make_tasks(
    data_dir: str,
    names: Sequence[str],
    num_samples: int,
    radii: Sequence[int],
    norm: str = "l1",
) -> list[Task]:
    """Returns the queries about the published samples, robustness of the prediction.

    Raises:
        UsageError: a network that is not there.
    """
    chosen = published.samples(published.verdicts(data_dir))[:num_samples]
    return [
        make_task(entry, data_dir, chosen, radii, norm)
        for entry in published.select(data_dir, names)
    ]


def make_task(
    entry: published.Network,
    data_dir: str,
    chosen: Sequence[int],
    radii: Sequence[int],
    norm: str = "l1",
) -> Task:
    """Returns the queries about some samples of one network."""
    from jaxsnn import coding

    network = integer.load(entry.path, entry.num_steps)
    dataset = data.load(entry.dataset, "train", data_dir)
    assert dataset.images is not None
    assert dataset.max_value is not None
    queries = []
    for sample in chosen:
        pixels = dataset.images[sample].reshape(-1)
        steps = coding.latency(pixels, entry.num_steps, dataset.max_value)
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        ball = _BALLS[norm]
        queries.append(tuple(ball(steps, label, r, entry.num_steps) for r in radii))
    return Task(entry.name, network, norm, tuple(chosen), tuple(radii), tuple(queries))


def measure_ours(
    task: Task, seconds: float, seed: int, stages: Sequence[str] = STAGES
) -> Iterator[dict[str, Any]]:
    """Runs the cascade, all samples together, in this process alone.

    The first run of a network compiles, of which the cascade counts a part.
    """
    import jax

    from jaxsnn.verify import cascade

    config = cascade.CascadeConfig(
        stages=tuple(Stage(stage) for stage in stages),
        seconds=seconds,
        workers=1,
        batch_size=len(task.samples),
    )
    decisions = cascade.verify(task.network, task.queries, config, jax.random.key(seed))
    for sample, query, result in decisions:
        yield _record(task, OURS, sample, query, result)


def measure_peer(
    task: Task, peer: str, seconds: float, skip: Iterable[tuple[int, int]] = ()
) -> Iterator[dict[str, Any]]:
    """Runs a peer on one query after the other, in a process that can be killed.

    Args:
        task: the queries.
        peer: its name.
        seconds: limit of each query.
        skip: pairs of sample and radius that are known already.
    """
    known = set(skip)
    if peer in _PUBLISHED:
        module = f"experiments.benchmarks.baselines.{_PUBLISHED[peer][1]}"
        solve = importlib.import_module(module).solve
    else:
        solve = our_form.solver(peer)
    with killable.Engine(peer, solve, task.network) as engine:
        for position, sample in enumerate(task.samples):
            for index, radius in enumerate(task.radii):
                if (sample, radius) not in known:
                    result = engine.solve(task.queries[position][index], seconds)
                    yield _record(task, peer, position, index, result)


def _record(
    task: Task, engine: str, position: int, index: int, result: Any
) -> dict[str, Any]:
    return {
        "network": task.name,
        "sample": task.samples[position],
        "norm": task.norm,
        "radius": task.radii[index],
        "engine": engine,
        "verdict": result.verdict.value,
        "seconds": result.seconds,
        **({"message": result.message} if result.message else {}),
    }


def missing_package(peer: str) -> str | None:
    """Returns the package that a peer lacks, or None."""
    if peer in _PUBLISHED:
        package = _PUBLISHED[peer][0]
        return None if importlib.util.find_spec(package) else package
    return None if peer in backends.installed() else peer


def run_benchmark(
    tasks: Sequence[Task],
    peers: Sequence[str],
    run: run_state.RunState,
    *,
    timeout_s: float,
    repeats: int,
    seed: int,
    stages: Sequence[str] = STAGES,
) -> dict[str, Any]:
    """Measures what is not measured yet; writes and returns the report."""
    run_state.record(run.workdir, device=run_state.describe_device())
    path = run.workdir / _MEASUREMENTS
    records = json_files.read_jsonl(path)
    skipped = [
        f"{peer}: {package} is not installed"
        for peer in peers
        if (package := missing_package(peer))
    ]
    present = [peer for peer in peers if not missing_package(peer)]
    each = sum(len(task.samples) * len(task.radii) for task in tasks)
    total = each * (repeats + len(present))
    with progress.Progress("benchmark", total, done=len(records)) as bar:
        for task in tasks:
            known = [r for r in records if r["network"] == task.name]
            ours = [r for r in known if r["engine"] == OURS]
            wanted = len(task.samples) * len(task.radii)
            missing = range(len(ours) // wanted, repeats)
            if missing:
                list(measure_ours(task, timeout_s, seed, stages))  # compiles
            for _ in missing:
                found = list(measure_ours(task, timeout_s, seed, stages))
                json_files.append_jsonl(path, *found)
                bar.advance(len(found), engine=OURS)
            for peer in present:
                done = [
                    (r["sample"], r["radius"]) for r in known if r["engine"] == peer
                ]
                for record in measure_peer(task, peer, timeout_s, done):
                    json_files.append_jsonl(path, record)
                    bar.advance(engine=peer)
    records = json_files.read_jsonl(path)
    facts = run_state.describe_device()
    device = f"{facts['kind']}, {facts['cpu_count']} cores"
    report = {
        "timeout_s": timeout_s,
        "rows": verification_report.compare(records, timeout_s, device),
        "engines": verification_report.summarize(records, timeout_s),
        "skipped": skipped,
        "disagreements": verification_report.disagreements(records),
    }
    json_files.write_json_atomic(run.workdir / "verification.json", report)
    verification_report.plot(records, timeout_s, run.workdir / "verification.png")
    return report


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then measures."""
    del argv
    for peer in FLAGS.peers:
        known = [*_PUBLISHED, *backends.BACKENDS]
        if peer not in known:
            raise run_state.usage_error(
                "peers", peer, f"must be among {', '.join(known)}"
            )
    for stage in FLAGS.stages:
        if stage not in STAGES:
            raise run_state.usage_error(
                "stages", stage, f"must be among {', '.join(STAGES)}"
            )
    radii = parse_radii(FLAGS.radius)
    if not FLAGS.timeout_s > 0:
        raise run_state.usage_error("timeout_s", FLAGS.timeout_s, "must be positive")
    data_dir = FLAGS.data_dir
    if data_dir is None:
        raise run_state.usage_error("data_dir", None, "is required: mnist and s4nn")
    tasks = make_tasks(data_dir, FLAGS.networks, FLAGS.num_samples, radii, FLAGS.norm)
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=(_MEASUREMENTS, "verification.json", "verification.png"),
        overwrite=FLAGS.overwrite,
    )
    report = run_benchmark(
        tasks,
        FLAGS.peers,
        run,
        timeout_s=FLAGS.timeout_s,
        repeats=FLAGS.repeats,
        seed=FLAGS.seed,
        stages=FLAGS.stages,
    )
    print(verification_report.describe(report))
    print(f"\nrows: {run.workdir / 'verification.json'}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
