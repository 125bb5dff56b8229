"""Our verdicts beside the published ones: what differs and why, and how much faster."""

import collections
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import data, float_replay, published, results

_DECIDED = ("robust", "falsified")
# Searches that leave out inputs by an argument about delays; verdicts of search-bab are
# refuted by counterexamples, those of search-prefix are not.
PRUNED_SEARCHES = ("search-bab", "search-prefix")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One query of ours with the published verdicts on it.

    Attributes:
        network: what was asked.
        record: our result line.
        others: the published verdicts, repeated runs of a method included.
    """

    network: published.Network
    record: Mapping[str, Any]
    others: tuple[published.Verdict, ...]

    @property
    def differing(self) -> list[published.Verdict]:
        """The published verdicts that contradict ours."""
        ours = self.record["verdict"]
        decided = ours in _DECIDED
        return [
            other
            for other in self.others
            if decided and other.verdict in _DECIDED and other.verdict != ours
        ]

    def best_seconds(self, leave_out: Sequence[str] = ()) -> float | None:
        """The shortest time in which a published method decided, None if none did."""
        seconds = [
            other.seconds
            for other in self.others
            if other.verdict in _DECIDED
            and other.seconds is not None
            and other.method not in leave_out
        ]
        return min(seconds, default=None)


def compare(
    network: published.Network,
    records: Sequence[Mapping[str, Any]],
    verdicts: Sequence[published.Verdict],
) -> list[Comparison]:
    """Returns a comparison for each of our results on one network."""
    others = collections.defaultdict(list)
    for verdict in verdicts:
        key = verdict.dataset, verdict.num_steps, verdict.hidden
        if key == (network.dataset, network.num_steps, network.hidden):
            others[verdict.sample, verdict.budget].append(verdict)
    return [
        Comparison(
            network, record, tuple(others[record["sample"], int(record["radius"])])
        )
        for record in records
    ]


def make(
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Comparison],
    wall: Mapping[str, float],
    data_dir: str,
) -> dict[str, Any]:
    """Returns the report: summary rows, differences explained, speed ratios."""
    return {
        "wall": dict(wall),
        "rows": list(rows),
        "published_queries": sum(bool(c.others) for c in comparisons),
        "differences": [
            explain(c, data_dir) for c in comparisons if c.record and c.differing
        ],
        "undecided": [
            {"network": c.network.name, **c.record}
            for c in comparisons
            if c.record["verdict"] not in _DECIDED
        ],
        "ratios": ratios(comparisons),
    }


def ratios(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Returns, for each budget, the published best method's seconds over ours.

    Each query both sides decided counts once, whether the verdicts agree or not.
    """
    found = []
    budgets = sorted({int(c.record["radius"]) for c in comparisons})
    choices: list[tuple[str, list[int]]] = [(str(b), [b]) for b in budgets]
    choices.append(("2 and above", [b for b in budgets if b >= 2]))
    for name, chosen in choices:
        for label, leave_out in (
            ("all methods", ()),
            ("without pruned searches", PRUNED_SEARCHES),
        ):
            quotients = [
                best / c.record["seconds"]
                for c in comparisons
                if int(c.record["radius"]) in chosen
                and c.record["verdict"] in _DECIDED
                and c.record["seconds"] > 0
                and (best := c.best_seconds(leave_out)) is not None
            ]
            if quotients:
                low, middle, high = np.quantile(quotients, [0.25, 0.5, 0.75]).tolist()
                found.append(
                    {
                        "budget": name,
                        "methods": label,
                        "queries": len(quotients),
                        "median": middle,
                        "quartiles": [low, high],
                        "smallest": min(quotients),
                    }
                )
    return found


