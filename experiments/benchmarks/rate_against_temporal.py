r"""Verifying a temporal code against verifying a rate code, as arXiv 2408.10900 did.

    python -m experiments.benchmarks.rate_against_temporal --dataset=mnist \
      --data_dir=DIR --hidden=10,12,14,16,18,20 --radius=1,2,3 --workdir=OUT

Trains, for each number of hidden neurons, a network of spike times and one of leaky
integrate-and-fire neurons with spike counts, both with weights of a few bits, and asks
both about the first test images that they classify rightly: does the decision stand
when spike times move by at most so many steps together, or when at most so many spikes
are added or removed? Both are decided by simulation, bounds and the same solvers, in
this process; ours is the temporal code, the peer the rate code.
`rate_against_temporal.json` has a row for each size and budget,
`rate_against_temporal.png` draws them. Queries that were not decided in time count as
that long.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import data, progress, run_state, text_table, train_job
from jaxsnn.sat import backends, intervals, rate_solve, replay, solve
from jaxsnn.sat.query import Query, Result, Stage, Verdict, l1_query
from jaxsnn.sat.rate import RateNetwork, RateQuery
from jaxsnn.sat.spec import IntegerNetwork

NAME = "rate_against_temporal"
PEER = "rate-coded leaky integrate-and-fire"

FLAGS = run_state.new_flags()
flags.DEFINE_enum(
    "dataset", "digits", ("digits", "mnist"), "Data set.", flag_values=FLAGS
)
flags.DEFINE_list("hidden", ["10", "20"], "Hidden neurons.", flag_values=FLAGS)
flags.DEFINE_integer("num_steps", 5, "T.", lower_bound=5, flag_values=FLAGS)
flags.DEFINE_list("radius", ["1", "2"], "Budgets, growing.", flag_values=FLAGS)
flags.DEFINE_integer("samples", 14, "Images.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float("timeout_s", 20.0, "Limit of each query.", flag_values=FLAGS)
flags.DEFINE_integer("epochs", 20, "Of training.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("weight_bits", 4, "Of both networks.", flag_values=FLAGS)


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """What both networks have in common."""

    train: data.Dataset
    test: data.Dataset
    num_steps: int
    weight_bits: int
    epochs: int
    seed: int


def train_temporal(
    setting: Setting, hidden: int, workdir: pathlib.Path
) -> IntegerNetwork:
    """Returns a network of spike times; what was trained before is read."""
    from jaxsnn import integer

    workdir.mkdir(exist_ok=True)
    train_job.run_job(
        train_job.Job(
            train=setting.train,
            test=setting.test,
            convolution=None,
            hidden=(hidden,),
            num_steps=setting.num_steps,
            method="surrogate",
            weight_bits=setting.weight_bits,
            train_radius=0,
            epochs=setting.epochs,
            batch_size=64,
            learning_rate=0.03,
            jitter=0,
            shift=0,
            margin=1.0,
            seed=setting.seed,
        ),
        workdir,
    )
    return integer.load(workdir / train_job.NETWORK_FILE)


def spike_trains(dataset: data.Dataset, num_steps: int) -> np.ndarray:
    """Returns `[N, T, D]` booleans, as many spikes as a pixel is bright, evenly."""
    from jaxsnn import coding

    assert dataset.images is not None
    assert dataset.max_value is not None
    pixels = dataset.images.reshape(len(dataset), -1)
    spikes = coding.even_rate(pixels, num_steps, dataset.max_value)
    return np.moveaxis(spikes, 0, 1)


def train_rate(setting: Setting, hidden: int) -> RateNetwork:
    """Returns a network of spike counts."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxsnn import network, rate_network, training

    spikes = jnp.asarray(spike_trains(setting.train, setting.num_steps))
    labels = jnp.asarray(setting.train.labels)
    widths = (spikes.shape[2], hidden, setting.train.num_classes)
    config = rate_network.RateConfig(
        widths, setting.num_steps, weight_bits=setting.weight_bits
    )
    batches = len(labels) // 64
    schedule = optax.cosine_decay_schedule(0.01, batches * setting.epochs)
    optimizer = optax.adam(schedule)
    shape = network.NetworkConfig(
        (widths[0],), (network.Dense(widths[-1]),), setting.num_steps
    )
    update = training.make_update(shape, rate_network.gradient(config), optimizer)
    init_key, epochs_key = jax.random.split(jax.random.key(setting.seed))
    state = training.initial_state(rate_network.init(init_key, config), optimizer)

    @jax.jit
    def run_epoch(
        state: training.TrainState, key: jax.Array
    ) -> tuple[training.TrainState, jax.Array]:
        order = jax.random.permutation(key, len(labels))[: batches * 64]

        def one(
            state: training.TrainState, rows: jax.Array
        ) -> tuple[training.TrainState, jax.Array]:
            return update(state, key, spikes[rows], labels[rows])

        return jax.lax.scan(one, state, order.reshape(batches, 64))

    with progress.Progress(f"rate, {hidden} hidden", setting.epochs) as bar:
        for epoch in range(setting.epochs):
            state, losses = run_epoch(state, jax.random.fold_in(epochs_key, epoch))
            bar.advance(loss=float(losses.mean()))
    return rate_network.integer_network(config, state.params)


