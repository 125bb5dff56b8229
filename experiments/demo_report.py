"""The page that `demo` writes, made from the files of its three runs alone."""

import collections
import io
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from experiments import data, html_report, json_files, results, verify_report
from jaxprune import clusters, report
from jaxsnn import coding, integer
from jaxsnn.sat import replay
from jaxsnn.sat.spec import IntegerNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_PICTURES = 3
_PICTURE_WIDTH = 1600
_MEASURES = (
    ("accuracy", "accuracy"),
    ("blocks", "num_blocks"),
    ("parameters", "num_params"),
    ("FLOPs an example", "flops"),
    ("latency of a batch, ms", "latency_ms"),
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


def write_overview(workdir: pathlib.Path, path: str | os.PathLike[str]) -> None:
    """Writes one picture of both jobs, for a README."""
    pruning = json_files.read_json(workdir / "prune" / "report.json")
    run = results.read_run(workdir / "verify")
    records = [record for _, record in results.merge([run])]
    threshold = pruning["rounds"][0]["threshold"]
    similarity = _similarity_figures(pruning, workdir / "prune", threshold)[0].image
    assert not isinstance(similarity, bytes)
    rows = [
        [similarity, report.plot_before_after(pruning["base"], pruning["pruned"])],
        [
            verify_report.plot_verdicts(records),
            *(figure for figure, _ in _pictures(run, records)[:1]),
        ],
    ]
    images = [_row([_draw(figure) for figure in row]) for row in rows]
    sheet = Image.new("RGB", (_PICTURE_WIDTH, sum(i.height for i in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    buffer = io.BytesIO()
    sheet.save(buffer, format="png", optimize=True)
    json_files.write_atomic(path, buffer.getvalue())


def _draw(figure: "Figure") -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, bbox_inches="tight")
    return Image.open(buffer).convert("RGB")


def _row(images: Sequence[Image.Image]) -> Image.Image:
    """Puts images of one height beside each other, as wide as the picture."""
    margin = 24
    room = _PICTURE_WIDTH - margin * (len(images) + 1)
    height = round(room / sum(image.width / image.height for image in images))
    row = Image.new("RGB", (_PICTURE_WIDTH, height + 2 * margin), "white")
    left = margin
    for image in images:
        width = round(height * image.width / image.height)
        row.paste(
            image.resize((width, height), Image.Resampling.LANCZOS), (left, margin)
        )
        left += width + margin
    return row


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
        [title, base[key], pruned[key], _change(key, base[key], pruned[key])]
        for title, key in _MEASURES
    ]
    return html_report.Section(
        "Pruning",
        [
            f"A residual network of {base['num_blocks']} blocks was trained; "
            f"{removed} of them were found to compute what a neighbour computes "
            f"already (CKA of at least {threshold}) and removed in "
            f"{_rounds(pruning['rounds'])}, each followed by repair and fine-tuning.",
            f"With {certificate['confidence']:.0%} confidence the accuracy lost is at "
            f"most {100 * certificate['accuracy_drop_upper_bound']:.1f} points "
            f"({100 * certificate['accuracy_drop']:.1f} observed, on "
            f"{certificate['num_examples']} digits used for nothing else). "
            f"{_passed(certificate)}",
            html_report.Table(["", "before", "after", "change"], rows),
            html_report.Figure(
                report.plot_before_after(base, pruned),
                alt="Accuracy, size and cost before and after pruning",
            ),
            *_similarity_figures(pruning, directory, threshold),
        ],
    )


def _passed(certificate: Mapping[str, Any]) -> str:
    aim = f"The aim, at most {100 * certificate['tolerance']:g}, is"
    if certificate["passed"]:
        return f"{aim} certified."
    return f"{aim} not certified: these are too few digits for that."


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    accepted = sum(bool(attempt["accepted"]) for attempt in rounds)
    return "one round" if accepted == 1 else f"{accepted} rounds"


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
            "How alike the outputs of any two blocks were before pruning. Frames are "
            "the clusters of the first round; red blocks were removed in one of them."
        )
        figures.append(html_report.Figure(figure, text))
    return figures


def _change(measure: str, before: Any, after: Any) -> str | None:
    if not before or after is None:
        return None
    if measure == "accuracy":
        return f"{100 * (after - before):+.1f} points"
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
    pictures = _pictures(run, records)
    return html_report.Section(
        "Counterexamples",
        [
            "Left the spike steps of a digit, beside them those of an input within the "
            "radius that the network takes for another digit, and which spikes moved "
            "(red earlier, blue later).",
            *(html_report.Figure(figure, text) for figure, text in pictures),
        ],
    )


def _pictures(
    run: results.Run, records: Sequence[Mapping[str, Any]]
) -> "list[tuple[Figure, str]]":
    network = integer.load(str(run.flags["network"]))
    digits = data.load("digits", "test")
    return verify_report.counterexample_pictures(
        network, digits, telling_first(records, network, digits), _NUM_PICTURES
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
