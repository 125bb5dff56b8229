"""Holds the lines of a verification run against proofs and replayed counterexamples.

Queries are derived again from network, data set and line, in NumPy alone: the code
here shares nothing with what asked them in the first place.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import data, json_files, results, run_state
from jaxsnn import integer
from jaxsnn.sat import replay
from jaxsnn.sat.check import manifest
from jaxsnn.sat.check.folder import Confirmed
from jaxsnn.sat.query import Query
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Requirement, Robust, Tie
from jaxsnn.sat.spec import IntegerNetwork

# The flag of each limit that may hold beside the radius.
_LIMITS = {
    "linf": "max_shift",
    "l1": "max_total_shift",
    "l0": "max_changed",
    "pixel": "max_pixel",
    "drop": "max_dropped",
    "insert": "max_inserted",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The lines of a run, and what they are about.

    Attributes:
        records: the lines.
        network: of the run.
        dataset: of the run.
        tie: the reading of ties.
        requires: what must hold.
        limits: the other limits of the run, by flag.
    """

    records: Sequence[Mapping[str, Any]]
    network: IntegerNetwork
    dataset: data.Dataset
    tie: Tie
    requires: Requirement = dataclasses.field(default_factory=Robust)
    limits: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def open_run(workdir: str | os.PathLike[str], data_dir: str | None) -> Run:
    """Reads a workdir of `verify_snn` or `compare_snn`, its networks and its data.

    Args:
        workdir: of the run.
        data_dir: where the data set is now, or None for where it was.

    Raises:
        UsageError: the workdir holds no run, or network or data cannot be read.
    """
    found = results.read_run(workdir)
    try:
        asked = found.flags
        network = integer.load(
            asked["network"], asked["num_steps"], asked["fractional_bits"]
        )
        dataset = data.load(
            asked["dataset"], asked["split"], data_dir or asked["data_dir"]
        )
        tie = Tie(asked["tie"])
        requires = _requirement(asked, network)
    except (KeyError, ValueError) as error:
        if isinstance(error, run_state.UsageError):
            raise
        raise run_state.usage_error("results", workdir, str(error)) from error
    if asked.get("find_radius"):
        files = sorted(found.directory.glob("results*.jsonl"))
        lines = [line for file in files for line in json_files.read_jsonl(file)]
        last = {line["sample"]: line for line in lines}
        records = [claim for line in last.values() for claim in claims_of_radius(line)]
    else:
        records = [record for _, record in results.merge([found])]
    return Run(records, network, dataset, tie, requires, asked)


def _requirement(asked: Mapping[str, Any], network: IntegerNetwork) -> Requirement:
    """What the flags of a run say must hold."""
    if asked.get("other") is not None:
        bits = asked["other_fractional_bits"]
        bits = asked["fractional_bits"] if bits is None else bits
        return Alike(integer.load(asked["other"], asked["num_steps"], bits))
    kind, _, rest = asked.get("property", "robust").partition(":")
    match kind, rest.split(","):
        case "latency", [step, *label]:
            return Latency(int(step), of_label=label == ["label"])
        case "not_silent", _:
            return Latency(network.num_steps - 2)
        case "monotone", [moved, output]:
            return Monotone(int(moved), int(output))
        case "robust", _:
            return Robust()
    raise ValueError(f"the run is about an unknown property, {kind}")