def decide_temporal(
    network: IntegerNetwork, queries: Sequence[Query], seconds: float
) -> Iterator[Result]:
    """Decides nested queries of spike times as `rate_solve.solve_each` does counts."""
    names = backends.portfolio()
    for index, query in enumerate(queries):
        started = time.monotonic()
        outputs = replay.spike_steps(network, query.spike_steps)[-1]
        if query.violated_by(outputs):
            result = Result(Verdict.FALSIFIED, Stage.CLEAN)
        elif intervals.decided(intervals.propagate(network, query), query):
            result = Result(Verdict.ROBUST, Stage.BOUNDS)
        else:
            yield from solve.solve_each(network, queries[index:], seconds, names)
            return
        yield dataclasses.replace(result, seconds=time.monotonic() - started)


def measure(
    setting: Setting,
    hidden: int,
    radii: Sequence[int],
    num_samples: int,
    seconds: float,
    workdir: pathlib.Path,
) -> list[dict[str, Any]]:
    """Trains both networks of one size and returns one row for each budget."""
    import jax

    from jaxsnn import rate_network

    temporal = train_temporal(setting, hidden, workdir / f"temporal-{hidden}")
    rates = train_rate(setting, hidden)
    labels = setting.test.labels
    steps = train_job.spike_steps(setting.test, setting.num_steps).astype(np.int64)
    trains = spike_trains(setting.test, setting.num_steps)
    fired = [replay.spike_steps(temporal, one)[-1] for one in steps]
    spikes = jax.jit(jax.vmap(lambda train: rate_network.output_spikes(rates, train)))(
        trains
    )
    right_temporal = np.array([replay.prediction(one) for one in fired]) == labels
    counted = np.asarray(spikes).sum(axis=1).argmax(axis=1)
    right_rate = counted == labels
    chosen = np.flatnonzero(right_temporal & right_rate)[:num_samples]
    names = backends.portfolio()
    results: dict[str, list[list[Result]]] = {"ours": [], "peer": []}
    for sample in progress.track(chosen, f"verify, {hidden} hidden"):
        label = int(labels[sample])
        moves = [l1_query(steps[sample], label, r, setting.num_steps) for r in radii]
        flips = [RateQuery(trains[sample], label, r) for r in radii]
        results["ours"].append(list(decide_temporal(temporal, moves, seconds)))
        results["peer"].append(
            list(rate_solve.solve_each(rates, flips, seconds, names))
        )
    rows = []
    for index, radius in enumerate(radii):
        row: dict[str, Any] = {
            "name": f"{hidden} hidden, budget {radius}",
            "hidden": hidden,
            "radius": radius,
            "num_steps": setting.num_steps,
            "peer": PEER,
            "device": run_state.describe_device()["kind"],
            "samples": chosen.tolist(),
            "ours_accuracy": float(right_temporal.mean()),
            "peer_accuracy": float(right_rate.mean()),
            "repeats": 1,
            "spread": {},
        }
        for side, found in results.items():
            of_radius = [nested[index] for nested in found]
            times = [r.seconds if _decided(r) else seconds for r in of_radius]
            row[f"{side}_seconds"] = statistics.median(times)
            row[f"{side}_worst_seconds"] = max(times)
            row[f"{side}_decided"] = sum(map(_decided, of_radius))
            row[f"{side}_robust"] = sum(r.verdict is Verdict.ROBUST for r in of_radius)
            quartiles = np.quantile(times, [0.25, 0.75]).tolist()
            row["spread"][f"{side}_quartiles"] = quartiles
        row["ratio"] = row["peer_seconds"] / row["ours_seconds"]
        rows.append(row)
    return rows


