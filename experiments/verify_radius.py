"""`verify_snn --find_radius`: the exact smallest breaking radius of each sample.

A result line has the breaking radius, verdict falsified and the counterexample; its
field `robust_radius` is the largest radius that was proved. After a timeout `radius`
is the first one that is open; a sample that nothing breaks is robust at the radius
that covers the whole space. `proof` is about the robust radius.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from experiments import json_files, progress, run_state
from experiments.verify_job import Inputs, Job, describe, family, identify
from experiments.verify_proofs import Prover
from jaxsnn.sat import solve, workers
from jaxsnn.sat.query import Result, Verdict
from jaxsnn.sat.radius import Family, Radius, climb
from jaxsnn.sat.workers import Kind


def decide(job: Job, run: run_state.RunState, inputs: Inputs) -> None:
    """Searches every sample that has no line yet and appends a line for each."""
    path = run.workdir / job.results_file
    known = {
        record["sample"]
        for record in json_files.read_jsonl(path)
        if record["verdict"] != Verdict.ERROR.value
    }
    todo = [p for p in inputs.mine if job.samples[p] not in known]
    names = job.backends or solve.portfolio()
    limit = job.seconds + workers.GRACE_SECONDS
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(
            job.make_pool(
                job.network, job.workers, limit, workers.fair_memory(job.workers)
            )
        )
        prover = None
        if job.proof_dir is not None:
            prover = stack.enter_context(
                Prover(job.proof_dir, job.network, job.seconds, job.workers, job.other)
            )
        bar = stack.enter_context(
            progress.Progress("find radius", len(inputs.mine), done=len(known))
        )

        def keep(record: Mapping[str, Any]) -> None:
            json_files.append_jsonl(path, record)
            bar.advance(radius=record["radius"], verdict=record["verdict"])

        for position in todo:
            balls = family(job, inputs, position)
            pool.submit(position, climb, balls, job.seconds, names)
        latest: dict[Any, Radius] = {}
        for event in pool.events(wait=True):
            task, kind, value = cast(int, event.task), event.kind, event.value
            if kind is Kind.ITEM:
                latest[task] = value
                continue
            found = latest.get(task, Radius(-1, None, Result(Verdict.UNKNOWN)))
            if kind is Kind.STALLED:
                found = _stopped(found, Result(Verdict.TIMEOUT, seconds=limit))
            elif kind is Kind.FAILED:
                found = _stopped(found, Result(Verdict.ERROR, message=value))
            balls = family(job, inputs, task)
            record = {**identify(job, inputs, task), **_describe(job, found, balls)}
            if prover is None or found.robust < 0:
                keep(record)
                continue
            prover.submit(record, balls.query(found.robust), found.robust)
            for proved in prover.finished():
                keep(proved)
        if prover is not None:
            for proved in prover.finished(wait=True):
                keep(proved)


def _stopped(found: Radius, result: Result) -> Radius:
    """What was known when a search was stopped, `result.seconds` later."""
    seconds = found.result.seconds + result.seconds
    return dataclasses.replace(
        found, result=dataclasses.replace(result, seconds=seconds)
    )


def _describe(job: Job, found: Radius, balls: Family) -> dict[str, Any]:
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
        **describe(job, found.result, balls.query(0)),
    }