def explain(comparison: Comparison, data_dir: str) -> dict[str, Any]:
    """Returns one difference with what decides it.

    A counterexample of ours is replayed on the published weights, unrounded, with
    both comparisons; where we proved robustness, the unrounded weights are searched
    for a violation without a shift or with one.
    """
    from jaxsnn import coding

    network, record = comparison.network, comparison.record
    dataset = data.load(network.dataset, "train", data_dir)
    assert dataset.images is not None
    assert dataset.max_value is not None
    pixels = dataset.images[record["sample"]].reshape(-1)
    clean = coding.latency(pixels, network.num_steps, dataset.max_value)
    weights = float_replay.load_weights(network.path)
    changed = clean.copy()
    for neuron, _, step in record["counterexample"] or ():
        changed[neuron] = step
    unrounded = {}
    for crossing in float_replay.Crossing:
        outputs = float_replay.output_steps(
            weights, network.num_steps, changed, crossing
        )
        violated = float_replay.is_violated(outputs, record["prediction"])
        if record["verdict"] == "robust" and not violated:
            violated = (
                float_replay.find_single_shift(
                    weights, network.num_steps, clean, record["prediction"], crossing
                )
                is not None
            )
        unrounded[crossing.value] = violated
    methods = collections.Counter(
        f"{other.method}: {other.verdict}" for other in comparison.differing
    )
    agreeing = {
        other.method
        for other in comparison.others
        if other.verdict == record["verdict"]
    }
    return {
        "network": network.name,
        "sample": record["sample"],
        "budget": int(record["radius"]),
        "published": dict(methods),
        "agreeing": sorted(agreeing),
        "verdict": record["verdict"],
        "stage": record["stage"],
        "backend": record["backend"],
        "counterexample": record["counterexample"],
        "violated_unrounded": unrounded,
    }


def to_markdown(report: Mapping[str, Any]) -> str:
    """Returns the report as tables for people."""
    lines = [
        "| network | budget | decided | robust | falsified | median s | worst s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        name = row["network"].rsplit("/", 1)[-1].removesuffix(".npz")
        decided = row["robust"] + row["falsified"]
        lines.append(
            f"| {name} | {row['radius']} | {decided} of {row['queries']} | "
            f"{row['robust']} | {row['falsified']} | {row['median_seconds']:.3f} | "
            f"{row['max_seconds']:.2f} |"
        )
    queries = sum(row["queries"] for row in report["rows"])
    decided = sum(row["robust"] + row["falsified"] for row in report["rows"])
    stages = ", ".join(
        f"{sum(row[f'by_{stage}'] for row in report['rows'])} by {stage}"
        for stage in results.STAGES
    )
    medians = statistics.median(row["median_seconds"] for row in report["rows"])
    worst = max(row["max_seconds"] for row in report["rows"])
    lines += [
        "",
        f"{decided} of {queries} queries decided ({stages}); the median over rows of "
        f"the median is {medians:.3f} s, the worst query took {worst:.2f} s, the whole "
        f"{sum(report['wall'].values()):.0f} s of wall-clock time.",
    ]
    if report["ratios"]:
        lines += [
            "",
            "| budget | published methods | queries | median ratio | quartiles | "
            "smallest |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['budget']} | {row['methods']} | {row['queries']} | "
            f"{row['median']:,.3g} | {row['quartiles'][0]:,.3g} to "
            f"{row['quartiles'][1]:,.3g} | {row['smallest']:,.3g} |"
            for row in report["ratios"]
        ]
    if report["differences"]:
        lines += [
            "",
            "| network | budget | sample | published | agree with us | ours | "
            "unrounded `>` | unrounded `>=` |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_difference(entry) for entry in report["differences"]]
    if report["undecided"]:
        lines += ["", "Not decided:", ""]
        lines += [
            f"* {entry['network']}, sample {entry['sample']}, radius "
            f"{entry['radius']}: {entry['verdict']} after {entry['seconds']:.1f} s"
            for entry in report["undecided"]
        ]
    return "\n".join(lines) + "\n"


def _difference(entry: Mapping[str, Any]) -> str:
    theirs = ", ".join(
        text if times == 1 else f"{text} ({times} times)"
        for text, times in entry["published"].items()
    )
    if entry["verdict"] == "robust":
        by = entry["stage"] + (f", {entry['backend']}" if entry["backend"] else "")
        ours = f"robust by {by}"
    elif entry["counterexample"]:
        moves = ", ".join(f"{i}: {a} to {b}" for i, a, b in entry["counterexample"])
        ours = f"falsified by input {moves}"
    else:
        ours = "tied without any shift"
    unrounded = [
        ("violated" if violated else "no violation found")
        for violated in entry["violated_unrounded"].values()
    ]
    agreeing = ", ".join(entry["agreeing"]) or "none"
    return (
        f"| {entry['network']} | {entry['budget']} | {entry['sample']} | {theirs} | "
        f"{agreeing} | {ours} | {' | '.join(unrounded)} |"
    )