def _decided(result: Result) -> bool:
    return result.verdict in (Verdict.ROBUST, Verdict.FALSIFIED)


def plot(rows: Sequence[dict[str, Any]]) -> Any:
    """Returns the median seconds of both codes by size, one panel a budget."""
    from matplotlib.figure import Figure

    radii = sorted({row["radius"] for row in rows})
    figure = Figure(figsize=(3.0 * len(radii) + 0.6, 2.9), layout="constrained")
    panels = figure.subplots(1, len(radii), sharey=True, squeeze=False)[0]
    for axes, radius in zip(panels, radii, strict=True):
        chosen = [row for row in rows if row["radius"] == radius]
        sizes = [row["hidden"] for row in chosen]
        for side, label, marker in (
            ("ours", "spike times", "o"),
            ("peer", "rate", "s"),
        ):
            medians = np.array([row[f"{side}_seconds"] for row in chosen])
            low, high = np.transpose(
                [row["spread"][f"{side}_quartiles"] for row in chosen]
            )
            axes.errorbar(
                sizes,
                medians,
                [medians - low, high - medians],
                marker=marker,
                capsize=3,
                label=label,
            )
        axes.set_yscale("log")
        axes.set_xticks(sizes)
        axes.set_xlabel("hidden neurons")
        axes.set_title(f"budget {radius}", fontsize=10)
    panels[0].set_ylabel("seconds a query, quartiles")
    panels[0].legend(fontsize=8)
    return figure


def main(argv: Sequence[str]) -> None:
    """Trains, asks, writes and prints."""
    del argv
    hidden = _positive("hidden", FLAGS.hidden)
    radii = _positive("radius", FLAGS.radius)
    if radii != sorted(set(radii)):
        raise run_state.usage_error("radius", ",".join(FLAGS.radius), "must grow")
    if FLAGS.weight_bits not in range(2, 9):
        raise run_state.usage_error(
            "weight_bits", FLAGS.weight_bits, "must be 2 (ternary) to 8"
        )
    if not FLAGS.timeout_s > 0:
        raise run_state.usage_error("timeout_s", FLAGS.timeout_s, "must be positive")
    data.check_dataset(FLAGS.dataset, FLAGS.data_dir, ["train", "test"])
    setting = Setting(
        train=data.load(FLAGS.dataset, "train", FLAGS.data_dir),
        test=data.load(FLAGS.dataset, "test", FLAGS.data_dir, limit=1000),
        num_steps=FLAGS.num_steps,
        weight_bits=FLAGS.weight_bits,
        epochs=FLAGS.epochs,
        seed=FLAGS.seed,
    )
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=(f"{NAME}.json", f"{NAME}.png", "temporal-*"),
        overwrite=FLAGS.overwrite,
    )
    rows: list[dict[str, Any]] = []
    for width in hidden:
        rows += measure(
            setting, width, radii, FLAGS.samples, FLAGS.timeout_s, run.workdir
        )
        run_state.write_json_atomic(run.workdir / f"{NAME}.json", {"rows": rows})
    plot(rows).savefig(run.workdir / f"{NAME}.png", dpi=120)
    columns = ("name", "ours_seconds", "peer_seconds", "ratio")
    columns += ("ours_robust", "peer_robust", "ours_decided", "peer_decided")
    print(text_table.render(columns, [[row[c] for c in columns] for row in rows]))


def _positive(flag: str, items: Sequence[str]) -> list[int]:
    for item in items:
        if not item.isdecimal() or int(item) < 1:
            raise run_state.usage_error(flag, item, "must be positive whole numbers")
    return [int(item) for item in items]


if __name__ == "__main__":
    run_state.run(main, FLAGS)
