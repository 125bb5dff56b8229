"""What the verification benchmark makes of its measurements: rows, table, picture."""

import collections
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import text_table
from jaxsnn.sat.query import Verdict

OURS = "jaxsnn"
_DECIDED = (Verdict.ROBUST.value, Verdict.FALSIFIED.value)
_RESOLUTION_SECONDS = 1e-6


def compare(
    records: Sequence[Mapping[str, Any]], timeout_s: float, device: str
) -> list[dict[str, Any]]:
    """Returns one row for each network, radius and peer.

    A query counts with its own time if it was decided in time, else with the limit, so
    that `ratio`, the median over queries of the peer's time over ours, is a lower bound
    where the peer was stopped (`at_least`: on so many queries). `spread` holds the
    quartiles of the ratio and how far repeats of ours lie apart, slowest over fastest.
    """
    times: dict[Any, list[tuple[float, bool]]] = collections.defaultdict(list)
    for record in records:
        key = record["network"], record["norm"], record["radius"]
        within = record["verdict"] in _DECIDED and record["seconds"] <= timeout_s
        # An answer that a narrower ball gave already costs nothing; ratios need a time.
        seconds = max(record["seconds"], _RESOLUTION_SECONDS)
        times[key, record["engine"], record["sample"]].append(
            (seconds if within else timeout_s, within)
        )
    engines = dict.fromkeys(record["engine"] for record in records)
    rows = []
    for key in dict.fromkeys(key for key, _, _ in times):
        for peer in engines:
            samples = [s for k, engine, s in times if (k, engine) == (key, peer)]
            if peer == OURS or not samples:
                continue
            ours = [times[key, OURS, sample] for sample in samples]
            theirs = [times[key, peer, sample] for sample in samples]
            ours_seconds = [_median(runs) for runs in ours]
            peer_seconds = [_median(runs) for runs in theirs]
            ratios = np.divide(peer_seconds, ours_seconds)
            rows.append(
                {
                    "name": f"{key[0]} {key[1]} {key[2]}",
                    "peer": peer,
                    "device": device,
                    "queries": len(samples),
                    "ours_solved": sum(runs[0][1] for runs in ours),
                    "peer_solved": sum(runs[0][1] for runs in theirs),
                    "ours_seconds": statistics.median(ours_seconds),
                    "peer_seconds": statistics.median(peer_seconds),
                    "ratio": float(np.median(ratios)),
                    "at_least": sum(not runs[0][1] for runs in theirs),
                    "spread": {
                        "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
                        "ours_slowest_over_fastest": max(
                            max(runs)[0] / min(runs)[0] for runs in ours
                        ),
                    },
                }
            )
    return rows


def _median(runs: Sequence[tuple[float, bool]]) -> float:
    return statistics.median(seconds for seconds, _ in runs)


def summarize(
    records: Sequence[Mapping[str, Any]], timeout_s: float
) -> list[dict[str, Any]]:
    """Returns one row an engine, over all queries: decided, median and PAR-2 seconds.

    PAR-2 is the mean time with twice the limit for what was not decided in time.
    """
    found: dict[str, dict[Any, list]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for record in records:
        query = record["network"], record["sample"], record["radius"]
        within = record["verdict"] in _DECIDED and record["seconds"] <= timeout_s
        found[record["engine"]][query].append(
            (record["seconds"] if within else 2 * timeout_s, within)
        )
    rows = []
    for engine, queries in found.items():
        seconds = [_median(runs) for runs in queries.values()]
        rows.append(
            {
                "engine": engine,
                "decided": sum(runs[0][1] for runs in queries.values()),
                "queries": len(queries),
                "median_seconds": min(statistics.median(seconds), timeout_s),
                "par2_seconds": statistics.fmean(seconds),
            }
        )
    return rows


def disagreements(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each query on which two engines decide differently."""
    found: dict[Any, dict[str, set]] = collections.defaultdict(
        lambda: collections.defaultdict(set)
    )
    for record in records:
        if record["verdict"] in _DECIDED:
            query = record["network"], record["sample"], record["radius"]
            found[query][record["verdict"]].add(record["engine"])
    return [
        f"{network} sample {sample} radius {radius}: "
        + "; ".join(f"{v} by {', '.join(sorted(e))}" for v, e in sorted(by.items()))
        for (network, sample, radius), by in found.items()
        if len(by) > 1
    ]


def plot(
    records: Sequence[Mapping[str, Any]], timeout_s: float, path: str | os.PathLike
) -> None:
    """Draws how many queries each engine decides within a time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in records:
        names = "engine", "network", "sample", "radius"
        first.setdefault(tuple(record[name] for name in names), record)
    for engine in dict.fromkeys(record["engine"] for record in records):
        seconds = sorted(
            max(record["seconds"], 1e-4)
            for record in first.values()
            if record["engine"] == engine
            and record["verdict"] in _DECIDED
            and record["seconds"] <= timeout_s
        )
        style: dict[str, Any] = (
            {"linewidth": 2.5, "color": "black"} if engine == OURS else {}
        )
        axes.step(
            [*seconds, timeout_s],
            [*range(1, len(seconds) + 1), len(seconds)],
            where="post",
            label=f"{engine} ({len(seconds)})",
            **style,
        )
    axes.set_xscale("log")
    axes.set_xlabel("seconds for a query")
    axes.set_ylabel("queries decided within it")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def describe(report: Mapping[str, Any]) -> str:
    """Returns the report as tables."""
    columns = ("engine", "decided", "queries", "median_seconds", "par2_seconds")
    engines = text_table.render(
        ["engine", "decided", "queries", "median s", "PAR-2 s"],
        [[row[column] for column in columns] for row in report["engines"]],
    )
    rows = [
        [
            row["name"],
            row["peer"],
            f"{row['ours_solved']}/{row['queries']}",
            f"{row['peer_solved']}/{row['queries']}",
            row["ours_seconds"],
            row["peer_seconds"],
            ("at least " if row["at_least"] else "") + f"{row['ratio']:.3g}",
        ]
        for row in report["rows"]
    ]
    header = ["queries", "peer", "ours", "peer's", "ours s", "peer s", "ratio"]
    lines = [engines, "", text_table.render(header, rows)]
    lines += [f"skipped: {line}" for line in report["skipped"]]
    lines += [f"DISAGREEMENT: {line}" for line in report["disagreements"]]
    return "\n".join(lines)
