"""Confirms the proofs of a run of `published_grid`, network by network."""

import collections
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import json_files, run_state


def confirm(
    proof_dir: pathlib.Path, workdir: pathlib.Path, data_dir: str, workers: int
) -> dict[str, Any]:
    """Runs `check_proofs` on one network's proofs and its lines.

    Args:
        proof_dir: of this network alone.
        workdir: of its run of `verify_snn`; receives `check.json`.
        data_dir: where the data sets are.
        workers: processes that check.

    Returns:
        What was confirmed and what was not, sizes and seconds.

    Raises:
        RuntimeError: with what it wrote, if it could not be run.
    """
    command = [sys.executable, "-m", "experiments.check_proofs"]
    command += [f"--proof_dir={proof_dir}", f"--results={workdir}"]
    command += [f"--data_dir={data_dir}", f"--workdir={workdir}"]
    command += [f"--workers={workers}"]
    started = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode not in (0, run_state.EXIT_ERROR):
        raise RuntimeError(f"check_proofs on {proof_dir} failed:\n{run.stderr}")
    report = json_files.read_json(workdir / "check.json", None)
    if report is None:
        raise RuntimeError(f"check_proofs on {proof_dir} failed:\n{run.stderr}")
    files = [path for path in proof_dir.rglob("*") if path.is_file()]
    proofs = report["proofs"].values()
    return {
        "network": workdir.name,
        "confirmed": report["confirmed"],
        "failures": report["failures"],
        "methods": dict(collections.Counter(proof["method"] for proof in proofs)),
        "bytes": sum(path.stat().st_size for path in files),
        "seconds": time.monotonic() - started,
        "slowest": max((proof["seconds"] for proof in proofs), default=0.0),
    }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what was confirmed as a table for people."""
    lines = [
        "| network | robust confirmed | falsified confirmed | by | MB | check s | "
        "slowest s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['network']} | {row['confirmed']['robust']} | "
        f"{row['confirmed']['falsified']} | "
        + ", ".join(f"{n} {method}" for method, n in sorted(row["methods"].items()))
        + f" | {row['bytes'] / 1e6:.1f} | {row['seconds']:.0f} | {row['slowest']:.1f} |"
        for row in rows
    ]
    failures = [(row["network"], text) for row in rows for text in row["failures"]]
    if failures:
        lines += ["", "Not confirmed:", ""]
        lines += [f"* {network}: {text}" for network, text in failures]
    return "\n".join(lines) + "\n"
