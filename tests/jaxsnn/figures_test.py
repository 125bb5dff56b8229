import numpy as np
import pytest

from jaxsnn import figures
from jaxsnn.sat import replay
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork

RNG = np.random.default_rng(0)
NETWORK = IntegerNetwork(
    (
        Conv2D(RNG.integers(-2, 3, (2, 2, 1, 2)), np.array([1, 2]), (5, 5, 1)),
        EarliestPool2D((4, 4, 2)),
        Dense(RNG.integers(-2, 3, (3, 8)), np.array([0, 1, 1])),
    ),
    num_steps=8,
)
INPUTS = RNG.integers(0, 8, 25)


def test_raster_draws_every_neuron_once():
    figure = figures.raster(NETWORK, INPUTS)
    levels = replay.spike_steps(NETWORK, INPUTS)
    assert len(figure.axes) == len(levels)
    for axes, steps in zip(figure.axes, levels, strict=True):
        drawn = np.concatenate([points.get_offsets() for points in axes.collections])
        expected = np.stack([steps, np.arange(len(steps))], axis=1)
        assert sorted(drawn.tolist()) == sorted(expected.tolist())


def test_potential_traces_draw_the_potentials():
    axes = figures.potential_traces(NETWORK, INPUTS, depth=2, neurons=[0, 2]).axes[0]
    levels = replay.spike_steps(NETWORK, INPUTS)
    voltages = replay.potentials(NETWORK.layers[2], levels[2], 8)
    traces = [patch.get_data().values for patch in axes.patches]
    # Forced spikes, which say nothing, arrive in the last step.
    assert np.array_equal(traces, voltages[[0, 2], :-1])
    assert axes.get_title() == "outputs"


def test_a_crossing_too_late_for_a_spike_is_not_marked():
    network = IntegerNetwork((Dense(np.array([[9, 9]]), np.array([4])),), num_steps=6)
    for step, marked in ((3, 1), (4, 0), (5, 0)):
        inputs = np.array([step, 5])
        axes = figures.potential_traces(network, inputs, 0, [0]).axes[0]
        (dots,) = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(dots.get_xydata()) == marked
        assert (replay.spike_steps(network, inputs)[-1] < 5) == bool(marked)


def test_potential_traces_mark_crossings_also_where_potentials_leak():
    layer = Dense(np.array([[9], [1]]), np.array([40, 40]), response=(2, 9, 1, 0))
    network = IntegerNetwork((layer,), num_steps=7)
    axes = figures.potential_traces(network, np.array([1]), 0, [0, 1]).axes[0]
    # The first is over its threshold in step 2 alone, the second never.
    dots = [
        line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"
    ]
    assert dots == [[[2.5, 81.0]], []]


def test_changed_pixels_are_framed():
    clean = INPUTS.reshape(5, 5)
    changed = clean.copy()
    changed[1, 3] += 1
    changed[4, 0] -= 1
    figure = figures.spike_time_images([clean, changed], ["clean", "changed"], 8)
    frames = [line.get_xydata() for line in figure.axes[1].lines]
    assert not figure.axes[0].lines
    assert [tuple(frame[:-1].mean(axis=0)) for frame in frames] == [(3, 1), (0, 4)]


def test_weight_histograms_count_every_weight_also_zeros():
    figure = figures.weight_histograms(NETWORK)
    arrays = [NETWORK.layers[0].kernel, NETWORK.layers[2].weights]
    for axes, weights in zip(figure.axes, arrays, strict=True):
        counted = {
            patch.get_x() + patch.get_width() / 2: patch.get_height()
            for patch in axes.patches
        }
        assert counted == {w: (weights == w).sum() for w in range(-2, 3)}
    # Numbered as in a raster.
    titles = [axes.get_title().split(",")[0] for axes in figure.axes]
    assert titles == ["layer 1", "outputs"]


def test_perturbation_spaces_is_drawn(tmp_path):
    path = tmp_path / "spaces.png"
    figures.perturbation_spaces(784, 2, 10).savefig(path)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("depth", "neurons", "message"),
    [(3, [0], "depth=3"), (2, [3], "neuron=3"), (1, [0], "pooling")],
)
def test_what_does_not_exist_is_not_drawn(depth, neurons, message):
    with pytest.raises(ValueError, match=message):
        figures.potential_traces(NETWORK, INPUTS, depth, neurons)
