"""The page that `verify_snn` writes: verdicts, time, and counterexamples as images."""

import collections
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import data, html_report, results
from jaxsnn.sat.spec import IntegerNetwork

if TYPE_CHECKING:
    import matplotlib.figure

    from experiments.verify_job import Job

_COLOURS = {
    "robust": "#2a7f62",
    "equivalent": "#2a7f62",
    "falsified": "#c8553d",
    "different": "#c8553d",
    "unknown": "#b8b8b8",
    "timeout": "#e0a526",
    "error": "#5b2a86",
}
_MAX_PICTURES = 6


def write(path: str | os.PathLike[str], job: "Job", run: results.Run) -> None:
    """Writes the report of one workdir."""
    summary = results.summarize([run])
    records = [record for _, record in results.merge([run])]
    figures = [html_report.Figure(plot_verdicts(records), "Verdicts by radius")]
    if job.other is None:
        words = (
            "Robust: no admissible input changes the decision (proved). Falsified: an "
            "admissible input that does"
        )
        if job.asked.requirement != "robust":
            words = (
                f"Robust: {job.asked.requirement} holds of every admissible input "
                "(proved). Falsified: an admissible input that breaks it"
            )
        figures.append(
            html_report.Figure(
                plot_verified_accuracy(summary),
                "Verified accuracy: right and proved robust",
            )
        )
    else:
        words = (
            "Equivalent: both networks decide alike on every admissible input "
            "(proved). Different: an admissible input on which they do not"
        )
    figures.append(
        html_report.Figure(plot_seconds(records), "Seconds a query, by stage")
    )
    sections = [
        html_report.Section(
            "Verdicts",
            [
                f"{words} was found and replayed in exact integer arithmetic.",
                html_report.Row(figures),
                html_report.Table(*results.table(summary)),
            ],
        )
    ]
    pictures = counterexample_pictures(
        job.network,
        job.dataset,
        records,
        _MAX_PICTURES,
        job.other,
        plain=job.asked.requirement == "robust",
    )
    if pictures:
        sections.append(
            html_report.Section(
                "Counterexamples",
                [
                    "Spike steps of the original, of the counterexample, and the steps "
                    "moved (red earlier, blue later).",
                    *(html_report.Figure(figure, text) for figure, text in pictures),
                ],
            )
        )
    html_report.write(
        path,
        "Robustness of a spiking network"
        if job.other is None
        else "Equivalence of two spiking networks",
        sections,
        subtitle=", ".join(
            [
                str(run.flags.get("network")),
                *([] if job.other is None else [str(run.flags.get("other"))]),
                f"{job.dataset.name} {job.dataset.split}",
                f"T = {job.network.num_steps}",
                job.asked.norm,
                *results.beside_norm(run.flags),
            ]
        ),
    )


def _axes(
    width: float = 4.2, height: float = 3.0
) -> tuple["matplotlib.figure.Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot_verdicts(
    records: Sequence[Mapping[str, Any]],
) -> "matplotlib.figure.Figure":
    """Stacked bars: number of samples by verdict, one bar a radius."""
    counts: dict[Any, collections.Counter] = collections.defaultdict(
        collections.Counter
    )
    for record in records:
        counts[record["radius"]][record["verdict"]] += 1
    radii = sorted(counts)
    figure, axes = _axes()
    bottom = np.zeros(len(radii))
    for verdict, colour in _COLOURS.items():
        heights = np.array([counts[radius][verdict] for radius in radii])
        if heights.any():
            bars = axes.bar(
                [str(r) for r in radii],
                heights,
                0.6,
                bottom,
                color=colour,
                label=verdict,
            )
            axes.bar_label(bars, [h or "" for h in heights], label_type="center")
            bottom += heights
    axes.set(xlabel="radius", ylabel="samples")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if radii:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_verified_accuracy(
    summary: Sequence[Mapping[str, Any]],
) -> "matplotlib.figure.Figure":
    """Verified accuracy and accuracy over the radius, and what is open between."""
    figure, axes = _axes()
    radii = [row["radius"] for row in summary]
    verified = [100 * row["verified_accuracy"] for row in summary]
    unbroken = [100 * row["unbroken_accuracy"] for row in summary]
    if verified != unbroken:
        axes.fill_between(
            radii,
            verified,
            unbroken,
            color=_COLOURS["timeout"],
            alpha=0.3,
            linewidth=0,
            label="not decided",
        )
    # Broad, so that it is seen where all that is right is verified.
    axes.plot(
        radii,
        [100 * row["accuracy"] for row in summary],
        color="#d0d0d0",
        linewidth=6,
        label="clean",
    )
    axes.plot(radii, verified, "o-", color=_COLOURS["robust"], label="verified")
    axes.set(xlabel="radius", ylabel="accuracy (%)", ylim=(0, 103))
    if all(isinstance(radius, int) for radius in radii):
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return figure


