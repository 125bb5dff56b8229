"""One training run: from spike times of a data set to an integer network on disk."""

import dataclasses
import math
import pathlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import data, json_files, progress, run_state, text_table

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxsnn import network, training

NETWORK_FILE = "network.npz"
METRICS_FILE = "metrics.json"
CHECKPOINT_FILE = "checkpoint.msgpack"
OUTPUTS = (NETWORK_FILE, METRICS_FILE, CHECKPOINT_FILE)

_EVALUATION_BATCH = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What to train, and on what.

    Attributes:
        train: examples to learn from.
        test: examples to measure on.
        convolution: features and window of a convolution that pooling follows, or None.
        hidden: neurons of each hidden layer.
        num_steps: `T`.
        method: learning rule.
        weight_bits: bits of the integer weights, 0 for the finest exact scale.
        train_radius: steps that inputs may move by in certified training, else 0.
        epochs: passes over `train`.
        batch_size: examples per update.
        learning_rate: of the first update, in units of the threshold for s4nn, else
            relative to the weights; it falls to 0 along a cosine.
        weight_decay: share of every weight, times the learning rate, that an update
            takes away; not for s4nn.
        jitter: steps by which input spikes are moved at random in training.
        shift: pixels by which images are moved at random in training.
        mirror: whether half of the images are mirrored in training.
        brightness: by how much, as a power of e, images are made brighter or darker at
            random in training.
        margin: by which the label is to lead, in steps.
        temperature: steps in which the odds of an output fall by a factor of e in the
            temporal margin loss.
        gradient_samples: steps in which surrogate gradients look, 0 for all.
        seed: of initial weights, order of examples, what is done to them, and delays.
        responses: of the potentials of every layer to a spike, of all if there is one.
        max_delay: synapses have fixed random delays of up to so many steps.
        clock: thresholds by which a clock lifts the outputs in the end, 0 for none.
        mesh: devices that share each batch, or None.
    """

    train: data.Dataset
    test: data.Dataset
    convolution: tuple[int, int] | None
    hidden: tuple[int, ...]
    num_steps: int
    method: str
    weight_bits: int
    train_radius: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    jitter: int
    shift: int
    mirror: bool
    brightness: float
    margin: float
    temperature: float
    gradient_samples: int
    seed: int
    responses: tuple[tuple[int, ...], ...] = ((1,),)
    max_delay: int = 0
    clock: float = 0.0
    mesh: "Mesh | None" = None


def run_job(job: Job, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains and writes `network.npz` and `metrics.json`; returns the metrics.

    A checkpoint is written after every epoch, and an earlier one is continued.
    """
    known = json_files.read_json(workdir / METRICS_FILE, missing=None)
    if known is not None and (workdir / NETWORK_FILE).exists():
        progress.note(f"{workdir} holds the finished run already")
        return known
    # Late, so that a wrong flag is told at once.
    import jax
    import jax.numpy as jnp
    import optax
    from flax import serialization

    from jaxsnn import (
        clock,
        integer,
        low_precision,
        network,
        s4nn,
        temporal_margin,
        training,
    )

    run_state.record(workdir, device=run_state.describe_device())
    train_steps, test_steps = (
        spike_steps(d, job.num_steps) for d in (job.train, job.test)
    )
    config = network_config(job)
    batches = len(job.train) // job.batch_size
    schedule = optax.cosine_decay_schedule(job.learning_rate, batches * job.epochs)
    init_key, epochs_key = jax.random.split(jax.random.key(job.seed))
    if job.method == "s4nn":
        rule = s4nn.Rule(round(job.margin), job.weight_bits)
        gradient, reduce = s4nn.gradient(config, rule), jax.lax.psum
        optimizer = optax.sgd(schedule)
        params = s4nn.init(init_key, config)
    else:
        objective = temporal_margin.TemporalMargin(
            margin=job.margin / job.num_steps,
            temperature=job.temperature / job.num_steps,
            # Bounds of a box are sound only with all steps.
            num_samples=None if job.train_radius else job.gradient_samples or None,
            weight_bits=job.weight_bits,
            radius=job.train_radius,
            ramp=batches * job.epochs // 2,
        )
        gradient = temporal_margin.gradient(config, objective)
        if job.clock:
            gradient = clock.learn_beside(gradient, config, job.clock)
        reduce = jax.lax.pmean
        optimizer = training.relative_adam(schedule, job.weight_decay)
        params = network.init(init_key, config)
    if job.mesh is not None:
        gradient = training.over_devices(gradient, job.mesh, reduce)
    update = training.make_update(gradient, optimizer, augmentation(job))
    state = training.initial_state(params, optimizer)
    history: list[dict[str, float]] = []
    path = workdir / CHECKPOINT_FILE
    if path.exists():
        checkpoint = serialization.msgpack_restore(path.read_bytes())
        state = serialization.from_state_dict(state, checkpoint["state"])
        history = checkpoint["history"]

    @jax.jit
    def run_epoch(
        state: training.TrainState,
        key: jax.Array,
        steps: jax.Array,
        labels: jax.Array,
    ) -> tuple[training.TrainState, jax.Array]:
        order_key, update_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(labels))
        order = order[: batches * job.batch_size].reshape(batches, -1)

        def one(
            state: training.TrainState, batch: tuple[jax.Array, jax.Array]
        ) -> tuple[training.TrainState, jax.Array]:
            rows, key = batch
            return update(state, key, steps[rows].astype(jnp.int32), labels[rows])

        keys = jax.random.split(update_key, batches)
        state, losses = jax.lax.scan(one, state, (order, keys))
        return state, losses.mean()

    steps, labels = jnp.asarray(train_steps), jnp.asarray(job.train.labels)
    with progress.Progress("train", job.epochs, done=len(history)) as bar:
        for epoch in range(len(history), job.epochs):
            started, cpu_started = time.perf_counter(), time.process_time()
            key = jax.random.fold_in(epochs_key, epoch)
            state, loss = run_epoch(state, key, steps, labels)
            facts = {
                "loss": float(loss),
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu_started,
            }
            history.append(facts)
            if not all(bool(jnp.isfinite(w).all()) for w in state.params.weights):
                raise run_state.usage_error(
                    "learning_rate",
                    job.learning_rate,
                    f"is too large: weights are not finite after epoch {epoch + 1}",
                )
            checkpoint = {
                "state": serialization.to_state_dict(jax.device_get(state)),
                "history": history,
            }
            json_files.write_atomic(path, serialization.msgpack_serialize(checkpoint))
            bar.advance(loss=facts["loss"])

    params = state.params
    if job.clock:
        params = clock.with_clock(config, params, job.clock)
    trained = low_precision.integer_network(config, params, job.weight_bits)
    neurons = low_precision.integer_neurons(config, params, job.weight_bits)
    metrics: dict[str, Any] = {}
    for split, inputs, dataset in (
        ("train", train_steps, job.train),
        ("test", test_steps, job.test),
    ):
        measured = measure(config, neurons, inputs, dataset.labels)
        metrics |= {f"{split}_{name}": value for name, value in measured.items()}
    for name in ("seconds", "cpu_seconds"):
        metrics[name] = sum(facts[name] for facts in history)
    metrics["epochs"] = history
    integer.save(workdir / NETWORK_FILE, trained)
    json_files.write_json_atomic(workdir / METRICS_FILE, metrics)
    return metrics


