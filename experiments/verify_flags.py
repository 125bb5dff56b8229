"""The flags that `verify_snn` and `compare_snn` share, beside those of the query.

Nothing here imports jax, so that a wrong flag is told at once.
"""

import importlib.util
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments import data, run_state, verify_query
from experiments.verify_job import Job, run_job
from jaxsnn import integer
from jaxsnn.sat import backends, solve
from jaxsnn.sat.spec import IntegerNetwork

STAGES = ("bounds", "attack", "solve")

# What the binaries write, and which flags may differ on resuming.
OUTPUTS = ("results*.jsonl", "report.html", "summary.csv")
VOLATILE = ("workers", "shard", "engine")  # shards of one run may share a workdir


def define_flags(flag_values: flags.FlagValues) -> None:
    """Adds the flags of network, samples, stages, limits and shards."""
    flags.DEFINE_string(
        "network",
        None,
        "Network file: network.npz of train_snn, or a published S4NN .npz.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_steps",
        None,
        "Number of time steps T; S4NN files need it, the project's own store it.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "fractional_bits",
        4,
        "Binary digits kept of the float weights of S4NN files.",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_string("dataset", "mnist", "Data set.", flag_values=flag_values)
    flags.DEFINE_string(
        "split", "test", "Split of the data set.", flag_values=flag_values
    )
    flags.DEFINE_list(
        "samples",
        ["0:100"],
        "Indices, ranges a:b, or random:N, separated by commas.",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "find_radius",
        False,
        "Find the smallest breaking radius of each sample instead, by solvers alone.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "stages",
        list(STAGES),
        "Stages that run, in this order.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "backend",
        "portfolio",
        ["portfolio", *solve.NAMES],
        "Solver of the last stage; the portfolio takes turns among what is installed. "
        "gluecard and minicard count natively where weights are alike.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "timeout_s",
        60.0,
        "Limit of the last stage for each query.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "workers", 2, "Solver processes.", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_enum(
        "engine",
        "local",
        ["local", "ray"],
        "Where solver processes run: on this machine, or on a Ray cluster.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "shard",
        0,
        "Index of this part of the samples.",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_shards", 1, "Number of parts.", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "skip_misclassified",
        False,
        "Leave out samples whose prediction is wrong.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "proof_dir",
        None,
        "Directory to keep a proof of each robust verdict in, for check_proofs.",
        flag_values=flag_values,
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


def load_network(
    path: str, num_steps: int | None, fractional_bits: int, flag: str = "network"
) -> IntegerNetwork:
    """Loads a network file, named by a flag.

    Raises:
        UsageError: naming the flag, the file and what is wrong with it.
    """
    try:
        return integer.load(path, num_steps, fractional_bits)
    except ValueError as error:
        value: str | int | None = path
        if "num_steps" in str(error):
            flag, value = "num_steps", num_steps
        reason = str(error).removeprefix(f"{value}: ")
        raise run_state.usage_error(flag, value, reason) from error


def check(flag_values: flags.FlagValues) -> None:
    """Checks what needs neither network nor data.

    Raises:
        UsageError: naming the flag and what would be valid.
    """
    if not flag_values.stages:
        raise run_state.usage_error(
            "stages", "", f"name at least one of {', '.join(STAGES)}"
        )
    for stage in flag_values.stages:
        if stage not in STAGES:
            raise run_state.usage_error(
                "stages", stage, f"must be among {', '.join(STAGES)}"
            )
    if not flag_values.timeout_s > 0:
        raise run_state.usage_error(
            "timeout_s", flag_values.timeout_s, "must be positive"
        )
    if flag_values.shard >= flag_values.num_shards:
        raise run_state.usage_error(
            "shard",
            flag_values.shard,
            f"must be below --num_shards={flag_values.num_shards}",
        )
    backend = flag_values.backend
    if backend in backends.BACKENDS and backend not in backends.installed():
        installed = ", ".join(backends.installed())
        raise run_state.usage_error(
            "backend", backend, f"is not installed; here are {installed}"
        )
    if flag_values.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise run_state.usage_error(
            "engine", "ray", "is not installed: pip install 'prune-and-prove[ray]'"
        )
    if flag_values.find_radius:
        for flag in ("radius", "stages"):
            if flag_values[flag].present:
                raise run_state.usage_error(
                    flag, flag_values[flag].value, "has no meaning with --find_radius"
                )
        if flag_values.norm == "pixel":
            norms = ", ".join(norm for norm in verify_query.NORMS if norm != "pixel")
            raise run_state.usage_error(
                "norm", "pixel", f"must be one of {norms} with --find_radius"
            )
    data.check_dataset(flag_values.dataset, flag_values.data_dir, [flag_values.split])


def make_job(
    flag_values: flags.FlagValues, asked: verify_query.Asked, network: IntegerNetwork
) -> Job:
    """Reads the data and returns what is to be done; nothing is written.

    Raises:
        UsageError: as `check`, or data that do not fit the network.
    """
    dataset = data.load(flag_values.dataset, flag_values.split, flag_values.data_dir)
    if dataset.images is None or dataset.max_value is None:
        raise run_state.usage_error("dataset", flag_values.dataset, "holds no images")
    inputs = int(np.prod(dataset.images.shape[1:]))
    if network.num_inputs != inputs:
        raise run_state.usage_error(
            "network",
            flag_values.network,
            f"takes {network.num_inputs} inputs, but --dataset={flag_values.dataset} "
            f"has {inputs}",
        )
    pixel = asked.norm == "pixel" or asked.max_pixel is not None
    if pixel and network.num_steps > dataset.max_value + 1:
        flag = "norm" if asked.norm == "pixel" else "max_pixel"
        raise run_state.usage_error(
            flag,
            "pixel" if flag == "norm" else asked.max_pixel,
            f"needs no more steps than grey levels; the network has "
            f"{network.num_steps}, {flag_values.dataset} {dataset.max_value + 1}",
        )
    samples = parse_samples(flag_values.samples, len(dataset), flag_values.seed)
    return Job(
        network=network,
        dataset=dataset,
        samples=tuple(samples),
        asked=asked,
        stages=tuple(flag_values.stages),
        backends=(() if flag_values.backend == "portfolio" else (flag_values.backend,)),
        seconds=flag_values.timeout_s,
        workers=flag_values.workers,
        engine=flag_values.engine,
        shard=flag_values.shard,
        num_shards=flag_values.num_shards,
        skip_misclassified=flag_values.skip_misclassified,
        find_radius=flag_values.find_radius,
        proof_dir=flag_values.proof_dir,
        seed=flag_values.seed,
    )


def run(flag_values: flags.FlagValues, job: Job) -> None:
    """Begins or resumes the run in --workdir, and does the job.

    Raises:
        UsageError: as `run_state.start_run`, or as `run_job`.
    """
    begun = run_state.start_run(
        flag_values.workdir,
        run_state.settings(flag_values),
        outputs=OUTPUTS,
        volatile=VOLATILE,
        overwrite=flag_values.overwrite,
    )
    run_job(job, begun)