def plot_seconds(records: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """Seconds of each query on a logarithmic axis, by the stage that decided.

    A verdict that a narrower ball has settled took no time, and is counted as such.
    """
    figure, axes = _axes()
    by_stage: dict[str, list[float]] = {}
    for record in records:
        stage = record["stage"] or record["verdict"]
        if record["backend"]:
            stage = f"{stage}: {record['backend']}"
        if record["seconds"] == 0:
            stage = "narrower ball"
        by_stage.setdefault(stage, []).append(record["seconds"])
    for row, (_, spent) in enumerate(sorted(by_stage.items())):
        seconds = np.array(spent)
        spread = np.linspace(-0.25, 0.25, len(seconds)) if len(seconds) > 1 else [0.0]
        heights = row + np.asarray(spread)
        shown = seconds > 0
        axes.plot(seconds[shown], heights[shown], ".", alpha=0.6, color="#3b6ea5")
    axes.set_yticks(
        range(len(by_stage)),
        [f"{stage} ({len(by_stage[stage])})" for stage in sorted(by_stage)],
    )
    axes.set_ylim(-0.5, max(len(by_stage), 1) - 0.5)
    axes.set(xscale="log", xlabel="seconds")
    return figure


def counterexample_pictures(
    network: IntegerNetwork,
    dataset: data.Dataset,
    records: Sequence[Mapping[str, Any]],
    limit: int,
    other: IntegerNetwork | None = None,
    plain: bool = True,
) -> list[tuple["matplotlib.figure.Figure", str]]:
    """Original and perturbed spike steps of a few changed inputs, as images.

    One picture a sample, the smallest radii first; nothing for inputs that are no grey
    images.

    Args:
        network: of the records.
        dataset: of the records.
        records: result lines.
        limit: the most pictures.
        other: the network that it is compared with, if it is.
        plain: whether robustness was asked for.
    """
    from matplotlib.figure import Figure

    from jaxsnn import coding
    from jaxsnn.sat import replay

    assert dataset.images is not None
    assert dataset.max_value is not None
    if dataset.images.ndim != 3:
        return []
    pictures: list[tuple[Figure, str]] = []
    shown: set[int] = set()
    num_steps = network.num_steps
    for record in sorted(records, key=lambda record: record["radius"]):
        if len(pictures) == limit:
            break
        if not record["counterexample"] or record["sample"] in shown:
            continue
        shown.add(record["sample"])
        pixels = dataset.images[record["sample"]].reshape(-1)
        clean = coding.latency(pixels, num_steps, dataset.max_value)
        moved = clean.copy()
        for neuron, _, step in record["counterexample"]:
            moved[neuron] = step
        decisions = [
            replay.prediction(replay.spike_steps(network, steps)[-1])
            for steps in (clean, moved)
        ]
        found = f"counterexample: {decisions[1]}"
        if other is not None:
            theirs = replay.prediction(replay.spike_steps(other, moved)[-1])
            found = f"{decisions[1]}, the other {theirs}"
        elif plain and decisions[0] == decisions[1]:
            found = "tied"
        shape = dataset.images.shape[1:]
        figure = Figure(figsize=(7.5, 2.4), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, steps, title in (
            (panels[0], clean, f"original: {decisions[0]}"),
            (panels[1], moved, found),
        ):
            image = axes.imshow(
                steps.reshape(shape), cmap="gray_r", vmin=0, vmax=num_steps - 1
            )
            axes.set_title(title)
        figure.colorbar(image, ax=panels[:2].tolist(), label="spike step")
        shift = (moved - clean).reshape(shape)
        reach = max(1, int(np.abs(shift).max()))
        panels[2].imshow(shift, cmap="RdBu", vmin=-reach, vmax=reach)
        panels[2].set_title(f"inputs moved: {(shift != 0).sum()}")
        for axes in panels:
            axes.set_axis_off()
        text = (
            f"sample {record['sample']}, radius {record['radius']}, found by "
            f"{record['backend'] or record['stage']}"
        )
        pictures.append((figure, text))
    return pictures