def network_config(job: Job) -> "network.NetworkConfig":
    """Returns the network to train."""
    import jax

    from jaxsnn import network

    assert job.train.images is not None
    shape: tuple[int, ...] = job.train.images.shape[1:]
    neurons: list[network.Dense | network.Conv2D] = [
        network.Dense(width) for width in (*job.hidden, job.train.num_classes)
    ]
    if job.convolution is None:
        shape = (math.prod(shape),)
    else:
        features, window = job.convolution
        shape = (*shape, 1)
        neurons.insert(0, network.Conv2D(features, (window, window)))
    responses = job.responses * (1 if len(job.responses) > 1 else len(neurons))
    layers: list[network.Layer] = [
        dataclasses.replace(layer, response=response)
        for layer, response in zip(neurons, responses, strict=True)
    ]
    if job.convolution is not None:
        layers.insert(1, network.EarliestPool2D())
    config = network.NetworkConfig(shape, tuple(layers), job.num_steps)
    if job.max_delay == 0:
        return config
    keys = iter(jax.random.split(jax.random.key(job.seed), len(layers)))
    fans = iter(config.weight_shapes)
    for depth, layer in enumerate(layers):
        if not isinstance(layer, network.EarliestPool2D):
            steps = jax.random.randint(next(keys), next(fans), 0, job.max_delay + 1)
            delays = network.Delays.of(np.asarray(steps))
            layers[depth] = dataclasses.replace(layer, delays=delays)
    return dataclasses.replace(config, layers=tuple(layers))


