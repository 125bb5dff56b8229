"""What `verify_snn` does once its flags are checked: decide, append, report."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import data, progress, results, run_state, text_table
from jaxsnn.sat.query import Query, Result, Stage, Tie, Verdict
from jaxsnn.sat.radius import Family, l0_family, l1_family, linf_family
from jaxsnn.sat.spec import IntegerNetwork

FAMILIES = {"linf": linf_family, "l1": l1_family, "l0": l0_family}


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A checked request; see the flags of `verify_snn`."""

    network: IntegerNetwork
    dataset: data.Dataset
    samples: tuple[int, ...]
    norm: str
    radii: tuple[int, ...] | tuple[float, ...]
    tie: Tie
    stages: tuple[str, ...]
    backends: tuple[str, ...]
    seconds: float
    workers: int
    shard: int
    num_shards: int
    skip_misclassified: bool
    find_radius: bool
    proof_dir: str | None
    seed: int

    @property
    def results_file(self) -> str:
        """Name of the file of this shard in the workdir."""
        if self.num_shards == 1:
            return "results.jsonl"
        return f"results-{self.shard:05d}-of-{self.num_shards:05d}.jsonl"

    def pixels(self, sample: int) -> np.ndarray:
        """Returns the grey levels `[D]` of a sample."""
        assert self.dataset.images is not None
        return self.dataset.images[sample].reshape(-1)


class Inputs(NamedTuple):
    """The samples of a job as the network sees them."""

    pixels: np.ndarray  # [N, D] grey levels
    steps: np.ndarray  # [N, D] spike steps
    labels: np.ndarray  # [N]
    predictions: np.ndarray  # [N]
    mine: list[int]  # positions that this shard decides


def prepare(job: Job, run: run_state.RunState) -> Inputs:
    """Simulates all samples, picks those of this shard and records what is asked."""
    import jax
    import jax.numpy as jnp

    from jaxsnn import coding, simulate

    assert job.dataset.max_value is not None
    pixels = np.stack([job.pixels(sample) for sample in job.samples])
    steps = coding.latency(pixels, job.network.num_steps, job.dataset.max_value)
    weights = simulate.device_weights(job.network)

    def predict(inputs: jax.Array) -> jax.Array:
        levels = simulate.spike_steps(
            job.network.layers, weights, job.network.num_steps, inputs
        )
        return jnp.argmin(levels[-1])

    simulated = jax.jit(lambda inputs: jax.lax.map(predict, inputs, batch_size=64))
    predictions = np.asarray(simulated(jnp.asarray(steps)))
    labels = job.dataset.labels[list(job.samples)]
    skipped = (predictions != labels) & job.skip_misclassified
    queries: dict[str, Any] = {
        "samples": list(job.samples),
        "norm": job.norm,
        "skipped": [s for s, skip in zip(job.samples, skipped, strict=True) if skip],
    }
    if not job.find_radius:
        queries["radii"] = list(job.radii)
    run_state.record(run.workdir, device=run_state.describe_device(), queries=queries)
    mine = [
        position
        for position in range(len(job.samples))
        if position % job.num_shards == job.shard and not skipped[position]
    ]
    return Inputs(pixels, steps, labels, predictions, mine)


def run_job(job: Job, run: run_state.RunState) -> None:
    """Decides all queries that have no result yet, then writes the report."""
    # Imported here: jax takes longer to load than wrong flags should take to be told.
    from experiments import verify_radius, verify_report

    inputs = prepare(job, run)
    # A shard without samples has a file, too, so that no shard seems to be missing.
    (run.workdir / job.results_file).touch()
    decide = verify_radius.decide if job.find_radius else decide_queries
    decide(job, run, inputs)
    merged = results.read_run(run.workdir)
    verify_report.write(run.workdir / "report.html", job, merged)
    print(text_table.render(*results.table(results.summarize([merged]))))
    path = run.workdir / job.results_file
    print(f"\nresults: {path}\nreport:  {run.workdir / 'report.html'}")
    if job.proof_dir is not None:
        robust = [r for r in merged.records if r["verdict"] == Verdict.ROBUST.value]
        num_proved = sum(record["proof"] is not None for record in robust)
        print(
            f"proofs:  {num_proved} of {len(robust)} robust verdicts, {job.proof_dir}"
        )


