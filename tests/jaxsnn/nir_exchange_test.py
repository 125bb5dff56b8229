import itertools

import numpy as np
import pytest

from jaxsnn.sat import replay
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork

nir = pytest.importorskip("nir", reason="needs the extra `nir`")
from jaxsnn import nir_exchange  # noqa: E402

RNG = np.random.default_rng(0)
NETWORK = IntegerNetwork(
    (
        Dense(RNG.integers(-9, 10, (4, 5)), RNG.integers(0, 9, 4)),
        Dense(RNG.integers(-9, 10, (3, 4)), RNG.integers(0, 9, 3)),
    ),
    num_steps=6,
    scale=16.0,
)


def graph_of(**replaced):
    graph = nir_exchange.to_graph(NETWORK)
    return nir.NIRGraph(
        nodes=graph.nodes | replaced, edges=graph.edges, metadata=graph.metadata
    )


def test_a_file_round_trip_is_exact(tmp_path):
    path = tmp_path / "network.nir"
    nir_exchange.save(path, NETWORK)
    assert [p.name for p in tmp_path.iterdir()] == ["network.nir"]
    read = nir_exchange.load(path)
    assert (read.num_steps, read.scale) == (6, 16.0)
    for layer, expected in zip(read.layers, NETWORK.layers, strict=True):
        assert np.array_equal(layer.weights, expected.weights)
        assert np.array_equal(layer.thresholds, expected.thresholds)


def test_a_convolution_becomes_its_linear_map():
    convolution = IntegerNetwork(
        (
            Conv2D(
                RNG.integers(-3, 4, (2, 2, 1, 2)), np.array([1, 2]), (3, 4, 1), (1, 2)
            ),
            Dense(RNG.integers(-3, 4, (2, 8)), np.array([0, 1])),
        ),
        num_steps=5,
    )
    read = nir_exchange.from_graph(nir_exchange.to_graph(convolution))
    for inputs in itertools.islice(
        itertools.product(range(5), repeat=12), 0, 10**6, 9973
    ):
        levels = replay.spike_steps(convolution, np.array(inputs))
        assert np.array_equal(levels[-1], replay.spike_steps(read, inputs)[-1])


def test_delays_of_inputs_and_neurons_round_trip(tmp_path):
    delays = RNG.integers(0, 3, 5)[None, :] + RNG.integers(0, 3, 4)[:, None]
    first, second = NETWORK.layers
    delayed = IntegerNetwork(
        (
            Dense(first.weights, first.thresholds, delays=delays),
            Dense(second.weights, second.thresholds, delays=np.full((3, 4), 2)),
        ),
        num_steps=9,
    )
    path = tmp_path / "network.nir"
    nir_exchange.save(path, delayed)
    for layer, expected in zip(
        nir_exchange.load(path).layers, delayed.layers, strict=True
    ):
        for array, other in zip(layer.synapses(), expected.synapses(), strict=True):
            np.testing.assert_array_equal(array, other)


def test_delays_and_responses_without_a_node_are_refused():
    weights, thresholds = np.ones((2, 2), int), np.ones(2, int)
    for layer, message in (
        (Dense(weights, thresholds, delays=np.eye(2, dtype=int)), "layer 0.*sums of"),
        (Dense(weights, thresholds, response=(2, 1, 0)), r"layer 0.*\(2, 1, 0\)"),
        (
            Conv2D(
                np.ones((2, 1, 1, 1), int),
                np.ones(1, int),
                (3, 1, 1),
                delays=np.array([1, 0]).reshape(2, 1, 1, 1),
            ),
            "layer 0.*sums of",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            nir_exchange.to_graph(IntegerNetwork((layer,), 5))


@pytest.mark.peer
@pytest.mark.parametrize("neuron", ["Leaky", "Synaptic"])
def test_graphs_of_snntorch_are_refused_with_the_reason(tmp_path, neuron):
    torch = pytest.importorskip("torch")
    snntorch = pytest.importorskip("snntorch")
    export_nir = pytest.importorskip("snntorch.export_nir")
    # With scalars for all neurons, its exporter writes no valid graph.
    many = {"beta": torch.full((3,), 0.9), "threshold": torch.ones(3)}
    if neuron == "Synaptic":
        many["alpha"] = torch.full((3,), 0.8)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 3, bias=False),
        getattr(snntorch, neuron)(init_hidden=True, **many),
    )
    path = tmp_path / "theirs.nir"
    nir.write(path, export_nir.export_to_nir(module, torch.ones(4)))
    with pytest.raises(ValueError, match="say num_steps"):
        nir_exchange.load(path)
    kind = {"Leaky": "LIF", "Synaptic": "CubaLIF"}[neuron]
    with pytest.raises(ValueError, match=f"node '1': {kind} .*spikes again"):
        nir_exchange.load(path, num_steps=8)