def augmentation(job: Job) -> "training.Augment | None":
    """Returns what is done to the spike times of a batch in training."""
    import jax

    from jaxsnn import training

    if not (job.jitter or job.shift or job.mirror or job.brightness):
        return None
    assert job.train.images is not None
    shape = job.train.images.shape[1:]

    def augment(key: jax.Array, steps: jax.Array) -> jax.Array:
        if job.mirror:
            key, mirror_key = jax.random.split(key)
            steps = training.mirror(mirror_key, steps, shape)
        if job.shift:
            key, shift_key = jax.random.split(key)
            steps = training.shift(shift_key, steps, shape, job.shift, job.num_steps)
        if job.brightness:
            key, bright_key = jax.random.split(key)
            steps = training.brighten(bright_key, steps, job.brightness, job.num_steps)
        if job.jitter:
            steps = training.jitter(key, steps, job.jitter, job.num_steps)
        return steps

    return augment


def spike_steps(dataset: data.Dataset, num_steps: int) -> np.ndarray:
    """Returns `[N, D]` int16 spike times of all images."""
    from jaxsnn import coding

    assert dataset.images is not None
    assert dataset.max_value is not None
    pixels = dataset.images.reshape(len(dataset), -1)
    return coding.latency(pixels, num_steps, dataset.max_value).astype(np.int16)


def measure(
    config: "network.NetworkConfig",
    neurons: "list[network.Neurons]",
    steps: np.ndarray,
    labels: np.ndarray,
) -> dict[str, float]:
    """Returns accuracy and the shares of tied and silent examples.

    Args:
        config: the network.
        neurons: its integer weights and thresholds.
        steps: `[N, D]` spike times.
        labels: `[N]`.

    Returns:
        A dict of `accuracy`, `among_first`, `as_s4nn`, `tied` and `silent`, shares of
        1, and the median `margin` of the label over the next output, in steps.
        `as_s4nn` counts as the S4NN paper does: a tie that holds the label is right,
        and where all are silent the highest potential decides.
    """
    import jax
    import jax.numpy as jnp

    from jaxsnn import events, training

    @jax.jit
    def judge(
        steps: jax.Array, labels: jax.Array
    ) -> tuple[training.Outcome, jax.Array]:
        outputs, potentials = events.output_steps_and_potentials(config, neurons, steps)
        each = jax.vmap(training.outcome, (0, 0, None))
        outcome = each(outputs, labels, config.num_steps)
        is_highest = jnp.argmax(potentials, axis=1) == labels
        return outcome, jnp.where(outcome.silent, is_highest, outcome.among_first)

    parts = [
        judge(
            jnp.asarray(steps[start : start + _EVALUATION_BATCH]),
            jnp.asarray(labels[start : start + _EVALUATION_BATCH]),
        )
        for start in range(0, len(labels), _EVALUATION_BATCH)
    ]
    outcome, as_s4nn = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return {
        "accuracy": float(outcome.correct.mean()),
        "among_first": float(outcome.among_first.mean()),
        "as_s4nn": float(as_s4nn.mean()),
        "tied": float(outcome.tied.mean()),
        "silent": float(outcome.silent.mean()),
        "median_margin": float(np.median(outcome.margin)),
    }


def describe(metrics: dict[str, Any]) -> str:
    """Returns the summary table of a finished run."""
    names = ("accuracy", "among_first", "as_s4nn", "tied", "silent", "median_margin")
    rows = [
        [split, *(metrics[f"{split}_{name}"] for name in names)]
        for split in ("train", "test")
    ]
    table = text_table.render(["split", *names], rows)
    return f"{table}\ntrained in {metrics['seconds']:.1f} s"
