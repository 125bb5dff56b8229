r"""Verifies a spiking network: one JSON line a query, each a proof or a counterexample.

    python -m experiments.verify_snn --network=FILE.npz --num_steps=64 \
      --dataset=mnist --data_dir=DIR --split=train --samples=14628,48598 \
      --norm=linf --radius=1,2 --timeout_s=60 --workers=2 --workdir=OUT

Robustness is that of the prediction. `results.jsonl` grows as queries are decided and
`report.html` ends the run; the same command resumes where it was interrupted.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments import data, run_state
from experiments.verify_job import Job, run_job
from jaxsnn import integer
from jaxsnn.sat import backends
from jaxsnn.sat.query import Tie
from jaxsnn.sat.spec import IntegerNetwork

NORMS = ("linf", "l1", "l0", "pixel")
STAGES = ("bounds", "attack", "solve")

FLAGS = run_state.new_flags()
flags.DEFINE_string(
    "network",
    None,
    "Network file: network.npz of train_snn, or a published S4NN .npz.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "num_steps",
    None,
    "Number of time steps T; S4NN files need it, the project's own store it.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "fractional_bits",
    4,
    "Binary digits kept of the float weights of S4NN files.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_string("dataset", "mnist", "Data set.", flag_values=FLAGS)
flags.DEFINE_string("split", "test", "Split of the data set.", flag_values=FLAGS)
flags.DEFINE_list(
    "samples",
    ["0:100"],
    "Indices, ranges a:b, or random:N, separated by commas.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "norm",
    "linf",
    NORMS,
    "linf, l1: steps; l0: number of inputs; pixel: fraction of the grey scale.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "radius",
    ["1"],
    "One or more radii, decided incrementally for each sample.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "find_radius",
    False,
    "Find the smallest breaking radius of each sample instead, by solvers alone.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "tie",
    Tie.ADVERSARIAL.value,
    [tie.value for tie in Tie],
    "Reading of ties for the first output spike.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "stages", list(STAGES), "Stages that run, in this order.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "backend",
    "portfolio",
    ["portfolio", *backends.BACKENDS],
    "Solver of the last stage; the portfolio takes turns among what is installed.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "timeout_s", 60.0, "Limit of the last stage for each query.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "workers", 2, "Solver processes.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "shard", 0, "Index of this part of the samples.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer(
    "num_shards", 1, "Number of parts.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_boolean(
    "skip_misclassified",
    False,
    "Leave out samples whose prediction is wrong.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "proof_dir",
    None,
    "Directory to keep a proof of each robust verdict in, for check_proofs.",
    flag_values=FLAGS,
)


def parse_samples(items: Sequence[str], num_examples: int, seed: int) -> list[int]:
    """Returns sample indices, each once, in the order given.

    Args:
        items: indices, ranges `a:b`, or `random:N`.
        num_examples: size of the data set.
        seed: seed of the random choice.

    Raises:
        UsageError: naming the item and what would be valid.
    """
    chosen: dict[int, None] = {}
    for item in items:
        try:
            if item.startswith("random:"):
                count = int(item.removeprefix("random:"))
                if not 1 <= count <= num_examples:
                    raise ValueError
                order = np.random.default_rng(seed).permutation(num_examples)
                found = order[:count].tolist()
            elif ":" in item:
                start, stop = (int(end) for end in item.split(":"))
                if not 0 <= start < stop <= num_examples:
                    raise ValueError
                found = list(range(start, stop))
            else:
                found = [int(item)]
                if not 0 <= found[0] < num_examples:
                    raise ValueError
        except ValueError:
            raise run_state.usage_error(
                "samples",
                item,
                f"must be an index, a range a:b with a < b, or random:N within the "
                f"{num_examples} examples of this split",
            ) from None
        chosen.update(dict.fromkeys(found))
    if not chosen:
        raise run_state.usage_error("samples", "", "name at least one sample")
    return list(chosen)


def parse_radii(items: Sequence[str], norm: str) -> list[int] | list[float]:
    """Returns radii in ascending order, each once.

    Raises:
        UsageError: naming the radius and what would be valid.
    """
    valid = "in 0..1" if norm == "pixel" else "a whole number, 0 or more"
    radii = set()
    for item in items:
        try:
            radius = float(item) if norm == "pixel" else int(item)
        except ValueError:
            radius = -1
        if radius < 0 or (norm == "pixel" and not radius <= 1):
            raise run_state.usage_error(
                "radius", item, f"must be {valid} for --norm={norm}"
            )
        radii.add(radius)
    if not radii:
        raise run_state.usage_error("radius", "", f"name at least one radius, {valid}")
    return sorted(radii)


def load_network(
    path: str, num_steps: int | None, fractional_bits: int
) -> IntegerNetwork:
    """Loads a network file.

    Raises:
        UsageError: naming the flag, the file and what is wrong with it.
    """
    try:
        return integer.load(path, num_steps, fractional_bits)
    except ValueError as error:
        flag = "num_steps" if "num_steps" in str(error) else "network"
        value = num_steps if flag == "num_steps" else path
        raise run_state.usage_error(flag, value, str(error)) from error


def make_job() -> Job:
    """Checks every flag and returns what is to be done; nothing is written."""
    stages = FLAGS.stages
    for stage in stages:
        if stage not in STAGES:
            raise run_state.usage_error(
                "stages", stage, f"must be among {', '.join(STAGES)}"
            )
    if not FLAGS.timeout_s > 0:
        raise run_state.usage_error("timeout_s", FLAGS.timeout_s, "must be positive")
    if FLAGS.shard >= FLAGS.num_shards:
        raise run_state.usage_error(
            "shard", FLAGS.shard, f"must be below --num_shards={FLAGS.num_shards}"
        )
    if FLAGS.backend != "portfolio" and FLAGS.backend not in backends.installed():
        installed = ", ".join(backends.installed())
        raise run_state.usage_error(
            "backend", FLAGS.backend, f"is not installed; here are {installed}"
        )
    if FLAGS.find_radius:
        for flag in ("radius", "stages"):
            if FLAGS[flag].present:
                raise run_state.usage_error(
                    flag, FLAGS[flag].value, "has no meaning with --find_radius"
                )
        if FLAGS.norm == "pixel":
            raise run_state.usage_error(
                "norm", FLAGS.norm, "must be linf, l1 or l0 with --find_radius"
            )
    radii = parse_radii(FLAGS.radius, FLAGS.norm)
    data.check_dataset(FLAGS.dataset, FLAGS.data_dir, [FLAGS.split])
    network = load_network(FLAGS.network, FLAGS.num_steps, FLAGS.fractional_bits)
    dataset = data.load(FLAGS.dataset, FLAGS.split, FLAGS.data_dir)
    if dataset.images is None:
        raise run_state.usage_error("dataset", FLAGS.dataset, "holds no images")
    inputs = int(np.prod(dataset.images.shape[1:]))
    if network.num_inputs != inputs:
        raise run_state.usage_error(
            "network",
            FLAGS.network,
            f"takes {network.num_inputs} inputs, but --dataset={FLAGS.dataset} has "
            f"{inputs}",
        )
    samples = parse_samples(FLAGS.samples, len(dataset), FLAGS.seed)
    return Job(
        network=network,
        dataset=dataset,
        samples=tuple(samples),
        norm=FLAGS.norm,
        radii=tuple(radii),
        tie=Tie(FLAGS.tie),
        stages=tuple(stages),
        backends=() if FLAGS.backend == "portfolio" else (FLAGS.backend,),
        seconds=FLAGS.timeout_s,
        workers=FLAGS.workers,
        shard=FLAGS.shard,
        num_shards=FLAGS.num_shards,
        skip_misclassified=FLAGS.skip_misclassified,
        find_radius=FLAGS.find_radius,
        proof_dir=FLAGS.proof_dir,
        seed=FLAGS.seed,
    )


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then runs."""
    del argv
    job = make_job()
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("results*.jsonl", "report.html", "summary.csv"),
        # Shards of one run may share a workdir.
        volatile=("workers", "shard"),
        overwrite=FLAGS.overwrite,
    )
    run_job(job, run)


if __name__ == "__main__":
    run_state.run(main, FLAGS)