def decide_queries(job: Job, run: run_state.RunState, inputs: Inputs) -> None:
    """Decides every radius of every sample and appends a line for each."""
    import jax

    from experiments import verify_proofs
    from jaxsnn.verify import cascade

    network = job.network
    path = run.workdir / job.results_file
    known = {
        (record["sample"], record["radius"]): record
        for record in run_state.read_jsonl(path)
        if record["verdict"] != Verdict.ERROR.value
    }
    todo = [
        position
        for position in inputs.mine
        if any((job.samples[position], radius) not in known for radius in job.radii)
    ]
    config = cascade.CascadeConfig(
        stages=tuple(Stage(name) for name in job.stages),
        backends=job.backends,
        seconds=job.seconds,
        workers=job.workers,
        batch_size=min(16, max(1, len(todo))),
    )
    asked = [make_queries(job, inputs, position) for position in todo]
    decisions = cascade.verify(network, asked, config, jax.random.key(job.seed))
    counts = dict.fromkeys((verdict.value for verdict in Verdict), 0)
    total = len(inputs.mine) * len(job.radii)
    with contextlib.ExitStack() as stack:
        prover = None
        if job.proof_dir is not None:
            prover = stack.enter_context(
                verify_proofs.Prover(job.proof_dir, network, job.seconds, job.workers)
            )
        bar = stack.enter_context(progress.Progress("verify", total, done=len(known)))

        def keep(record: Mapping[str, Any]) -> None:
            run_state.append_jsonl(path, record)
            counts[record["verdict"]] += 1
            bar.advance(**{name: n for name, n in counts.items() if n})

        for decision in decisions:
            position = todo[decision.sample]
            record = {
                **identify(job, inputs, position),
                "radius": job.radii[decision.query],
                **describe(decision.result, asked[decision.sample][decision.query]),
            }
            if (record["sample"], record["radius"]) in known:
                continue
            if prover is None or decision.result.verdict is not Verdict.ROBUST:
                keep(record)
                continue
            prover.submit(record, asked[decision.sample][decision.query])
            for proved in prover.finished():
                keep(proved)
        if prover is not None:
            for proved in prover.finished(wait=True):
                keep(proved)


def identify(job: Job, inputs: Inputs, position: int) -> dict[str, Any]:
    """Returns the part of a result line that tells which sample it is about."""
    return {
        "sample": job.samples[position],
        "label": int(inputs.labels[position]),
        "prediction": int(inputs.predictions[position]),
        "norm": job.norm,
    }


def family(job: Job, inputs: Inputs, position: int) -> Family:
    """Returns the balls of every radius around one sample."""
    return FAMILIES[job.norm](
        inputs.steps[position],
        int(inputs.predictions[position]),
        job.network.num_steps,
        job.tie,
    )


def make_queries(job: Job, inputs: Inputs, position: int) -> list[Query]:
    """Returns the nested queries of one sample, a radius each."""
    from jaxsnn import coding

    if job.norm != "pixel":
        balls = family(job, inputs, position)
        return [balls.query(int(radius)) for radius in job.radii]
    assert job.dataset.max_value is not None
    windows = [
        coding.pixel_window(
            inputs.pixels[position], r, job.network.num_steps, job.dataset.max_value
        )
        for r in job.radii
    ]
    steps, label = inputs.steps[position], int(inputs.predictions[position])
    return [Query(steps, low, high, label, tie=job.tie) for low, high in windows]


def describe(result: Result, query: Query) -> Mapping[str, Any]:
    """Returns the part of a result line that tells the verdict.

    A counterexample is the list of `[input, step, changed_step]`.
    """
    changes: list[Sequence[int]] | None = None
    if result.counterexample is not None:
        moved = np.flatnonzero(result.counterexample != query.spike_steps)
        changes = [
            [int(i), int(query.spike_steps[i]), int(result.counterexample[i])]
            for i in moved
        ]
    return {
        "verdict": result.verdict.value,
        "stage": result.stage.value if result.stage else None,
        "backend": result.backend,
        "seconds": round(result.seconds, 6),
        "counterexample": changes,
        "proof": None,
        **({"message": result.message} if result.message else {}),
    }
