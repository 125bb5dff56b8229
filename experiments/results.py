"""Results of verification: read from one or many runs, checked, merged and summed up.

A run is a workdir of `verify_snn` or `compare_snn`. It holds `results.jsonl`, or its
part of a run in shards, `results-00003-of-00016.jsonl`; `run.json` beside it says what
was asked. Under `queries` it may list all queries of all shards, so that missing ones
can be named:

    "queries": {"samples": [14628, 48598], "norm": "l1", "radii": [1, 2], "skipped": []}

where `skipped` are samples left out because they are misclassified.
"""

import collections
import csv
import dataclasses
import io
import os
import pathlib
import re
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import json_files, run_state

DECIDED = ("robust", "falsified", "equivalent", "different")
UNDECIDED = ("unknown", "timeout", "error")
STAGES = ("clean", "attack", "bounds", "solve")

# Limits that may hold beside the radius, by flag.
_LIMITS = {
    "max_shift": "linf",
    "max_total_shift": "l1",
    "max_changed": "l0",
    "max_pixel": "pixel",
    "max_dropped": "drop",
    "max_inserted": "insert",
}
_SHARD_FILE = re.compile(r"results-(\d+)-of-(\d+)\.jsonl")
_MAX_NAMED = 10


class Group(NamedTuple):
    """What the queries of one row of the summary have in common, but the radius."""

    network: str
    other: str | None
    dataset: str | None
    split: str | None
    norm: str  # and what else was asked, if anything


@dataclasses.dataclass(frozen=True)
class Run:
    """What one workdir holds.

    Attributes:
        directory: the workdir.
        flags: flags of the run.
        records: its result lines, in the order in which they were decided.
        shards: pairs of shard and number of shards whose files are there; `(0, 1)` for
            a run that is not in shards.
        queries: what was asked, if `run.json` says so.
    """

    directory: pathlib.Path
    flags: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    shards: frozenset[tuple[int, int]]
    queries: Mapping[str, Any] | None

    def group(self, record: Mapping[str, Any]) -> Group:
        """Returns the group of one of its records."""
        return self._group(record["norm"])

    def asked(self) -> tuple[Group, Mapping[str, Any]] | None:
        """Returns the queries that were asked and their group, if known."""
        if self.queries is None:
            return None
        return self._group(self.queries["norm"]), self.queries

    def _group(self, norm: str) -> Group:
        names = ("network", "other", "dataset", "split")
        network, other, dataset, split = (self.flags.get(name) for name in names)
        norm += "".join(f" {part}" for part in beside_norm(self.flags))
        return Group(str(network), other, dataset, split, norm)


def beside_norm(flags: Mapping[str, Any]) -> list[str]:
    """Returns what distinguishes a run's questions from those of its norm alone.

    >>> beside_norm({"max_dropped": 2, "property": "latency:4", "target": None})
    ['drop<=2', 'latency:4']
    """
    parts = [
        f"{norm}<={flags[name]}"
        for name, norm in _LIMITS.items()
        if flags.get(name) is not None
    ]
    if flags.get("target") is not None:
        parts.append(f"target={flags['target']}")
    if flags.get("property", "robust") != "robust":
        parts.append(flags["property"])
    return parts


def read_run(directory: str | os.PathLike[str]) -> Run:
    """Reads a workdir; a line that a crash cut short is left out.

    Raises:
        run_state.UsageError: it holds no results.
    """
    path = pathlib.Path(directory)
    facts = json_files.read_json(path / run_state.RUN_FILE, missing=None)
    files = sorted(path.glob("results.jsonl")) + sorted(path.glob("results-*.jsonl"))
    if facts is None or not files:
        lacking = run_state.RUN_FILE if facts is None else "results*.jsonl"
        raise run_state.usage_error(
            "inputs", path, f"holds no {lacking}; name workdirs of verify_snn"
        )
    shards = set()
    for file in files:
        match = _SHARD_FILE.fullmatch(file.name)
        shards.add((int(match[1]), int(match[2])) if match else (0, 1))
    flags = facts.get("flags", {})
    records = [r for file in files for r in json_files.read_jsonl(file)]
    if flags.get("find_radius"):
        proved = "robust" if flags.get("other") is None else "equivalent"
        records = implied_by_radius(records, proved)
    return Run(
        directory=path,
        flags=flags,
        records=records,
        shards=frozenset(shards),
        queries=facts.get("queries"),
    )


