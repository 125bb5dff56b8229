"""The page that `demo` writes, made from the files of its three runs alone."""

import collections
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import data, html_report, json_files, results, verify_report
from jaxprune import clusters, report
from jaxsnn import coding, integer
from jaxsnn.sat import replay
from jaxsnn.sat.spec import IntegerNetwork

_NUM_PICTURES = 3
_MEASURES = (
    ("accuracy", "accuracy"),
    ("blocks", "num_blocks"),
    ("parameters", "num_params"),
    ("FLOPs an example", "flops"),
    ("latency (ms)", "latency_ms"),
)


def write(
    workdir: pathlib.Path,
    path: str | os.PathLike[str],
    commands: Sequence[Sequence[str]],
) -> None:
    """Writes the report of a demonstration.

    Args:
        workdir: holds the workdirs `prune`, `train` and `verify`.
        path: file to write.
        commands: arguments of the interpreter that made them.
    """
    pruning = json_files.read_json(workdir / "prune" / "report.json")
    facts = json_files.read_json(workdir / "verify" / "run.json")
    html_report.write(
        path,
        "A smaller network, and a proof about it",
        [
            _pruning_section(pruning, workdir / "prune"),
            _spiking_section(workdir),
            _counterexample_section(workdir),
            html_report.Section(
                "Again, by hand",
                [
                    "These commands made this page; the guides tell what else they do.",
                    html_report.Code(
                        "\n".join(shlex.join(["python", *c]) for c in commands)
                    ),
                ],
            ),
        ],
        subtitle=f"Handwritten digits of scikit-learn, {facts['date'][:10]}, "
        f"jax {facts['versions']['jax']} on {_device_name(facts['device'])}",
    )


def _device_name(device: Mapping[str, Any]) -> str:
    if device["platform"] == "cpu":
        return f"a CPU of {device['cpu_count']} cores"
    return f"{device['count']} {device['kind']}"


def _pruning_section(
    pruning: Mapping[str, Any], directory: pathlib.Path
) -> html_report.Section:
    base, pruned = pruning["base"], pruning["pruned"]
    certificate = pruning["certificate"]
    threshold = pruning["rounds"][0]["threshold"]
    removed = base["num_blocks"] - pruned["num_blocks"]
    rows = [
        [title, base[key], pruned[key], _change(base[key], pruned[key])]
        for title, key in _MEASURES
    ]
    return html_report.Section(
        "Pruning",
        [
            f"A residual network of {base['num_blocks']} blocks was trained; "
            f"{removed} of them were found to compute what a neighbour computes "
            f"already (CKA of at least {threshold}), removed, and the rest repaired.",
            f"With {certificate['confidence']:.0%} confidence the accuracy lost is at "
            f"most {100 * certificate['accuracy_drop_upper_bound']:.1f} points "
            f"({100 * certificate['accuracy_drop']:.1f} observed, on "
            f"{certificate['num_examples']} digits used for nothing else).",
            html_report.Table(["", "before", "after", "change"], rows),
            html_report.Row(
                [
                    *_similarity_figures(pruning, directory, threshold),
                    html_report.Figure(
                        report.plot_before_after(base, pruned),
                        "Before and after pruning.",
                    ),
                ]
            ),
        ],
    )


def _similarity_figures(
    pruning: Mapping[str, Any], directory: pathlib.Path, threshold: float
) -> list[html_report.Figure]:
    figures = []
    for stack, file in pruning["similarity_by_stack"].items():
        matrix = np.load(directory / file)
        figure = report.plot_similarity(
            matrix,
            clusters.anchored(matrix, threshold),
            pruning["pruned"]["kept_blocks"][stack],
        )
        text = (
            "How alike the outputs of any two blocks are; frames are clusters, red "
            "blocks were removed."
        )
        figures.append(html_report.Figure(figure, text))
    return figures


def _change(before: Any, after: Any) -> str | None:
    if not before or after is None:
        return None
    return f"{100 * (after - before) / before:+.1f} %"


def _spiking_section(workdir: pathlib.Path) -> html_report.Section:
    metrics = json_files.read_json(workdir / "train" / "metrics.json")
    run = results.read_run(workdir / "verify")
    summary = results.summarize([run])
    records = [record for _, record in results.merge([run])]
    return html_report.Section(
        "Verification",
        [
            "A spiking network was trained in which each input and neuron spikes once, "
            "the earlier the brighter, and the output that spikes first is the class. "
            f"It classifies {100 * metrics['test_accuracy']:.1f} % of the test digits.",
            "For 100 of them it was decided whether any way to move all input spikes "
            "by up to one or two steps can change the prediction. Robust means "
            "proven; falsified means that such an input was found and replayed in "
            "exact integer arithmetic.",
            html_report.Row(
                [
                    html_report.Figure(
                        verify_report.plot_verdicts(records), "Verdicts by radius."
                    ),
                    html_report.Figure(
                        verify_report.plot_verified_accuracy(summary),
                        "Share of digits that are classified rightly and proven "
                        "robust.",
                    ),
                    html_report.Figure(
                        verify_report.plot_seconds(records),
                        "Seconds for each query, by what decided it.",
                    ),
                ]
            ),
            html_report.Table(*results.table(summary, ("network", "norm", "queries"))),
        ],
    )


def _counterexample_section(workdir: pathlib.Path) -> html_report.Section:
    run = results.read_run(workdir / "verify")
    records = [record for _, record in results.merge([run])]
    network = integer.load(str(run.flags["network"]), None, 0)
    digits = data.load("digits", "test")
    pictures = verify_report.counterexample_pictures(
        network, digits, telling_first(records, network, digits), _NUM_PICTURES
    )
    return html_report.Section(
        "Counterexamples",
        [
            "Left the spike steps of a digit, beside them those of an input within the "
            "radius that the network takes for another digit, and which spikes moved "
            "(red earlier, blue later).",
            *(html_report.Figure(figure, text) for figure, text in pictures),
        ],
    )


def telling_first(
    records: Sequence[Mapping[str, Any]], network: IntegerNetwork, dataset: data.Dataset
) -> list[Mapping[str, Any]]:
    """Orders counterexamples: another class before a mere tie, new labels first."""
    assert dataset.images is not None
    assert dataset.max_value is not None
    seen: collections.Counter[int] = collections.Counter()
    ranked: list[tuple[bool, int, int, Mapping[str, Any]]] = []
    for record in records:
        if not record["counterexample"]:
            continue
        pixels = dataset.images[record["sample"]].reshape(-1)
        steps = coding.latency(pixels, network.num_steps, dataset.max_value).copy()
        for neuron, _, step in record["counterexample"]:
            steps[neuron] = step
        moved = replay.prediction(replay.spike_steps(network, steps)[-1])
        is_tie = moved == record["prediction"]
        ranked.append((is_tie, seen[record["label"]], len(ranked), record))
        seen[record["label"]] += not is_tie
    return [record for *_, record in sorted(ranked, key=lambda item: item[:3])]
