"""`verify_snn --find_radius`: the exact smallest breaking radius of each sample.

A result line has the breaking radius, verdict falsified and the counterexample; its
field `robust_radius` is the largest radius that was proved. After a timeout `radius`
is the first one that is open; a sample that nothing breaks is robust at the radius
that covers the whole space.
"""

import dataclasses
from typing import Any

from experiments import progress, run_state
from experiments.verify_job import Inputs, Job, describe, family, identify
from jaxsnn.sat import backends, workers
from jaxsnn.sat.query import Result, Verdict
from jaxsnn.sat.radius import Family, Radius, climb
from jaxsnn.sat.workers import Kind


def decide(job: Job, run: run_state.RunState, inputs: Inputs) -> None:
    """Searches every sample that has no line yet and appends a line for each."""
    path = run.workdir / job.results_file
    known = {
        record["sample"]
        for record in run_state.read_jsonl(path)
        if record["verdict"] != Verdict.ERROR.value
    }
    todo = [p for p in inputs.mine if job.samples[p] not in known]
    names = job.backends or backends.portfolio()
    limit = job.seconds * 1.2 + 5.0
    with (
        workers.Pool(job.network, job.workers, limit) as pool,
        progress.Progress("find radius", len(inputs.mine), done=len(known)) as bar,
    ):
        for position in todo:
            balls = family(job, inputs, position)
            pool.submit(position, climb, balls, job.seconds, names)
        latest: dict[Any, Radius] = {}
        for task, kind, value in pool.events(wait=True):
            if kind is Kind.ITEM:
                latest[task] = value
                continue
            found = latest.get(task, Radius(0, None, Result(Verdict.UNKNOWN)))
            if kind is Kind.STALLED:
                found = _stopped(found, Result(Verdict.TIMEOUT))
            elif kind is Kind.FAILED:
                found = _stopped(found, Result(Verdict.ERROR, message=value))
            record = {
                **identify(job, inputs, task),
                **_describe(found, family(job, inputs, task)),
            }
            run_state.append_jsonl(path, record)
            bar.advance(radius=record["radius"], verdict=record["verdict"])


def _stopped(found: Radius, result: Result) -> Radius:
    """What was known when a search was stopped."""
    seconds = found.result.seconds
    return dataclasses.replace(
        found, result=dataclasses.replace(result, seconds=seconds)
    )


def _describe(found: Radius, balls: Family) -> dict[str, Any]:
    match found.result.verdict:
        case Verdict.FALSIFIED:
            radius = found.breaking
        case Verdict.ROBUST:
            radius = balls.largest
        case _:
            radius = found.robust + 1
    return {
        "radius": radius,
        "robust_radius": found.robust,
        **describe(found.result, balls.query(0)),
    }