def implied_by_radius(
    records: Sequence[Mapping[str, Any]], proved: str = "robust"
) -> list[dict[str, Any]]:
    """Returns what exact breaking radii say about every radius, one record each.

    Each sample is robust up to its `robust_radius`, falsified from its breaking radius
    on, and open between; the time of its search is counted once. Radii end where no
    record says more, which for samples that nothing breaks is long before their own.
    """
    widest = max([1, *map(_last_known, records)])
    implied = []
    for record in records:
        for radius in range(widest + 1):
            line = {**record, "radius": radius}
            if radius != min(record["radius"], widest):
                line |= {"seconds": 0.0, "counterexample": None}
            if radius <= record["robust_radius"]:
                line["verdict"] = proved
            implied.append(line)
    return implied


def _last_known(record: Mapping[str, Any]) -> int:
    """The radius from which on a record says nothing new."""
    robust_everywhere = record["radius"] == record["robust_radius"]
    return 0 if robust_everywhere else int(record["radius"])


def problems(runs: Sequence[Run]) -> list[str]:
    """Returns what is missing or contradictory, one line each; empty if all is well.

    Without `queries` in `run.json`, each radius of a group must cover the same samples.
    """
    if not any(run.records or run.queries for run in runs):
        return [f"no results in {', '.join(str(run.directory) for run in runs)}"]
    return [
        *_missing_shards(runs),
        *_missing_queries(runs),
        *_contradictions(runs),
    ]


def merge(runs: Sequence[Run]) -> list[tuple[Group, Mapping[str, Any]]]:
    """Returns one record for each query, with its group.

    Of several records of a query the first decided one counts, or else the last.
    """
    merged: dict[tuple[Any, ...], tuple[Group, Mapping[str, Any]]] = {}
    for group, record in _records(runs):
        key = (group, record["radius"], record["sample"])
        known = merged.get(key)
        if known is None or known[1]["verdict"] not in DECIDED:
            merged[key] = (group, record)
    return list(merged.values())


