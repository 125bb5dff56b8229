"""What `verify_snn` does once its flags are checked: decide, append, report."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import data, progress, results, run_state, text_table
from jaxsnn.sat.query import Query, Result, Stage, Tie, Verdict, window_ball
from jaxsnn.sat.spec import IntegerNetwork


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


def run_job(job: Job, run: run_state.RunState) -> None:
    """Decides all queries that have no result yet, then writes the report."""
    # Imported here: jax takes longer to load than wrong flags should take to be told.
    import jax

    from experiments import verify_proofs, verify_report
    from jaxsnn import coding, simulate
    from jaxsnn.verify import cascade

    network, dataset = job.network, job.dataset
    assert dataset.max_value is not None
    pixels = np.stack([job.pixels(sample) for sample in job.samples])
    steps = coding.latency(pixels, network.num_steps, dataset.max_value)
    outputs = np.asarray(
        jax.jit(lambda inputs: simulate.output_steps(network, inputs))(steps)
    )
    predictions = outputs.argmin(axis=1)
    labels = dataset.labels[list(job.samples)]
    wrong = predictions != labels
    skipped = wrong if job.skip_misclassified else np.zeros_like(wrong)
    run_state.record(
        run.workdir,
        device=run_state.describe_device(),
        queries={
            "samples": list(job.samples),
            "norm": job.norm,
            "radii": list(job.radii),
            "skipped": [
                s for s, skip in zip(job.samples, skipped, strict=True) if skip
            ],
        },
    )
    path = run.workdir / job.results_file
    known = {
        (record["sample"], record["radius"]): record
        for record in run_state.read_jsonl(path)
        if record["verdict"] != Verdict.ERROR.value
    }
    mine = [
        position
        for position in range(len(job.samples))
        if position % job.num_shards == job.shard and not skipped[position]
    ]
    todo = [
        position
        for position in mine
        if any((job.samples[position], radius) not in known for radius in job.radii)
    ]
    config = cascade.CascadeConfig(
        stages=tuple(Stage(name) for name in job.stages),
        backends=job.backends,
        seconds=job.seconds,
        workers=job.workers,
        batch_size=min(16, max(1, len(todo))),
    )
    asked = [
        make_queries(job, pixels[position], steps[position], int(predictions[position]))
        for position in todo
    ]
    decisions = cascade.verify(network, asked, config, jax.random.key(job.seed))
    counts = dict.fromkeys((verdict.value for verdict in Verdict), 0)
    total = len(mine) * len(job.radii)
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
                "sample": job.samples[position],
                "label": int(labels[position]),
                "prediction": int(predictions[position]),
                "norm": job.norm,
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
    merged = results.read_run(run.workdir)
    verify_report.write(run.workdir / "report.html", job, merged)
    print(text_table.render(*results.table(results.summarize([merged]))))
    print(f"\nresults: {path}\nreport:  {run.workdir / 'report.html'}")
    if job.proof_dir is not None:
        robust = [r for r in merged.records if r["verdict"] == Verdict.ROBUST.value]
        num_proved = sum(record["proof"] is not None for record in robust)
        print(
            f"proofs:  {num_proved} of {len(robust)} robust verdicts, {job.proof_dir}"
        )


def make_queries(
    job: Job, pixels: np.ndarray, steps: np.ndarray, prediction: int
) -> list[Query]:
    """Returns the nested queries of one sample, a radius each."""
    from jaxsnn import coding

    num_steps = job.network.num_steps
    assert job.dataset.max_value is not None
    queries = []
    for radius in job.radii:
        if job.norm == "pixel":
            low, high = coding.pixel_window(
                pixels, radius, num_steps, job.dataset.max_value
            )
        else:
            reach = num_steps if job.norm == "l0" else int(radius)
            low, high = window_ball(steps, reach, num_steps)
        queries.append(
            Query(
                steps,
                low,
                high,
                prediction,
                max_total_shift=int(radius) if job.norm == "l1" else None,
                max_changed=int(radius) if job.norm == "l0" else None,
                tie=job.tie,
            )
        )
    return queries


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
