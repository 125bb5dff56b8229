"""Pictures of spike times, potentials, weights and search spaces.

Each function returns a matplotlib figure that belongs to no window; save it with
`figure.savefig`. Needs matplotlib (extra `experiments`).
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxsnn import search_space
from jaxsnn.sat import replay
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork

_EARLY_IS_DARK = "viridis"

# Every crossing known lies far below.
_MOST_STEPS = 16


def raster(network: IntegerNetwork, inputs: np.ndarray) -> Figure:
    """Draws when every neuron of every level spikes for one input.

    Args:
      network: the network.
      inputs: `[D]` spike times.

    Returns:
      One panel a level; forced spikes at the last step are hollow.

    >>> from jaxsnn.sat.spec import Dense
    >>> net = IntegerNetwork((Dense(np.ones((2, 3), int), np.array([0, 1])),), 5)
    >>> len(raster(net, np.array([0, 2, 4])).axes)
    2
    """
    levels = replay.spike_steps(network, inputs)
    figure = Figure(figsize=(2.8 * len(levels), 3.2), layout="constrained")
    panels = figure.subplots(1, len(levels), sharex=True, squeeze=False)[0]
    last = network.num_steps - 1
    for depth, (axes, steps) in enumerate(zip(panels, levels, strict=True)):
        neurons = np.arange(len(steps))
        forced = steps == last
        size = max(2.0, min(30.0, 1500.0 / len(steps)))
        axes.scatter(steps[~forced], neurons[~forced], s=size, color="C0")
        axes.scatter(
            steps[forced], neurons[forced], s=size, facecolors="none", edgecolors="0.7"
        )
        axes.set_xlim(-0.5, last + 0.5)
        axes.set_xlabel("step")
        axes.set_title(_level_name(depth, len(levels)), fontsize=10)
    panels[0].set_ylabel("neuron")
    winner = replay.prediction(levels[-1])
    panels[-1].set_yticks(np.arange(len(levels[-1])))
    panels[-1].axhline(winner, color="C3", lw=0.8, zorder=0)
    return figure


def potential_traces(
    network: IntegerNetwork, inputs: np.ndarray, depth: int, neurons: Sequence[int]
) -> Figure:
    """Draws membrane potentials of chosen neurons over time, with their thresholds.

    Args:
      network: the network.
      inputs: `[D]` spike times.
      depth: index of the layer, 0 for the first above the inputs, which a raster calls
        layer 1.
      neurons: indices within the layer.

    Returns:
      One line a neuron, up to the last step before forced spikes arrive; a dot where
      its potential first exceeds the threshold, if that is in time for a spike.

    Raises:
      ValueError: a layer or neuron that does not exist, or a layer without potentials.

    >>> from jaxsnn.sat.spec import Dense
    >>> net = IntegerNetwork((Dense(np.ones((2, 3), int), np.array([0, 1])),), 5)
    >>> figure = potential_traces(net, np.array([0, 2, 4]), depth=0, neurons=[0, 1])
    """
    if not 0 <= depth < len(network.layers):
        raise ValueError(f"{depth=} must lie in 0 .. {len(network.layers) - 1}")
    layer = network.layers[depth]
    if isinstance(layer, EarliestPool2D):
        raise ValueError(f"{depth=} is a pooling layer, which has no potentials")
    for neuron in neurons:
        if not 0 <= neuron < layer.num_outputs:
            raise ValueError(f"{neuron=} must lie in 0 .. {layer.num_outputs - 1}")
    levels = replay.spike_steps(network, inputs)
    voltages = replay.potentials(layer, levels[depth], network.num_steps)[:, :-1]
    thresholds = layer.synapses().thresholds
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.arange(network.num_steps)
    for color, neuron in enumerate(neurons):
        shade, trace = f"C{color % 10}", voltages[neuron]
        axes.stairs(trace, edges, baseline=None, color=shade, label=f"neuron {neuron}")
        axes.axhline(thresholds[neuron], color=shade, lw=0.8, ls="--")
        # A crossing in the last of these steps spikes when silence does.
        crossed = np.flatnonzero(trace[:-1] > thresholds[neuron])[:1]
        axes.plot(crossed + 0.5, trace[crossed], "o", color=shade)
    axes.set_title(_level_name(depth + 1, len(levels)), fontsize=10)
    axes.set_xlabel("step (dashed: threshold; dot: crossed, spikes a step later)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("potential")
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def spike_time_images(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    num_steps: int,
) -> Figure:
    """Draws spike times as images side by side, such as an input and its change.

    Where an image differs from the first one, the pixel is framed.

    Args:
      images: `[H, W]` spike times each.
      titles: one a picture.
      num_steps: `T`, the end of the colour scale.

    >>> figure = spike_time_images([np.zeros((4, 4))], ["clean"], num_steps=8)
    """
    figure = Figure(figsize=(2.4 * len(images) + 0.6, 2.6), layout="constrained")
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    for axes, image, title in zip(panels, images, titles, strict=True):
        shown = axes.imshow(image, cmap=_EARLY_IS_DARK, vmin=0, vmax=num_steps - 1)
        for row, column in np.argwhere(np.asarray(image) != np.asarray(images[0])):
            corners = np.array([-0.5, 0.5, 0.5, -0.5, -0.5])
            axes.plot(column + corners, row + np.roll(corners, 1), color="C3", lw=1.2)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    figure.colorbar(shown, ax=panels.tolist(), label="spike step", shrink=0.8)
    return figure


def weight_histograms(network: IntegerNetwork) -> Figure:
    """Draws how often each integer weight occurs in every layer of neurons.

    >>> from jaxsnn.sat.spec import Dense
    >>> net = IntegerNetwork((Dense(np.ones((2, 3), int), np.array([0, 1])),), 5)
    >>> figure = weight_histograms(net)
    """
    levels = len(network.layers) + 1
    layers = [
        (_level_name(level, levels), layer.thresholds, _weights(layer))
        for level, layer in enumerate(network.layers, start=1)
        if isinstance(layer, Dense | Conv2D)
    ]
    figure = Figure(figsize=(3.2 * len(layers), 2.8), layout="constrained")
    panels = figure.subplots(1, len(layers), squeeze=False)[0]
    for axes, (name, thresholds, weights) in zip(panels, layers, strict=True):
        width = max(1, int(np.ptp(weights)) // 60)
        edges = np.arange(weights.min(), weights.max() + 2 * width, width)
        axes.hist(weights, bins=edges - 0.5, color="C0")
        axes.set_title(f"{name}, threshold {int(np.median(thresholds))}", fontsize=10)
        axes.set_xlabel("weight")
    panels[0].set_ylabel("weights")
    return figure


def _weights(layer: Dense | Conv2D) -> np.ndarray:
    return (layer.weights if isinstance(layer, Dense) else layer.kernel).ravel()


def perturbation_spaces(num_inputs: int, budget: int, most_steps: int) -> Figure:
    """Draws how the spaces of a rate and a temporal code grow with time.

    Args:
      num_inputs: `n`.
      budget: spikes moved by one step each, or added and removed.
      most_steps: end of the axis.

    >>> figure = perturbation_spaces(num_inputs=784, budget=2, most_steps=20)
    """
    clock = np.arange(2, most_steps + 1)
    rate = [search_space.rate_hamming(num_inputs, int(t), budget) for t in clock]
    temporal = search_space.temporal_l1(num_inputs, budget)
    estimate = np.exp(search_space.log_temporal_estimate(num_inputs, budget))
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(clock, [float(size) for size in rate], label="rate code, exact")
    axes.axhline(float(temporal), color="C1", label="spike times, exact")
    axes.axhline(estimate, color="C1", ls="--", label="spike times, published estimate")
    for size, color in ((temporal, "C1"), (estimate, "0.5")):
        larger = [int(t) for t, count in zip(clock, rate, strict=True) if count > size]
        if larger:
            axes.axvline(larger[0], color=color, lw=0.8, ls=":", zorder=0)
            axes.annotate(
                f"rate larger from T = {larger[0]}",
                (larger[0], float(size)),
                xytext=(6, -11),
                textcoords="offset points",
                fontsize=8,
            )
    axes.set_xlabel("number of steps T")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("inputs within the budget")
    axes.set_title(f"{num_inputs} inputs, budget {budget}", fontsize=10)
    axes.set_ylim(bottom=0.4 * float(temporal))
    axes.legend(fontsize=8, loc="upper left")
    return figure


def perturbation_crossings(num_inputs: int, fractions: Sequence[float]) -> Figure:
    """Draws from how many steps on a rate code has the larger space, by budget.

    Args:
      num_inputs: `n` of the exact counts.
      fractions: budgets as fractions of the `n T` places, each in `(0, 1]`.

    >>> figure = perturbation_crossings(num_inputs=20, fractions=[0.01, 0.1, 1.0])
    """
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    exact = [search_space.crossing(num_inputs, f, _MOST_STEPS) for f in fractions]
    estimate = [search_space.crossing_estimate(f, _MOST_STEPS) for f in fractions]
    axes.plot(
        fractions,
        np.array(estimate, float),
        "s--",
        color="C1",
        label="published estimates",
    )
    label = f"counted exactly, n = {num_inputs}"
    axes.plot(fractions, np.array(exact, float), "o-", color="C0", label=label)
    axes.axhline(np.e**2, color="0.7", lw=0.8, zorder=0)
    axes.text(max(fractions), np.e**2 + 0.1, "$e^2$", color="0.5", fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(1.5, 9.5)
    axes.set_xlabel("budget as a share of all places of the spike trains")
    axes.set_ylabel("number of steps T")
    axes.set_title("From here on the rate code has the larger space", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def _level_name(depth: int, num_levels: int) -> str:
    if depth == 0:
        return "inputs"
    return "outputs" if depth == num_levels - 1 else f"layer {depth}"