def summarize(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns one row for each network, norm and radius.

    `par2_seconds` is the mean time with twice the time limit for what was not decided.
    `accuracy`, `verified_accuracy` and `unbroken_accuracy` are shares of all samples,
    skipped ones included: those predicted right, those of them that are robust, and
    those that were not falsified.
    """
    limits = [float(run.flags["timeout_s"]) for run in runs if "timeout_s" in run.flags]
    skipped: dict[Group, set[int]] = collections.defaultdict(set)
    for run in runs:
        if (asked := run.asked()) is not None:
            skipped[asked[0]] |= set(asked[1].get("skipped", ()))
    rows: dict[tuple[Group, Any], list[Mapping[str, Any]]] = {}
    for group, record in merge(runs):
        rows.setdefault((group, record["radius"]), []).append(record)
    return [
        {
            **group._asdict(),
            "radius": radius,
            **summarize_records(
                records,
                timeout_s=max(limits, default=None),
                num_skipped=len(skipped[group]),
            ),
        }
        for (group, radius), records in sorted(rows.items(), key=_row_order)
    ]


def summarize_records(
    records: Sequence[Mapping[str, Any]],
    *,
    timeout_s: float | None = None,
    num_skipped: int = 0,
) -> dict[str, Any]:
    """Sums up the records of one radius.

    Args:
        records: at least one, each of another sample.
        timeout_s: the time limit of a query, in seconds; without one, an undecided
            query counts twice its own time in `par2_seconds`.
        num_skipped: misclassified samples without a record.
    """
    verdicts = collections.Counter(r["verdict"] for r in records)
    stages = collections.Counter(r["stage"] for r in records if r["verdict"] in DECIDED)
    seconds = [float(r["seconds"]) for r in records]
    penalised = [
        s if r["verdict"] in DECIDED else 2 * (s if timeout_s is None else timeout_s)
        for s, r in zip(seconds, records, strict=True)
    ]
    right = [r for r in records if r["prediction"] == r["label"]]
    samples = len(records) + num_skipped
    return {
        "queries": len(records),
        **{verdict: verdicts[verdict] for verdict in (*DECIDED, *UNDECIDED)},
        **{f"by_{stage}": stages[stage] for stage in STAGES},
        "median_seconds": statistics.median(seconds),
        "max_seconds": max(seconds),
        "total_seconds": sum(seconds),
        "par2_seconds": statistics.fmean(penalised),
        "accuracy": len(right) / samples,
        "verified_accuracy": sum(r["verdict"] == "robust" for r in right) / samples,
        "unbroken_accuracy": sum(r["verdict"] != "falsified" for r in right) / samples,
    }


def table(
    rows: Sequence[Mapping[str, Any]], leave_out: Collection[str] = ()
) -> tuple[list[str], list[list[Any]]]:
    """Returns header and rows of a summary as a person wants it: no empty columns.

    Args:
        rows: from `summarize`.
        leave_out: further columns not to show, such as `network` when there is but one.
    """
    shown = {
        "network": "network",
        "other": "other",
        "norm": "norm",
        "radius": "radius",
        "queries": "queries",
        **{verdict: verdict for verdict in (*DECIDED, *UNDECIDED)},
        **{f"by_{stage}": f"by {stage}" for stage in STAGES},
        "median_seconds": "median s",
        "max_seconds": "max s",
        "par2_seconds": "PAR-2 s",
        "accuracy": "accuracy",
        "verified_accuracy": "verified",
    }
    optional = {"other", *DECIDED, *UNDECIDED, *(f"by_{stage}" for stage in STAGES)}
    equivalence = any(row["other"] for row in rows)
    columns = [
        column
        for column in shown
        if column not in leave_out
        and not (column in optional and not any(row[column] for row in rows))
        and not (equivalence and column == "verified_accuracy")
    ]
    header = [shown[column] for column in columns]
    return header, [[_shown(column, row[column]) for column in columns] for row in rows]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the summary as CSV, all columns in a fixed order."""
    text = io.StringIO()
    names = list(rows[0]) if rows else []
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _shown(column: str, value: Any) -> Any:
    if column in ("network", "other") and value is not None:
        return pathlib.PurePath(value).name
    if column.endswith("accuracy"):
        return f"{100 * value:.1f} %"
    return value


def _row_order(item: tuple[tuple[Group, Any], Any]) -> tuple[Any, ...]:
    (group, radius), _ = item
    return (*(part or "" for part in group), radius)


def _records(runs: Iterable[Run]) -> Iterable[tuple[Group, Mapping[str, Any]]]:
    return ((run.group(record), record) for run in runs for record in run.records)


def _missing_shards(runs: Sequence[Run]) -> list[str]:
    present = collections.defaultdict(set)
    for run in runs:
        for shard, num_shards in run.shards:
            present[run.flags.get("network"), run.flags.get("norm"), num_shards].add(
                shard
            )
    return [
        f"missing shard: results-{shard:05d}-of-{num_shards:05d}.jsonl of "
        f"--network={network} --norm={norm}"
        for (network, norm, num_shards), shards in present.items()
        for shard in sorted(set(range(num_shards)) - shards)
    ]


def _missing_queries(runs: Sequence[Run]) -> list[str]:
    found: dict[Group, dict[Any, set[int]]] = {}
    for group, record in _records(runs):
        of_group = found.setdefault(group, {})
        of_group.setdefault(record["radius"], set()).add(record["sample"])
    wanted: dict[Group, dict[Any, set[int]]] = {}
    for run in runs:
        if (asked := run.asked()) is None:
            continue
        group, queries = asked
        samples = set(queries["samples"]) - set(queries.get("skipped", ()))
        for radius in queries.get("radii", ()):
            wanted.setdefault(group, {}).setdefault(radius, set()).update(samples)
    for group, by_radius in found.items():
        if group not in wanted:
            everything = set().union(*by_radius.values())
            wanted[group] = dict.fromkeys(by_radius, everything)
    lines = []
    for group, by_radius in wanted.items():
        for radius, samples in by_radius.items():
            missing = sorted(samples - found.get(group, {}).get(radius, set()))
            if missing:
                named = ", ".join(map(str, missing[:_MAX_NAMED]))
                rest = len(missing) - _MAX_NAMED
                more = f" and {rest} more" if rest > 0 else ""
                lines.append(
                    f"missing queries: --network={group.network} --norm={group.norm} "
                    f"--radius={radius}: samples {named}{more}"
                )
    return lines


def _contradictions(runs: Sequence[Run]) -> list[str]:
    verdicts = collections.defaultdict(set)
    for group, record in _records(runs):
        if record["verdict"] in DECIDED:
            key = (group, record["radius"], record["sample"])
            verdicts[key].add(record["verdict"])
    return [
        f"contradiction: --network={group.network} --norm={group.norm} "
        f"--radius={radius} sample {sample} is {' and '.join(sorted(found))}"
        for (group, radius, sample), found in verdicts.items()
        if len(found) > 1
    ]