def test_float_weights_are_rounded_as_asked():
    node = nir.Linear(np.full((4, 5), 0.3))
    read = nir_exchange.from_graph(graph_of(weights_0=node), fractional_bits=3)
    assert read.layers[0].weights[0, 0] == round(0.3 * 8)
    assert np.array_equal(read.layers[1].weights, NETWORK.layers[1].weights * 8)


def test_weights_rounded_to_whole_numbers_have_a_scale_of_one():
    graph = nir_exchange.to_graph(NETWORK)
    weights = nir.Linear(graph.nodes["weights_0"].weight + 0.25)
    changed = nir.NIRGraph(
        nodes=graph.nodes | {"weights_0": weights},
        edges=graph.edges,
        metadata=graph.metadata | {"scale": 16.0},
    )
    assert nir_exchange.from_graph(changed, fractional_bits=0).scale == 1.0
    assert nir_exchange.from_graph(changed, fractional_bits=2).scale == 4.0


def test_a_graph_without_convention_needs_the_number_of_steps():
    graph = nir_exchange.to_graph(NETWORK)
    bare = nir.NIRGraph(nodes=graph.nodes, edges=graph.edges, metadata={})
    with pytest.raises(ValueError, match="num_steps"):
        nir_exchange.from_graph(bare)
    assert nir_exchange.from_graph(bare, num_steps=9).num_steps == 9


ONES = np.ones(4)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"neurons_0": nir.IF(ONES, ONES)}, "'neurons_0'.*more than once"),
        ({"neurons_0": nir.IF(2 * ONES, ONES, -np.inf * ONES)}, "resistance"),
        (
            {"neurons_0": nir.LIF(tau=ONES, r=ONES, v_leak=ONES, v_threshold=ONES)},
            "'neurons_0': LIF",
        ),
        ({"weights_0": nir.Affine(np.ones((4, 5)), ONES)}, "'weights_0'.*bias"),
        ({"neurons_0": nir.Linear(np.ones((4, 4)))}, "'neurons_0'.*linear"),
        ({"neurons_0": nir.Delay(ONES / 2)}, "'neurons_0'.*whole steps"),
    ],
)
def test_what_has_no_exact_form_is_refused_by_name(replaced, message):
    with pytest.raises(ValueError, match=message):
        nir_exchange.from_graph(graph_of(**replaced))


def test_pooling_is_refused():
    network = IntegerNetwork(
        (EarliestPool2D((4, 4, 1)), Dense(np.ones((2, 4), int), np.array([0, 1]))), 5
    )
    with pytest.raises(ValueError, match="EarliestPool2D"):
        nir_exchange.to_graph(network)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coding": "rate"}, "'rate'"),
        ({"schema": 99}, "schema 99"),
        ({"delay": 2}, "delay of 2"),
        ({"num_steps": 5.7}, "num_steps=5.7, no whole number"),
        ({"num_steps": None}, "num_steps=None, no whole number"),
        ({"scale": "x"}, "scale='x', no number"),
    ],
)
def test_other_conventions_are_refused(changes, message):
    graph = nir_exchange.to_graph(NETWORK)
    other = nir.NIRGraph(
        nodes=graph.nodes, edges=graph.edges, metadata=graph.metadata | changes
    )
    with pytest.raises(ValueError, match=message):
        nir_exchange.from_graph(other)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300, 2.0**24])
@pytest.mark.parametrize("where", ["weights", "threshold"])
def test_numbers_that_no_exact_network_holds_are_refused_by_node(where, value):
    graph = nir_exchange.to_graph(NETWORK)
    nodes = dict(graph.nodes)
    neurons = nodes["neurons_0"]
    if where == "weights":
        weight = nodes["weights_0"].weight.copy()
        weight[0, 0] = value
        nodes["weights_0"] = nir.Linear(weight)
    else:
        threshold = neurons.v_threshold.copy()
        threshold[0] = value
        nodes["neurons_0"] = nir.IF(neurons.r, threshold, neurons.v_reset)
    changed = nir.NIRGraph(nodes=nodes, edges=graph.edges, metadata=graph.metadata)
    with pytest.raises(ValueError, match=r"node '(weights|neurons)_0': "):
        nir_exchange.from_graph(changed)


def test_branches_are_refused():
    graph = nir_exchange.to_graph(NETWORK)
    edges = [*graph.edges, ("neurons_0", "output")]
    branched = nir.NIRGraph(
        nodes=graph.nodes, edges=edges, metadata=graph.metadata, type_check=False
    )
    with pytest.raises(ValueError, match=r"'neurons_0'.*branches"):
        nir_exchange.from_graph(branched)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.nir: no such file"):
        nir_exchange.load(tmp_path / "absent.nir")
    path = tmp_path / "text.nir"
    path.write_text("not HDF5")
    with pytest.raises(ValueError, match=r"text\.nir: not a readable"):
        nir_exchange.load(path)
