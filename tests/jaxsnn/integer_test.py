"""Files and rounding at the trust boundary."""

import json

import numpy as np
import pytest

from jaxsnn import integer
from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork


def conv_network():
    rng = np.random.default_rng(0)
    conv = Conv2D(
        rng.integers(-3, 4, (2, 2, 1, 3)),
        np.array([1, 2, 3]),
        (4, 4, 1),
        padding=((1, 0), (0, 1)),
    )
    pool = EarliestPool2D(conv.output_shape)
    dense = Dense(rng.integers(-3, 4, (2, pool.num_outputs)), np.array([1, -1]))
    return IntegerNetwork((conv, pool, dense), num_steps=9, scale=4.0)


def test_own_files_round_trip_exactly(tmp_path):
    network = conv_network()
    path = tmp_path / "network.npz"
    integer.save(path, network)
    restored = integer.load(path)
    assert (restored.num_steps, restored.scale) == (9, 4.0)
    for before, after in zip(network.layers, restored.layers, strict=True):
        assert type(before) is type(after)
        for a, b in zip(before.synapses(), after.synapses(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["network.npz"]
    # Dense weights stand under the published names, as [out, in].
    with np.load(path) as archive:
        assert archive["weights_2"].shape == (2, network.layers[2].num_inputs)


def test_responses_and_delays_round_trip_as_the_next_schema(tmp_path):
    conv, pool, dense = conv_network().layers
    conv = Conv2D(
        conv.kernel,
        conv.thresholds,
        conv.input_shape,
        padding=conv.padding,
        response=(3, 1, 0),
        delays=np.arange(12).reshape(2, 2, 1, 3) % 3,
    )
    dense = Dense(dense.weights, dense.thresholds, response=(1, 2))
    path = tmp_path / "network.npz"
    integer.save(path, IntegerNetwork((conv, pool, dense), 9))
    restored = integer.load(path)
    for before, after in zip((conv, pool, dense), restored.layers, strict=True):
        for a, b in zip(before.synapses(), after.synapses(), strict=True):
            np.testing.assert_array_equal(a, b)
    for network, schema in ((restored, 2), (conv_network(), 1)):
        integer.save(path, network)
        with np.load(path) as archive:
            assert json.loads(str(archive["spec"]))["schema"] == schema


def test_s4nn_files_are_rounded_at_threshold_100(tmp_path):
    path = tmp_path / "s4nn.npz"
    np.savez(path, weights_0=np.array([[1.53, -0.49]]), weights_1=np.array([[2.0]]))
    network = integer.load(path, num_steps=8, fractional_bits=4)
    assert network.layers[0].weights.tolist() == [[24, -8]]
    assert network.layers[1].thresholds.tolist() == [1600]
    with pytest.raises(ValueError, match="does not store num_steps"):
        integer.load(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weights_0": np.array([[np.nan]])}, "weights_0.*not finite"),
        ({"weights_1": np.ones((1, 1))}, "a network has weights_0"),
        ({"weights_0": np.ones(3)}, r"must be numbers as \[out, in\]"),
        (
            {"weights_0": np.ones((2, 3)), "weights_1": np.ones((1, 3))},
            "layer 1 takes 3 inputs",
        ),
        ({"weights_0": np.full((1, 1), 1e9)}, "layer 0: neuron 0"),
        # These would wrap around as 64-bit integers.
        ({"weights_0": np.array([[1.0], [-1e19]])}, "layer 0: neuron 1"),
        ({"weights_0": np.array([[1e300]])}, "layer 0: neuron 0"),
        ({"weights_0": np.ones((0, 3))}, r"weights_0 of shape \(0, 3\) is empty"),
    ],
)
def test_broken_files_name_file_and_fault(tmp_path, arrays, message):
    path = tmp_path / "broken.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        integer.load(path, num_steps=8)
    assert "broken.npz" in str(error.value)


def test_missing_foreign_and_future_files(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        integer.load(tmp_path / "absent.npz", 8)
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    # NumPy's own message tells how to load it as a pickle.
    with pytest.raises(ValueError, match=r"not a readable \.npz of arrays \(no zip"):
        integer.load(text, 8)
    path = tmp_path / "network.npz"
    integer.save(path, conv_network())
    with pytest.raises(ValueError, match="num_steps is 9 there, not 8"):
        integer.load(path, num_steps=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": "{"}, r"broken\.npz: its spec is no JSON"),
        ({"num_steps": "8"}, "num_steps='8', not a positive whole number"),
        ({"schema": 0}, "schema=0, not a positive whole number"),
        ({"schema": True}, "schema=True, not a positive whole number"),
        ({"scale": None}, "scale=None, not a positive number"),
        ({"scale": float("nan")}, "scale=nan, not a positive number"),
        ({"layers": "dense"}, "layers='dense', no list"),
        ({"layers": [3]}, "layer 0: its spec is 3, no object"),
        ({"spec": "[" * 100_000}, "its spec is no JSON"),
        ({"layers": [{}]}, "lacks 'kind', which its spec needs"),
        (
            {"layers": [{"kind": "earliest_pool2d", "input_shape": [4.5, 4, 1]}]},
            r"layer 0: its spec has input_shape=\[4.5, 4, 1\], not 3 whole numbers",
        ),
        (
            {
                "layers": [
                    {
                        "kind": "earliest_pool2d",
                        "input_shape": [4, 4, 1],
                        "window": [2, 2],
                        "strides": [0, 1],
                    }
                ]
            },
            r"window \(2, 2\) with strides \(0, 1\) leaves nothing",
        ),
    ],
)
def test_specs_that_are_none_name_the_fault(tmp_path, change, message):
    spec = {"schema": 1, "num_steps": 8, "scale": 1.0, "layers": [{"kind": "dense"}]}
    text = change["spec"] if "spec" in change else json.dumps(spec | change)
    np.savez(tmp_path / "broken.npz", spec=np.array(text))
    with pytest.raises(ValueError, match=message):
        integer.load(tmp_path / "broken.npz")


@pytest.mark.parametrize("seed", range(150))
def test_damaged_files_are_read_as_they_were_or_refused(tmp_path, seed):
    """Every fault is a ValueError with the file's name; the archive has checksums."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "damaged.npz"
    network = conv_network()
    integer.save(path, network)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), rng.integers(1, 4)):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    try:
        restored = integer.load(path)
    except ValueError as error:
        fault = str(error)
    else:
        fault = ""
        for depth, name in ((0, "kernel"), (2, "weights")):
            np.testing.assert_array_equal(
                getattr(restored.layers[depth], name),
                getattr(network.layers[depth], name),
            )
    assert not fault or "damaged.npz" in fault


@pytest.mark.parametrize("huge", [2**24, 2**55, 2**62, -(2**63), 2**64 - 1])
def test_what_float32_does_not_hold_is_refused_by_neuron(huge):
    """Also where sums of 64-bit integers would wrap around to something small."""
    kind = np.uint64 if huge > 2**63 else np.int64
    row = np.array([[1, 1, 1, 1], [huge] * 4], dtype=kind)
    for weights, thresholds in ((row, [3, 3]), (np.ones((2, 4), int), [3, huge])):
        with pytest.raises(ValueError, match=r"neuron 1: .* is not below 2\^24"):
            Dense(weights, np.array(thresholds, dtype=kind))
        with pytest.raises(ValueError, match=r"neuron 1: .* is not below 2\^24"):
            Conv2D(
                weights.T.reshape(2, 2, 1, 2),
                np.array(thresholds, dtype=kind),
                (3, 3, 1),
            )
    with pytest.raises(ValueError, match=r"sum \|w\| \* 256"):
        Dense(np.array([[2**16]]), np.array([0]), response=(256,))


def test_what_is_no_layer_is_refused():
    with pytest.raises(ValueError, match=r"padding.* must not be negative"):
        Conv2D(
            np.ones((2, 2, 1, 1), int),
            np.array([1]),
            (5, 5, 1),
            padding=((-1, 0), (0, 0)),
        )
    with pytest.raises(ValueError, match="from 0 to 32768; they must be 0 to 32767"):
        Dense(np.ones((1, 2), int), np.array([1]), delays=np.array([[0, 2**15]]))
    for bits in (-1, 53, 5000):
        with pytest.raises(ValueError, match=f"fractional_bits={bits} must be 0 to 52"):
            integer.quantize([np.ones((1, 1))], [np.ones(1)], 4, bits)


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "pickle.npz"
    np.savez(path, weights_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="not a readable"):
        integer.load(path, num_steps=8)


def test_finest_bits_fill_the_exact_range():
    weights, thresholds = [np.full((2, 10), 30.0)], [np.full(2, 100.0)]
    bits = integer.finest_fractional_bits(weights, thresholds, maximum=30)
    integer.quantize(weights, thresholds, 8, bits)
    with pytest.raises(ValueError, match=r"2\^24"):
        integer.quantize(weights, thresholds, 8, bits + 1)
