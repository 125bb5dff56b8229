"""Figures of similarity, clusters and what pruning changed.

Each function returns a matplotlib `Figure` that belongs to no window and no global
state, and saves it too if given a path. Needs the extra `experiments`.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxprune.clusters import Clusters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BASE_COLOR = "#9aa5b1"
_PRUNED_COLOR = "#1f6f8b"
_ACCENT_COLOR = "#d1495b"
_UNDEFINED_COLOR = "#d9d9d9"


def _figure(axes: "Axes | None", width: float, height: float) -> "tuple[Figure, Axes]":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib: pip install 'prune-and-prove[experiments]'"
        ) from error
    if axes is not None:
        figure = axes.figure
        assert isinstance(figure, Figure)
        return figure, axes
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: "Figure", path: str | os.PathLike[str] | None) -> "Figure":
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _despine(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def plot_similarity(
    similarity: ArrayLike,
    clusters: Clusters = (),
    kept: Sequence[int] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    axes: "Axes | None" = None,
    title: str = "Similarity of blocks (debiased CKA)",
) -> "Figure":
    """Draws the similarity matrix, its clusters and which blocks stay.

    Args:
        similarity: `[L, L]`; NaN is drawn grey.
        clusters: outlined on the diagonal when of more than one block.
        kept: blocks that stay; the others are named in red and crossed on the
            diagonal. All stay if None.
        path: file to save to, of a type that matplotlib knows.
        axes: axes to draw in, rather than a new figure.
        title: of the axes.

    >>> figure = plot_similarity(np.eye(3), ((0, 1), (2,)), kept=(0, 2))
    >>> figure.axes[0].get_xlabel()
    'block'
    """
    matrix = np.asarray(similarity, np.float64)
    size = len(matrix)
    side = min(9.0, 3.2 + 0.14 * size)
    figure, axes = _figure(axes, side + 0.9, side)
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colors = colormaps["viridis"].with_extremes(bad=_UNDEFINED_COLOR)
    finite = matrix[np.isfinite(matrix)]
    low = min(0.0, float(finite.min())) if finite.size else 0.0
    image = axes.imshow(
        np.ma.masked_invalid(matrix), cmap=colors, vmin=low, vmax=1.0, origin="upper"
    )
    for cluster in clusters:
        if len(cluster) > 1:
            corner = (cluster[0] - 0.5, cluster[0] - 0.5)
            axes.add_patch(
                Rectangle(
                    corner,
                    len(cluster),
                    len(cluster),
                    fill=False,
                    edgecolor=_ACCENT_COLOR,
                    linewidth=2,
                )
            )
    staying = set(range(size)) if kept is None else set(kept)
    removed = [block for block in range(size) if block not in staying]
    if removed:
        axes.plot(
            removed,
            removed,
            linestyle="none",
            marker="x",
            color=_ACCENT_COLOR,
            label="removed",
        )
        axes.legend(loc="upper right", bbox_to_anchor=(1.0, -0.07), frameon=False)
    step = max(1, -(-size // 24))
    ticks = range(0, size, step)
    axes.set_xticks(ticks, [str(block) for block in ticks])
    axes.set_yticks(ticks, [str(block) for block in ticks])
    for axis in (axes.xaxis, axes.yaxis):
        for block, label in zip(ticks, axis.get_ticklabels(), strict=True):
            label.set_color("black" if block in staying else _ACCENT_COLOR)
    axes.set(xlabel="block", ylabel="block", title=title)
    figure.colorbar(image, ax=axes, label="CKA", fraction=0.046, pad=0.03)
    return _save(figure, path)


def _label(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


# Key of `report.json` -> title of the panel.
_MEASURES = {
    "accuracy": "accuracy",
    "num_params": "parameters",
    "flops": "FLOPs an example",
    "latency_ms": "latency (ms)",
}


def plot_before_after(
    base: Mapping[str, Any],
    pruned: Mapping[str, Any],
    *,
    path: str | os.PathLike[str] | None = None,
) -> "Figure":
    """Draws accuracy, parameters, FLOPs and latency of both models side by side.

    Args:
        base: of the unpruned model, with any of the keys `accuracy`, `num_params`,
            `flops` and `latency_ms`; a missing one, or one that is None, is left out.
        pruned: the same of the pruned model.
        path: file to save to.

    Raises:
        ValueError: if the two share no measure.

    >>> figure = plot_before_after({"accuracy": 0.9}, {"accuracy": 0.89})
    >>> len(figure.axes)
    1
    """
    shared = [
        key
        for key in _MEASURES
        if base.get(key) is not None and pruned.get(key) is not None
    ]
    if not shared:
        raise ValueError(f"base and pruned share none of {', '.join(_MEASURES)}")
    figure, first = _figure(None, 2.3 * len(shared) + 0.4, 3.0)
    first.remove()
    for position, key in enumerate(shared):
        axes = figure.add_subplot(1, len(shared), position + 1)
        values = [float(base[key]), float(pruned[key])]
        bars = axes.bar(
            ["base", "pruned"], values, color=[_BASE_COLOR, _PRUNED_COLOR], width=0.65
        )
        axes.bar_label(bars, [_label(value) for value in values], padding=2)
        axes.set_title(_MEASURES[key], fontsize=10)
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        _despine(axes)
        axes.spines["left"].set_visible(False)
    return _save(figure, path)


@dataclasses.dataclass(frozen=True)
class ParetoPoint:
    """One model on a plot of accuracy against cost.

    Attributes:
        name: of the series the point belongs to, such as a pruning rule.
        cost: parameters, FLOPs or latency.
        accuracy: fraction correct.
        low: lower end of its interval, or None.
        high: upper end of its interval, or None.
    """

    name: str
    cost: float
    accuracy: float
    low: float | None = None
    high: float | None = None


def pareto_front(points: Sequence[ParetoPoint]) -> tuple[ParetoPoint, ...]:
    """Returns the points that no other equals at lower cost and at least the accuracy.

    >>> points = [ParetoPoint("a", cost, cost) for cost in (0.2, 0.9)]
    >>> len(pareto_front([*points, ParetoPoint("b", 0.5, 0.1)]))
    2
    """
    front: list[ParetoPoint] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return tuple(front)


def plot_pareto(
    points: Sequence[ParetoPoint],
    *,
    cost_label: str = "parameters",
    path: str | os.PathLike[str] | None = None,
    axes: "Axes | None" = None,
    title: str = "Accuracy against cost",
) -> "Figure":
    """Draws accuracy against cost, a color for each series, and the Pareto front.

    Args:
        points: at least one; intervals are drawn where given.
        cost_label: what the cost is.
        path: file to save to.
        axes: axes to draw in, rather than a new figure.
        title: of the axes.

    Raises:
        ValueError: if there are no points.

    >>> figure = plot_pareto([ParetoPoint("cka", 1e6, 0.9, 0.88, 0.92)])
    >>> figure.axes[0].get_ylabel()
    'accuracy'
    """
    if not points:
        raise ValueError("points is empty: nothing to plot")
    figure, axes = _figure(axes, 5.6, 3.8)
    front = pareto_front(points)
    axes.plot(
        [p.cost for p in front],
        [p.accuracy for p in front],
        color="0.6",
        linestyle="--",
        linewidth=1,
        zorder=1,
        label="Pareto front",
    )
    markers = "osD^vP*X"
    for index, name in enumerate(dict.fromkeys(p.name for p in points)):
        series = sorted((p for p in points if p.name == name), key=lambda p: p.cost)
        spread = [
            [
                max(0.0, p.accuracy - (p.accuracy if p.low is None else p.low))
                for p in series
            ],
            [
                max(0.0, (p.accuracy if p.high is None else p.high) - p.accuracy)
                for p in series
            ],
        ]
        axes.errorbar(
            [p.cost for p in series],
            [p.accuracy for p in series],
            yerr=spread if np.any(spread) else None,
            marker=markers[index % len(markers)],
            markersize=5,
            linestyle="none",
            capsize=2.5,
            elinewidth=1,
            label=name,
        )
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _label(value)))
    axes.grid(alpha=0.25)
    axes.set(xlabel=cost_label, ylabel="accuracy", title=title)
    axes.legend(frameon=False, fontsize=9)
    _despine(axes)
    return _save(figure, path)