def claims_of_radius(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns what a line of `--find_radius` claims: robust here, falsified there.

    >>> line = {"radius": 5, "robust_radius": 4, "verdict": "falsified", "proof": "x"}
    >>> [(claim["radius"], claim["verdict"]) for claim in claims_of_radius(line)]
    [(4, 'robust'), (5, 'falsified')]
    """
    claims: list[Mapping[str, Any]] = []
    if record["robust_radius"] >= 0:
        word = "equivalent" if "other_prediction" in record else "robust"
        proved = {"radius": record["robust_radius"], "verdict": word}
        claims.append({**record, **proved})
    if record["verdict"] in ("falsified", "different"):
        claims.append(record)
    return claims


def check(
    run: Run, confirmed: Mapping[str, Confirmed]
) -> tuple[dict[str, int], list[str]]:
    """Confirms every decided line.

    Args:
        run: the lines.
        confirmed: proofs that hold, by the name that lines give them.

    Returns:
        How many lines of each verdict are confirmed, and a line for each that is not.
        Undecided lines claim nothing.
    """
    network = manifest.network_digest(run.network)
    words = ("robust", "falsified")
    if isinstance(run.requires, Alike):
        words = ("equivalent", "different")
    counts = dict.fromkeys(words, 0)
    failures = []
    for record in run.records:
        if record["verdict"] not in counts:
            continue
        query = derive_query(run, record)
        outputs = replay.spike_steps(run.network, query.spike_steps)[-1]
        if replay.prediction(outputs) != query.label:
            reason: str | None = f"the prediction is {replay.prediction(outputs)}"
        elif record["verdict"] == words[0]:
            reason = _unproved(record, network, query, confirmed)
        else:
            reason = _not_broken(record, run.network, query)
        if reason is None:
            counts[record["verdict"]] += 1
        else:
            failures.append(
                f"sample {record['sample']}, {record['norm']} radius "
                f"{record['radius']}, {record['verdict']}: {reason}"
            )
    return counts, failures


def derive_query(run: Run, record: Mapping[str, Any]) -> Query:
    """Returns the query of a line; bright pixels spike early (`jaxsnn.coding`)."""
    images, max_value = run.dataset.images, run.dataset.max_value
    assert images is not None
    assert max_value is not None
    pixels = images[record["sample"]].reshape(-1).astype(np.int64)
    last = run.network.num_steps - 1

    def code(grey: np.ndarray) -> np.ndarray:
        return (max_value - np.clip(grey, 0, max_value)) * last // max_value

    steps = code(pixels)
    limits = {name: run.limits.get(flag) for name, flag in _LIMITS.items()}
    limits[record["norm"]] = record["radius"]
    unmoving = all(limits[name] is None for name in ("linf", "l1", "l0", "pixel"))
    if unmoving:  # only failures were asked for
        limits["linf"] = 0
    low, high = np.zeros_like(steps), np.full_like(steps, last)
    for norm in ("linf", "l1"):
        if limits[norm] is not None:
            low = np.maximum(low, steps - limits[norm])
            high = np.minimum(high, steps + limits[norm])
    if limits["pixel"] is not None:
        # An epsilon a hair below a whole number of grey levels means that number.
        levels = math.floor(limits["pixel"] * max_value + 1e-9)
        low = np.maximum(low, code(pixels + levels))
        high = np.minimum(high, code(pixels - levels))
    fails = bool(limits["drop"] or limits["insert"])
    return Query(
        steps,
        low,
        high,
        record["prediction"],
        max_total_shift=limits["l1"],
        max_changed=limits["l0"],
        tie=run.tie,
        target=run.limits.get("target"),
        max_dropped=limits["drop"] or 0,
        max_inserted=limits["insert"] or 0,
        silent_step=last if fails else None,
        requires=run.requires,
    )


def _unproved(
    record: Mapping[str, Any],
    network: str,
    query: Query,
    confirmed: Mapping[str, Confirmed],
) -> str | None:
    """Why a robust line is not confirmed, None if it is."""
    if record["proof"] is None:
        return f"has no proof ({record.get('proof_note', 'none was asked for')})"
    if record["proof"] not in confirmed:
        return f"no proof {record['proof']} holds"
    found = confirmed[record["proof"]].manifest
    if found.network != network:
        return "its proof is about another network"
    if found.query != manifest.sha256(manifest.query_to_json(query)):
        return "its proof is about another query"
    return None


def _not_broken(
    record: Mapping[str, Any], network: IntegerNetwork, query: Query
) -> str | None:
    """Why a counterexample is none, None if it is one."""
    changes = record["counterexample"]
    if changes is None:
        return "has no counterexample"
    steps = query.spike_steps.copy()
    for neuron, step, changed in changes:
        if not 0 <= neuron < len(steps) or steps[neuron] != step:
            return f"input {neuron} does not spike at step {step}"
        steps[neuron] = changed
    if not query.admits(steps):
        return "the counterexample lies outside the ball"
    if isinstance(query.requires, Monotone):
        neuron, step, changed = record["moved"]
        if neuron != query.requires.input or steps[neuron] != step:
            return f"input {neuron} does not spike at step {step}"
        sooner = steps.copy()
        sooner[neuron] = changed
        if not query.admits(sooner):
            return "the earlier input lies outside the ball"
        steps = np.stack([steps, sooner])
    if not replay.falsifies(network, query, steps):
        if isinstance(query.requires, Robust):
            return "the counterexample does not change the decision"
        return "the counterexample does not break what was asked"
    return None
