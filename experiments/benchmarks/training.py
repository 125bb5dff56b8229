r"""What an epoch of training costs, next to the same rule one example at a time.

    python -m experiments.benchmarks.training --data_dir=DIR --workdir=OUT

The S4NN rule on MNIST with 784-400-10 neurons and 256 steps: ours over batches, the
peer in NumPy per example, on the first images of the training file, measured in turn.
`training.json` holds seconds for 60 000 images and their ratio; `training.png` draws
them.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import (
    data,
    devices,
    json_files,
    progress,
    run_state,
    text_table,
    train_job,
)

_EPOCH = 60_000
_PEER = "S4NN rule, NumPy, one example at a time"

FLAGS = run_state.new_flags()
devices.define(FLAGS)
flags.DEFINE_integer("hidden", 400, "Neurons.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("num_steps", 256, "Steps T.", lower_bound=5, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 20, "Of ours.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("batches", 100, "Measured.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("peer_images", 60, "Measured.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("repeats", 5, "Measurements.", lower_bound=1, flag_values=FLAGS)


def measure(train: data.Dataset, mesh: Any) -> list[dict[str, Any]]:
    """Returns one row for each of our learning rules, over the devices of a mesh."""
    import jax
    import jax.numpy as jnp
    import optax

    from experiments.benchmarks.baselines import s4nn_per_sample
    from jaxsnn import network, s4nn, temporal_margin, training

    steps = train_job.spike_steps(train, FLAGS.num_steps)
    config = network.NetworkConfig(
        (steps.shape[1],),
        (network.Dense(FLAGS.hidden), network.Dense(train.num_classes)),
        FLAGS.num_steps,
    )
    images = FLAGS.batch_size * FLAGS.batches
    shape = (FLAGS.batches, FLAGS.batch_size)
    batches = jnp.asarray(steps[:images].astype(np.int32)).reshape(*shape, -1)
    labels = jnp.asarray(train.labels[:images]).reshape(shape)
    keys = jax.random.split(jax.random.key(FLAGS.seed), FLAGS.batches)
    params = s4nn.init(jax.random.key(FLAGS.seed), config)

    def program(gradient: training.Gradient, reduce: Any) -> Any:
        if mesh is not None:
            gradient = training.over_devices(gradient, mesh, reduce)
        optimizer = optax.sgd(0.005)
        update = training.make_update(gradient, optimizer)

        @jax.jit
        def run(state: training.TrainState) -> training.TrainState:
            return jax.lax.scan(
                lambda state, batch: update(state, *batch),
                state,
                (keys, batches, labels),
            )[0]

        state = training.initial_state(params, optimizer)
        return lambda: jax.block_until_ready(run(state))

    def peer() -> None:
        weights = [np.asarray(w, np.float64).copy() for w in params.weights]
        for one, label in zip(steps[: FLAGS.peer_images], train.labels, strict=False):
            s4nn_per_sample.learn(weights, one, int(label), FLAGS.num_steps, 0.005)

    few_samples = temporal_margin.TemporalMargin(num_samples=min(16, FLAGS.num_steps))
    programs = {
        "S4NN rule": program(s4nn.gradient(config, s4nn.Rule()), jax.lax.psum),
        "temporal margin, gradient in 16 samples": program(
            temporal_margin.gradient(config, few_samples), jax.lax.pmean
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*programs, _PEER)}
    for run in programs.values():
        run()
    for _ in progress.track(range(FLAGS.repeats), "measure"):
        for name, run in (*programs.items(), (_PEER, peer)):
            start = time.perf_counter()
            run()
            of = FLAGS.peer_images if name == _PEER else images
            seconds[name].append((time.perf_counter() - start) * _EPOCH / of)
    device = run_state.describe_device()
    rows = []
    for name in programs:
        ratios = np.divide(seconds[_PEER], seconds[name])
        rows.append(
            {
                "name": name,
                "peer": _PEER,
                "device": device["kind"],
                "devices": FLAGS.devices,
                "ours_seconds": statistics.median(seconds[name]),
                "peer_seconds": statistics.median(seconds[_PEER]),
                "ratio": float(np.median(ratios)),
                "spread": {
                    "ours_quartiles": np.quantile(seconds[name], [0.25, 0.75]).tolist(),
                    "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
                },
                "repeats": FLAGS.repeats,
            }
        )
    return rows


def plot(rows: Sequence[dict[str, Any]]) -> Any:
    """Returns a bar chart of seconds per epoch."""
    from matplotlib.figure import Figure

    names = [_PEER, *(row["name"] for row in rows)]
    values = [rows[0]["peer_seconds"], *(row["ours_seconds"] for row in rows)]
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    drawn = axes.barh(names[::-1], values[::-1], color=["C0"] * len(rows) + ["0.6"])
    axes.bar_label(drawn, [f"{value:.3g} s" for value in values[::-1]], padding=3)
    axes.set_xscale("log")
    axes.set_xlabel("seconds for 60 000 images")
    axes.margins(x=0.2)
    return figure


def main(argv: Sequence[str]) -> None:
    """Measures, writes and prints."""
    del argv
    data.check_dataset("mnist", FLAGS.data_dir, ["train"])
    count = max(FLAGS.batch_size * FLAGS.batches, FLAGS.peer_images)
    train = data.load("mnist", "train", FLAGS.data_dir, limit=count)
    if len(train) < count:
        raise run_state.usage_error(
            "batches", FLAGS.batches, f"asks for more than the {len(train)} images"
        )
    mesh = devices.make_mesh(FLAGS.devices, FLAGS.batch_size)
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("training.json", "training.png"),
        overwrite=FLAGS.overwrite,
    )
    rows = measure(train, mesh)
    json_files.write_json_atomic(run.workdir / "training.json", {"rows": rows})
    plot(rows).savefig(run.workdir / "training.png")
    columns = ("name", "ours_seconds", "peer_seconds", "ratio")
    print(text_table.render(columns, [[row[c] for c in columns] for row in rows]))


if __name__ == "__main__":
    run_state.run(main, FLAGS)
