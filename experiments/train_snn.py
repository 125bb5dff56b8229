r"""Trains a temporally coded spiking network and writes it as exact integers.

    python -m experiments.train_snn --dataset=mnist --data_dir=DIR --hidden=128 \
      --num_steps=16 --method=surrogate --weight_bits=5 --workdir=OUT

Writes `network.npz`, which verify_snn takes, and `metrics.json`. Accuracies are those
of the written integer network, whose first spike decides (the lowest index in a tie);
the same command resumes an interrupted run after its last complete epoch.
"""

import math
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import data, devices, run_state, train_responses
from experiments.train_job import OUTPUTS, Job, describe, run_job
from jaxsnn.sat import spec

DATASETS = ("digits", "mnist", "fashion_mnist", "iris")
METHODS = ("surrogate", "certified", "s4nn")
_MOST_NEURONS = 2**20
BITS = (0, 2, 3, 4, 5, 6, 7, 8)

FLAGS = run_state.new_flags()
flags.DEFINE_enum("dataset", "mnist", DATASETS, "Data set.", flag_values=FLAGS)
flags.DEFINE_enum(
    "arch",
    "dense",
    ["dense", "conv"],
    "dense: hidden layers; conv: a convolution and a pooling layer before them.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "hidden",
    ["128"],
    "Neurons of the hidden layer, or of several, separated by commas; 0 for none.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "features",
    12,
    "Features of the convolution, with --arch=conv.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "window",
    5,
    "Rows and columns of its kernel, with --arch=conv.",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_integer("num_steps", 16, "Number of time steps T.", flag_values=FLAGS)
flags.DEFINE_enum(
    "method",
    "surrogate",
    METHODS,
    "Learning rule: surrogate gradients, these with interval bounds (certified), or "
    "the S4NN rule.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "train_radius",
    0,
    "Steps that every input may move by in certified training.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "weight_bits",
    0,
    "Bits of the integer weights: 2 (ternary) to 8; 0 keeps the finest exact scale.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "epochs", 20, "Passes over the training split.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "batch_size",
    None,
    "Examples per update (default 128, for s4nn 20).",
    lower_bound=1,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Of the first update; it falls to 0. Relative to the size of the weights (default "
    "0.03), for s4nn to the threshold (default 0.005).",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "weight_decay",
    None,
    "Share of every weight, times the learning rate, that an update takes away "
    "(default 0.01); not for s4nn. Smaller weights wait for more spikes before they "
    "decide.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "jitter",
    None,
    "Input spikes are moved by up to this many steps at random in training (default "
    "a 64th of num_steps, at least 1, for s4nn 0).",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "shift",
    None,
    "Images are moved by up to this many pixels at random in training (default 1 for "
    "mnist with surrogate gradients, else 0).",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "mirror",
    False,
    "Half of the images are mirrored in training, left to right.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "brightness",
    0.0,
    "Images are made brighter or darker in training, by a random factor of up to e to "
    "this power either way.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "margin",
    None,
    "Steps by which the label is to spike before any other output (default an eighth "
    "of num_steps, for s4nn 3).",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "temperature",
    None,
    "Steps in which the odds of an output fall by a factor of e in the loss (default a "
    "sixteenth of num_steps); not for s4nn. Less of it counts decisions rather than "
    "margins.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "gradient_samples",
    16,
    "Steps in which surrogate gradients look at potentials; spike times stay exact. 0 "
    "for all, as with certified training always.",
    lower_bound=0,
    flag_values=FLAGS,
)
train_responses.define(FLAGS)
devices.define(FLAGS)


def make_job() -> Job:
    """Checks every flag and returns what is to be done; nothing is written.

    Raises:
        UsageError: naming the flag, its value and what would be valid.
    """
    widths = FLAGS.hidden or [""]  # nothing behind the sign is no width
    hidden = () if widths == ["0"] else tuple(map(_width, widths))
    least = len(hidden) + (FLAGS.arch == "conv") + 3
    if FLAGS.num_steps < least:
        raise run_state.usage_error(
            "num_steps",
            FLAGS.num_steps,
            f"must be at least {least} for outputs to spike before the last step",
        )
    if FLAGS.num_steps > spec.MAX_STEPS:
        raise run_state.usage_error(
            "num_steps", FLAGS.num_steps, f"must be at most {spec.MAX_STEPS}"
        )
    if FLAGS.weight_bits not in BITS:
        raise run_state.usage_error(
            "weight_bits", FLAGS.weight_bits, "must be 2 (ternary) to 8, or 0"
        )
    if (FLAGS.method == "certified") != (FLAGS.train_radius > 0):
        raise run_state.usage_error(
            "train_radius",
            FLAGS.train_radius,
            "must be positive with --method=certified, and 0 with any other",
        )
    recipe = _recipe()
    for name, steps in (
        ("train_radius", FLAGS.train_radius),
        ("jitter", recipe["jitter"]),
    ):
        if steps >= FLAGS.num_steps:
            raise run_state.usage_error(
                name, steps, f"must be below --num_steps={FLAGS.num_steps}"
            )
    if not 0 < recipe["learning_rate"] < math.inf:
        raise run_state.usage_error(
            "learning_rate", FLAGS.learning_rate, "must be positive"
        )
    least_margin = 1 if FLAGS.method == "s4nn" else 0
    if not least_margin <= recipe["margin"] < FLAGS.num_steps:
        raise run_state.usage_error(
            "margin",
            FLAGS.margin,
            f"must be at least {least_margin} and below the {FLAGS.num_steps} steps",
        )
    if FLAGS.method == "s4nn" and recipe["margin"] % 1:
        raise run_state.usage_error(
            "margin", FLAGS.margin, "must be whole with --method=s4nn"
        )
    if recipe["weight_decay"] and FLAGS.method == "s4nn":
        raise run_state.usage_error(
            "weight_decay", FLAGS.weight_decay, "must be 0 with --method=s4nn"
        )
    if FLAGS.temperature is not None and FLAGS.method == "s4nn":
        raise run_state.usage_error(
            "temperature", FLAGS.temperature, "has no meaning with --method=s4nn"
        )
    if not 0 < recipe["temperature"] < math.inf:
        raise run_state.usage_error(
            "temperature", FLAGS.temperature, "must be a positive number of steps"
        )
    if FLAGS.arch == "conv" and FLAGS.method == "s4nn":
        raise run_state.usage_error(
            "arch", "conv", "must be dense with --method=s4nn; others learn kernels"
        )
    responses = train_responses.responses(FLAGS, least)
    data.check_dataset(FLAGS.dataset, FLAGS.data_dir, ["train", "test"])
    train = data.load(FLAGS.dataset, "train", FLAGS.data_dir)
    if FLAGS.batch_size is None:
        recipe["batch_size"] = min(recipe["batch_size"], len(train))
    elif FLAGS.batch_size > len(train):
        raise run_state.usage_error(
            "batch_size",
            FLAGS.batch_size,
            f"exceeds the {len(train)} examples of --dataset={FLAGS.dataset}",
        )
    mesh = devices.make_mesh(FLAGS.devices, recipe["batch_size"])
    assert train.images is not None
    shape = train.images.shape[1:]
    if len(shape) != 2:
        for name, asked, instead in (
            ("arch", FLAGS.arch == "conv", "dense"),
            ("shift", FLAGS.shift, "0"),
            ("mirror", FLAGS.mirror, "no"),
        ):
            if asked:
                reason = f"must be {instead} with --dataset={FLAGS.dataset}: no images"
                raise run_state.usage_error(name, FLAGS[name].value, reason)
    if FLAGS.shift and FLAGS.shift >= min(shape):
        raise run_state.usage_error(
            "shift",
            FLAGS.shift,
            f"must be below {min(shape)}, the size of an image of "
            f"--dataset={FLAGS.dataset}",
        )
    if FLAGS.arch == "conv" and FLAGS.window > min(shape) - 1:
        raise run_state.usage_error(
            "window",
            FLAGS.window,
            f"must be below {min(shape)}, the size of an image of "
            f"--dataset={FLAGS.dataset}",
        )
    return Job(
        train=train,
        test=data.load(FLAGS.dataset, "test", FLAGS.data_dir),
        convolution=(FLAGS.features, FLAGS.window) if FLAGS.arch == "conv" else None,
        hidden=hidden,
        num_steps=FLAGS.num_steps,
        method=FLAGS.method,
        weight_bits=FLAGS.weight_bits,
        train_radius=FLAGS.train_radius,
        epochs=FLAGS.epochs,
        gradient_samples=FLAGS.gradient_samples,
        seed=FLAGS.seed,
        mirror=FLAGS.mirror,
        brightness=FLAGS.brightness,
        responses=responses,
        max_delay=FLAGS.max_delay,
        clock=FLAGS.clock,
        mesh=mesh,
        **recipe,
    )


def _recipe() -> dict[str, Any]:
    """Returns what each rule learns with, where flags do not say otherwise."""
    if FLAGS.method == "s4nn":
        recipe: dict[str, Any] = {
            "batch_size": 20,
            "learning_rate": 0.005,
            "weight_decay": 0.0,
            "jitter": 0,
            "shift": 0,
            "margin": 3.0,
        }
    else:
        recipe = {
            "batch_size": 128,
            "learning_rate": 0.03,
            "weight_decay": 0.01,
            "jitter": max(1, FLAGS.num_steps // 64),
            "shift": int(FLAGS.dataset == "mnist" and FLAGS.method == "surrogate"),
            "margin": FLAGS.num_steps / 8,
        }
    recipe["temperature"] = FLAGS.num_steps / 16
    given = {name: FLAGS[name].value for name in recipe}
    return recipe | {name: value for name, value in given.items() if value is not None}


def _width(item: str) -> int:
    try:
        width = int(item)
    except ValueError:
        width = 0
    if not 1 <= width <= _MOST_NEURONS:
        raise run_state.usage_error(
            "hidden",
            item,
            f"must be 1 to {_MOST_NEURONS} neurons, several as in 128,64, or 0",
        )
    return width


def main(argv: Sequence[str]) -> None:
    """Trains the network that the flags describe."""
    del argv
    job = make_job()
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=OUTPUTS,
        volatile=("devices",),
        overwrite=FLAGS.overwrite,
    )
    print(describe(run_job(job, run.workdir)))


if __name__ == "__main__":
    run_state.run(main, FLAGS)
