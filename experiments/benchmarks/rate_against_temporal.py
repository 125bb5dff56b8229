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
that long. The same command, or one with other sizes, leaves the rows that are there.
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import data, json_files, progress, run_state, text_table, train_job
from jaxsnn.sat import backends, intervals, rate_solve, replay, solve
from jaxsnn.sat.query import Query, Result, Stage, Verdict, l1_query
from jaxsnn.sat.rate import RateNetwork, RateQuery
from jaxsnn.sat.spec import IntegerNetwork

NAME = "rate_against_temporal"
PEER = "rate-coded leaky integrate-and-fire"

_BATCH = 64
_LEARNING_RATE = 0.03

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


def spike_trains(dataset: data.Dataset, num_steps: int) -> np.ndarray:
    """Returns `[N, T, D]` booleans, as many spikes as a pixel is bright, evenly."""
    from jaxsnn import coding

    assert dataset.images is not None
    assert dataset.max_value is not None
    pixels = dataset.images.reshape(len(dataset), -1)
    spikes = coding.even_rate(pixels, num_steps, dataset.max_value)
    return np.moveaxis(spikes, 0, 1)


def train(
    name: str,
    setting: Setting,
    config: Any,
    gradient: Any,
    params: Any,
    inputs: np.ndarray,
) -> Any:
    """Returns trained weights: Adam, the learning rate falling to 0 along a cosine."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxsnn import training

    examples, labels = jnp.asarray(inputs), jnp.asarray(setting.train.labels)
    batches = len(labels) // _BATCH
    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, batches * setting.epochs)
    optimizer = training.relative_adam(schedule, weight_decay=0.0)
    update = training.make_update(gradient, optimizer)

    @jax.jit
    def run_epoch(
        state: training.TrainState, key: jax.Array
    ) -> tuple[training.TrainState, jax.Array]:
        order = jax.random.permutation(key, len(labels))[: batches * _BATCH]

        def one(
            state: training.TrainState, rows: jax.Array
        ) -> tuple[training.TrainState, jax.Array]:
            return update(state, key, examples[rows], labels[rows])

        return jax.lax.scan(one, state, order.reshape(batches, _BATCH))

    state = training.initial_state(params, optimizer)
    key = jax.random.key(setting.seed)
    with progress.Progress(f"train {name}", setting.epochs) as bar:
        for epoch in range(setting.epochs):
            state, losses = run_epoch(state, jax.random.fold_in(key, epoch))
            bar.advance(loss=float(losses.mean()))
    return state.params


def train_temporal(setting: Setting, hidden: int) -> IntegerNetwork:
    """Returns a network of spike times."""
    import jax

    from jaxsnn import low_precision, network, temporal_margin

    steps = train_job.spike_steps(setting.train, setting.num_steps).astype(np.int32)
    layers = network.Dense(hidden), network.Dense(setting.train.num_classes)
    config = network.NetworkConfig((steps.shape[1],), layers, setting.num_steps)
    objective = temporal_margin.TemporalMargin(weight_bits=setting.weight_bits)
    params = train(
        f"times, {hidden} hidden",
        setting,
        config,
        temporal_margin.gradient(config, objective),
        network.init(jax.random.key(setting.seed), config),
        steps,
    )
    return low_precision.integer_network(config, params, setting.weight_bits)


def train_rate(setting: Setting, hidden: int) -> RateNetwork:
    """Returns a network of spike counts."""
    import jax

    from jaxsnn import rate_network

    spikes = spike_trains(setting.train, setting.num_steps)
    config = rate_network.RateConfig(
        (spikes.shape[2], hidden, setting.train.num_classes),
        setting.num_steps,
        weight_bits=setting.weight_bits,
    )
    params = train(
        f"rate, {hidden} hidden",
        setting,
        config,
        rate_network.gradient(config),
        rate_network.init(jax.random.key(setting.seed), config),
        spikes,
    )
    return rate_network.integer_network(config, params)


def decide_temporal(network: IntegerNetwork, query: Query, seconds: float) -> Result:
    """Decides a query of spike times as `rate_solve.solve_each` does one of counts."""
    started = time.monotonic()
    outputs = replay.spike_steps(network, query.spike_steps)[-1]
    if query.violated_by(outputs):
        result = Result(Verdict.FALSIFIED, Stage.CLEAN)
    elif intervals.decided(intervals.propagate(network, query), query):
        result = Result(Verdict.ROBUST, Stage.BOUNDS)
    else:
        names = backends.portfolio()
        (result,) = solve.solve_each(network, [query], seconds, names)
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def decide_rate(network: RateNetwork, query: RateQuery, seconds: float) -> Result:
    """Decides a query of spike counts."""
    names = backends.portfolio()
    (result,) = rate_solve.solve_each(network, [query], seconds, names)
    return result


def measure(
    setting: Setting,
    hidden: int,
    radii: Sequence[int],
    num_samples: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Trains both networks of one size and returns one row for each budget."""
    import jax

    from jaxsnn import rate_network

    temporal = train_temporal(setting, hidden)
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
    if len(chosen) == 0:
        raise ValueError(
            f"no test image is classified rightly by both networks of {hidden} hidden "
            "neurons; train for more epochs"
        )
    results: dict[str, list[list[Result]]] = {"ours": [], "peer": []}
    for sample in progress.track(chosen, f"verify, {hidden} hidden"):
        label = int(labels[sample])
        # Each budget is asked about anew, so that none pays for another.
        moves = [l1_query(steps[sample], label, r, setting.num_steps) for r in radii]
        flips = [RateQuery(trains[sample], label, r) for r in radii]
        results["ours"].append([decide_temporal(temporal, q, seconds) for q in moves])
        results["peer"].append([decide_rate(rates, q, seconds) for q in flips])
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
        sides = (("ours", "spike times", "o", -0.1), ("peer", "rate", "s", 0.1))
        for side, label, marker, aside in sides:
            medians = np.array([row[f"{side}_seconds"] for row in chosen])
            low, high = np.transpose(
                [row["spread"][f"{side}_quartiles"] for row in chosen]
            )
            axes.errorbar(
                np.array(sizes) + aside,
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
        outputs=(f"{NAME}.json", f"{NAME}.png"),
        # What has been measured of other sizes stays.
        volatile=("hidden",),
        overwrite=FLAGS.overwrite,
    )
    path = run.workdir / f"{NAME}.json"
    rows: list[dict[str, Any]] = json_files.read_json(path, missing={"rows": []})[
        "rows"
    ]
    for width in sorted({*hidden} - {row["hidden"] for row in rows}):
        rows += measure(setting, width, radii, FLAGS.samples, FLAGS.timeout_s)
        rows.sort(key=lambda row: (row["hidden"], row["radius"]))
        json_files.write_json_atomic(path, {"rows": rows})
    plot(rows).savefig(run.workdir / f"{NAME}.png", dpi=120)
    columns = ["name", "ours_seconds", "peer_seconds", "ratio"]
    columns += ["ours_robust", "peer_robust", "ours_decided", "peer_decided"]
    print(text_table.render(columns, [[row[c] for c in columns] for row in rows]))


def _positive(flag: str, items: Sequence[str]) -> list[int]:
    for item in items:
        if not item.isdecimal() or int(item) < 1:
            raise run_state.usage_error(flag, item, "must be positive whole numbers")
    return [int(item) for item in items]


if __name__ == "__main__":
    run_state.run(main, FLAGS)
