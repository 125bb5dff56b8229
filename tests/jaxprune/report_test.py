"""Figures show what they were given and leave no global state."""

import sys

import numpy as np
import pytest

from jaxprune import report

pytest.importorskip("matplotlib")


def matrix(size):
    index = np.arange(size)
    return np.exp(-np.abs(index[:, None] - index[None]) / size)


@pytest.mark.parametrize("size", [1, 6, 54])
def test_similarity_figure(tmp_path, size):
    similarity = matrix(size)
    similarity[0, 0] = np.nan
    clusters = ((0,), tuple(range(1, size))) if size > 1 else ((0,),)
    kept = (0, 1) if size > 1 else (0,)
    path = tmp_path / "similarity.png"
    figure = report.plot_similarity(similarity, clusters, kept, path=path)
    axes = figure.axes[0]
    assert path.stat().st_size > 0
    assert len(axes.patches) == (size > 1)
    removed = [] if size == 1 else list(range(2, size))
    drawn = list(axes.lines[0].get_xdata()) if axes.lines else []
    assert drawn == removed
    assert len(axes.get_xticks()) <= 24


def test_similarity_in_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    assert report.plot_similarity(np.eye(2), axes=axes) is figure
    assert axes.get_title()


def test_before_after_leaves_out_what_is_missing(tmp_path):
    base = {"accuracy": 0.9, "num_params": 1_000_000, "flops": None, "latency_ms": 3.0}
    pruned = {"accuracy": 0.89, "num_params": 400_000, "flops": 5.0, "num_blocks": 3}
    path = tmp_path / "bars.svg"
    figure = report.plot_before_after(base, pruned, path=path)
    assert [axes.get_title() for axes in figure.axes] == ["accuracy", "parameters"]
    labels = [text.get_text() for text in figure.axes[1].texts]
    assert labels == ["1M", "400k"]
    with pytest.raises(ValueError, match="share none"):
        report.plot_before_after({}, base)


def test_pareto_front():
    costs_and_accuracies = [(1, 0.5), (2, 0.4), (3, 0.7), (3, 0.6), (4, 0.7), (5, 0.8)]
    points = [report.ParetoPoint("p", c, a) for c, a in costs_and_accuracies]
    front = [(p.cost, p.accuracy) for p in report.pareto_front(points)]
    assert front == [(1, 0.5), (3, 0.7), (5, 0.8)]


def test_pareto_figure(tmp_path):
    points = [
        report.ParetoPoint("cka", 1e6, 0.9, 0.88, 0.92),
        report.ParetoPoint("cka", 5e5, 0.8),
        report.ParetoPoint("random", 6e5, 0.7, 0.6, 0.75),
    ]
    path = tmp_path / "pareto.png"
    figure = report.plot_pareto(points, cost_label="parameters", path=path)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["Pareto front", "cka", "random"]
    assert path.stat().st_size > 0
    with pytest.raises(ValueError, match="nothing to plot"):
        report.plot_pareto([])


def test_no_pyplot():
    code = (
        "import sys, numpy, jaxprune.report as r; assert 'matplotlib' not in "
        "sys.modules; r.plot_similarity(numpy.eye(2)); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"prune-and-prove\[experiments\]"):
        report.plot_similarity(np.eye(2))
