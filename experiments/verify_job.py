"""What verification binaries do once flags are checked: decide, append, report."""

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from experiments import data, json_files, progress, results, run_state, text_table
from experiments.verify_query import Asked
from jaxsnn.sat import replay, workers
from jaxsnn.sat.portfolio import MakePool
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.radius import Family
from jaxsnn.sat.requirement import Alike, Monotone
from jaxsnn.sat.spec import IntegerNetwork

# What verdicts are called between two networks.
COMPARED = {Verdict.ROBUST: "equivalent", Verdict.FALSIFIED: "different"}


# So many are simulated in NumPy before the accelerated simulator is compiled.
_FEW_SAMPLES = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A checked request; see the flags of `verify_snn` and `compare_snn`."""

    network: IntegerNetwork
    dataset: data.Dataset
    samples: tuple[int, ...]
    asked: Asked
    stages: tuple[str, ...]
    backends: tuple[str, ...]
    seconds: float
    workers: int
    engine: str
    shard: int
    num_shards: int
    skip_misclassified: bool
    find_radius: bool
    proof_dir: str | None
    seed: int

    @property
    def other(self) -> IntegerNetwork | None:
        """The network that is compared, None if none is."""
        requires = self.asked.requires
        return requires.other if isinstance(requires, Alike) else None

    def word(self, verdict: Verdict) -> str:
        """Returns what a verdict is called in the results."""
        if self.other is not None:
            return COMPARED.get(verdict, verdict.value)
        return verdict.value

    @property
    def make_pool(self) -> MakePool:
        """What makes the solver processes, for the cascade."""
        if self.engine == "local":
            return workers.Pool
        from experiments.ray_pool import RayPool

        return cast(MakePool, RayPool)  # has the same methods

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
    others: np.ndarray | None  # [N] predictions of the network that is compared
    mine: list[int]  # positions that this shard decides


def prepare(job: Job, run: run_state.RunState) -> Inputs:
    """Simulates all samples, picks those of this shard and records what is asked.

    Raises:
        UsageError: no sample can be turned into the target, all are there already.
    """
    import jax
    import jax.numpy as jnp

    from jaxsnn import coding, simulate

    assert job.dataset.max_value is not None
    pixels = np.stack([job.pixels(sample) for sample in job.samples])
    steps = coding.latency(pixels, job.network.num_steps, job.dataset.max_value)

    def predict(network: IntegerNetwork) -> np.ndarray:
        if len(steps) <= _FEW_SAMPLES:
            levels = [replay.spike_steps(network, one)[-1] for one in steps]
            return np.array([replay.prediction(outputs) for outputs in levels])
        weights = simulate.device_weights(network)

        def one(inputs: jax.Array) -> jax.Array:
            levels = simulate.spike_steps(
                network.layers, weights, network.num_steps, inputs
            )
            return jnp.argmin(levels[-1])

        simulated = jax.jit(lambda inputs: jax.lax.map(one, inputs, batch_size=64))
        return np.asarray(simulated(jnp.asarray(steps)))

    predictions = predict(job.network)
    labels = job.dataset.labels[list(job.samples)]
    skipped = (predictions != labels) & job.skip_misclassified
    target = job.asked.target
    there = predictions == target if target is not None else np.zeros(len(labels), bool)
    if there.all():
        raise run_state.usage_error(
            "target", target, "is the prediction of every sample; name another class"
        )
    if there.any():
        note = f"{there.sum()} samples are left out: class {target} is their prediction"
        print(note, file=sys.stderr)
    queries: dict[str, Any] = {
        "samples": [s for s, gone in zip(job.samples, there, strict=True) if not gone],
        "norm": job.asked.norm,
        "skipped": [
            s for s, skip in zip(job.samples, skipped & ~there, strict=True) if skip
        ],
    }
    if not job.find_radius:
        queries["radii"] = list(job.asked.radii)
    run_state.record(run.workdir, device=run_state.describe_device(), queries=queries)
    mine = [
        position
        for position in range(len(job.samples))
        if position % job.num_shards == job.shard
        and not (skipped[position] or there[position])
    ]
    others = None if job.other is None else predict(job.other)
    return Inputs(pixels, steps, labels, predictions, others, mine)


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
        word = job.word(Verdict.ROBUST)
        records = [r for r in merged.records if r["verdict"] == word]
        proved = [record["proof"] is not None for record in records]
        print(
            f"proofs:  {sum(proved)} of {len(proved)} {word} verdicts, {job.proof_dir}"
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
        for record in json_files.read_jsonl(path)
        if record["verdict"] != Verdict.ERROR.value
    }
    todo = [
        position
        for position in inputs.mine
        if any(
            (job.samples[position], radius) not in known for radius in job.asked.radii
        )
    ]
    config = cascade.CascadeConfig(
        stages=tuple(Stage(name) for name in job.stages),
        backends=job.backends,
        seconds=job.seconds,
        workers=job.workers,
        memory_bytes=workers.fair_memory(job.workers),
        make_pool=job.make_pool,
        batch_size=min(16, max(1, len(todo))),
    )
    asked = [make_queries(job, inputs, position) for position in todo]
    compiled = dict.fromkeys(("bounds", "attack"), 0.0)
    run_state.record(run.workdir, compilation_seconds=compiled)

    def note(stage: Stage, seconds: float) -> None:
        compiled[stage.value] += seconds
        run_state.record(run.workdir, compilation_seconds=compiled)

    decisions = cascade.verify(network, asked, config, jax.random.key(job.seed), note)
    counts = dict.fromkeys((job.word(verdict) for verdict in Verdict), 0)
    total = len(inputs.mine) * len(job.asked.radii)
    with contextlib.ExitStack() as stack:
        prover = None
        if job.proof_dir is not None:
            prover = stack.enter_context(
                verify_proofs.Prover(
                    job.proof_dir, network, job.seconds, job.workers, job.other
                )
            )
        bar = stack.enter_context(progress.Progress("verify", total, done=len(known)))

        def keep(record: Mapping[str, Any]) -> None:
            json_files.append_jsonl(path, record)
            counts[record["verdict"]] += 1
            bar.advance(**{name: n for name, n in counts.items() if n})

        for decision in decisions:
            position = todo[decision.sample]
            record = {
                **identify(job, inputs, position),
                "radius": job.asked.radii[decision.query],
                **describe(
                    job, decision.result, asked[decision.sample][decision.query]
                ),
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
    """Returns the part of a result line that tells what it is about."""
    line = {
        "sample": job.samples[position],
        "label": int(inputs.labels[position]),
        "prediction": int(inputs.predictions[position]),
        "norm": job.asked.norm,
    }
    if inputs.others is not None:
        line["other_prediction"] = int(inputs.others[position])
    if job.asked.requirement != "robust":
        line["property"] = job.asked.requirement
    return line


def family(job: Job, inputs: Inputs, position: int) -> Family:
    """Returns the balls of every radius around one sample."""
    asked = job.asked
    window = None
    if asked.max_pixel is not None:
        window = _pixel_window(job, inputs, position, asked.max_pixel)
    return asked.growing(window).family(
        inputs.steps[position],
        int(inputs.predictions[position]),
        job.network.num_steps,
        asked.tie,
    )


def make_queries(job: Job, inputs: Inputs, position: int) -> list[Query]:
    """Returns the nested queries of one sample, a radius each."""
    asked = job.asked
    if asked.norm != "pixel":
        balls = family(job, inputs, position)
        return [balls.query(int(radius)) for radius in asked.radii]
    return [
        asked.limits.around(
            inputs.steps[position],
            int(inputs.predictions[position]),
            job.network.num_steps,
            window=_pixel_window(job, inputs, position, radius),
            tie=asked.tie,
            target=asked.target,
            requires=asked.requires,
        )
        for radius in asked.radii
    ]


def _pixel_window(
    job: Job, inputs: Inputs, position: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    from jaxsnn import coding

    assert job.dataset.max_value is not None
    return coding.pixel_window(
        inputs.pixels[position], eps, job.network.num_steps, job.dataset.max_value
    )


def describe(job: Job, result: Result, query: Query) -> Mapping[str, Any]:
    """Returns the part of a result line that tells the verdict.

    A counterexample is the list of `[input, step, changed_step]`; where it is a pair
    of inputs (`Monotone`), `moved` is the `[input, step, earlier_step]` between them.
    """
    changes: list[Sequence[int]] | None = None
    moved: list[int] | None = None
    if result.counterexample is not None:
        steps, *pair = np.atleast_2d(result.counterexample)
        changes = [
            [int(i), int(query.spike_steps[i]), int(steps[i])]
            for i in np.flatnonzero(steps != query.spike_steps)
        ]
        if pair:
            assert isinstance(query.requires, Monotone)
            own = query.requires.input
            moved = [own, int(steps[own]), int(pair[0][own])]
    return {
        "verdict": job.word(result.verdict),
        "stage": result.stage.value if result.stage else None,
        "backend": result.backend,
        "seconds": round(result.seconds, 6),
        "counterexample": changes,
        "proof": None,
        **({"moved": moved} if moved else {}),
        **({"message": result.message} if result.message else {}),
    }
