import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, run_state, train_job, train_snn
from jaxsnn import integer, network
from jaxsnn.sat import replay
from jaxsnn.sat.response import STEP, leak, ramp


def job(**changes):
    settings = {
        "convolution": None,
        "hidden": (6,),
        "num_steps": 8,
        "method": "surrogate",
        "weight_bits": 4,
        "train_radius": 0,
        "epochs": 4,
        "batch_size": 40,
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "jitter": 1,
        "shift": 0,
        "mirror": False,
        "brightness": 0.0,
        "margin": 1.0,
        "temperature": 0.5,
        "gradient_samples": 16,
        "seed": 3,
    }
    return train_job.Job(
        train=data.load("iris", "train"),
        test=data.load("iris", "test"),
        **(settings | changes),
    )


def flags(workdir, **changes):
    values = {"dataset": "iris", "hidden": "6", "num_steps": 8, "epochs": 2}
    return command(values | {"batch_size": 40, "workdir": workdir} | changes)


def command(values):
    return ["train_snn", *(f"--{name}={value}" for name, value in values.items())]


def exit_code(arguments):
    with pytest.raises(SystemExit) as left:
        run_state.run(train_snn.main, train_snn.FLAGS, arguments)
    return left.value.code or 0


def test_the_binary_writes_what_it_measured(tmp_path, capsys):
    assert exit_code(flags(tmp_path / "out", weight_bits=3)) == 0
    trained = integer.load(tmp_path / "out" / "network.npz")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert max(np.abs(layer.weights).max() for layer in trained.layers) <= 3
    test = data.load("iris", "test")
    steps = train_job.spike_steps(test, 8)
    predictions = [
        replay.prediction(replay.spike_steps(trained, one)[-1]) for one in steps
    ]
    assert metrics["test_accuracy"] == pytest.approx(
        np.mean(np.array(predictions) == test.labels)
    )
    assert metrics["seconds"] > 0
    assert len(metrics["epochs"]) == 2
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["surrogate", "s4nn"])
def test_devices_share_the_batches(tmp_path, method):
    # Few updates, so that rounding has no time to grow.
    changes = {"method": method, "epochs": 1, "jitter": 0}
    losses = []
    for devices in (1, 2):
        workdir = tmp_path / str(devices)
        assert exit_code(flags(workdir, devices=devices, **changes)) == 0
        metrics = json.loads((workdir / "metrics.json").read_text())
        losses.append(metrics["epochs"][0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_an_interrupted_run_resumes_to_the_same_network(tmp_path, monkeypatch):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for workdir in (whole, halves):
        run_state.start_run(workdir, {}, outputs=train_job.OUTPUTS)
    train_job.run_job(job(), whole)

    advance = train_job.progress.Progress.advance

    def interrupt(bar, steps=1, **facts):
        advance(bar, steps, **facts)
        if bar._done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train_job.progress.Progress, "advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_job.run_job(job(), halves)
    assert not (halves / "metrics.json").exists()
    metrics = train_job.run_job(job(), halves)
    assert len(metrics["epochs"]) == 4
    with np.load(whole / "network.npz") as one, np.load(halves / "network.npz") as two:
        assert set(one.files) == set(two.files)
        for name in one.files:
            assert np.array_equal(one[name], two[name])
    # Finished: nothing is repeated.
    assert train_job.run_job(job(), halves) == metrics


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "conv", "features": 2, "window": 5, "hidden": "0"},
        {"method": "s4nn", "weight_bits": 4},
        {"method": "certified", "train_radius": 1},
        {"response": "step,ramp", "clock": 0.9},
    ],
)
def test_every_way_of_training_leaves_a_network(tmp_path, changes):
    settings = {"dataset": "digits", "epochs": 1, "batch_size": 200} | changes
    assert exit_code(flags(tmp_path / "out", **settings)) == 0
    trained = integer.load(tmp_path / "out" / "network.npz")
    assert trained.num_inputs == 64
    assert trained.num_classes == 10


def made(values):
    """Returns the job that flags describe."""
    arguments = command({"hidden": 6, "workdir": "x"} | values)
    jobs = []
    with pytest.raises(SystemExit):
        run_state.run(
            lambda argv: jobs.append(train_snn.make_job()), train_snn.FLAGS, arguments
        )
    (job,) = jobs
    return job


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"method": "s4nn"}, (20, 0.005, 0.0, 0, 3.0, 8.0)),
        ({"method": "surrogate"}, (120, 0.03, 0.01, 2, 16.0, 8.0)),
        ({"method": "surrogate", "num_steps": 256}, (120, 0.03, 0.01, 4, 32.0, 16.0)),
        (
            {"jitter": 0, "weight_decay": 0, "batch_size": 9, "temperature": 2},
            (9, 0.03, 0.0, 0, 16.0, 2.0),
        ),
    ],
)
def test_each_rule_has_defaults_of_its_own(given, expected):
    job = made({"dataset": "iris", "num_steps": 128} | given)
    names = [
        "batch_size",
        "learning_rate",
        "weight_decay",
        "jitter",
        "margin",
        "temperature",
    ]
    assert tuple(getattr(job, name) for name in names) == expected


@pytest.mark.parametrize(
    ("dataset", "method", "expected"),
    [
        ("mnist", "surrogate", 1),
        ("mnist", "certified", 0),
        ("mnist", "s4nn", 0),
        ("fashion_mnist", "surrogate", 0),
    ],
)
def test_only_surrogate_gradients_shift_digits(monkeypatch, dataset, method, expected):
    load = data.load
    monkeypatch.setattr(data, "check_dataset", lambda *args: None)
    monkeypatch.setattr(data, "load", lambda name, split, _: load("digits", split))
    radius = int(method == "certified")
    job = made({"dataset": dataset, "method": method, "train_radius": radius})
    assert job.shift == expected


def test_responses_and_delays_are_written_and_measured(tmp_path):
    settings = {"response": "leak", "time_constant": 2.0, "max_delay": 2}
    assert exit_code(flags(tmp_path / "out", **settings)) == 0
    trained = integer.load(tmp_path / "out" / "network.npz")
    assert all(layer.response == leak(2.0) for layer in trained.layers)
    assert all(np.ptp(layer.delays) == 2 for layer in trained.layers)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    test = data.load("iris", "test")
    predictions = [
        replay.prediction(replay.spike_steps(trained, one)[-1])
        for one in train_job.spike_steps(test, 8)
    ]
    assert metrics["test_accuracy"] == pytest.approx(
        np.mean(np.array(predictions) == test.labels)
    )


def test_the_s4nn_paper_lets_potentials_decide_in_silence():
    config = network.NetworkConfig((3,), (network.Dense(2),), num_steps=6)
    weights = jnp.array([[1.0, 2.0, 3.0], [2.0, 2.0, 0.0]])
    neurons = [network.Neurons(weights, jnp.float32(2.5))]
    # Silent, as what arrives in steps 4 and 5 shows too late; the second one is ahead.
    silent = np.array([[0, 4, 5], [3, 5, 5]])
    # A tie, and the first output alone.
    spiking = np.array([[1, 1, 5], [5, 5, 1]])
    for steps, labels, expected in (
        (silent, [1, 0], {"as_s4nn": 0.5, "among_first": 0.0, "silent": 1.0}),
        (spiking, [1, 1], {"as_s4nn": 0.5, "accuracy": 0.0, "tied": 0.5}),
        (spiking, [0, 0], {"as_s4nn": 1.0, "accuracy": 1.0, "silent": 0.0}),
    ):
        found = train_job.measure(config, neurons, steps, np.array(labels))
        assert found | expected == found


def test_each_layer_may_have_a_response_of_its_own(tmp_path):
    settings = {"response": "step,ramp", "time_constant": 3, "brightness": 0.2}
    assert exit_code(flags(tmp_path / "out", gradient_samples=3, **settings)) == 0
    trained = integer.load(tmp_path / "out" / "network.npz")
    assert [layer.response for layer in trained.layers] == [STEP, ramp(3)]


def test_brightness_changes_what_is_learned_from(tmp_path):
    losses = []
    for brightness in (0.0, 0.5):
        workdir = tmp_path / str(brightness)
        workdir.mkdir()
        (workdir / "run.json").write_text("{}")
        metrics = train_job.run_job(job(brightness=brightness, jitter=0), workdir)
        losses.append([epoch["loss"] for epoch in metrics["epochs"]])
    assert losses[0] != losses[1]


def test_a_run_that_diverges_says_so_after_the_epoch(tmp_path, capsys):
    assert exit_code(flags(tmp_path / "out", learning_rate=1e30)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "--learning_rate=1e+30: is too large: weights are not finite after" in line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": "letters"}, "--dataset=letters"),
        ({"dataset": "mnist"}, "--data_dir"),
        ({"dataset": "mnist", "data_dir": "/nowhere"}, "--data_dir=/nowhere"),
        ({"hidden": "-4"}, "--hidden=-4"),
        ({"hidden": "8,many"}, "--hidden=many"),
        ({"hidden": ""}, "--hidden="),
        ({"hidden": 10**11}, "must be 1 to 1048576 neurons"),
        ({"seed": 2**32}, "--seed=4294967296"),
        ({"jitter": 8}, "--jitter=8: must be below --num_steps=8"),
        ({"method": "certified", "train_radius": 8}, "--train_radius=8"),
        ({"method": "s4nn", "margin": 2.5}, "--margin=2.5: must be whole"),
        ({"brightness": "nan"}, "--brightness=nan: must be a finite number"),
        ({"weight_decay": "inf"}, "--weight_decay=inf: must be a finite number"),
        ({"num_steps": 3}, "--num_steps=3"),
        ({"num_steps": 40000}, "must be at most 32768"),
        ({"weight_bits": 1}, "--weight_bits=1"),
        ({"weight_bits": 9}, "--weight_bits=9"),
        ({"epochs": 0}, "--epochs=0"),
        ({"learning_rate": -1.0}, "--learning_rate=-1.0"),
        ({"method": "s4nn", "weight_decay": 0.1}, "--weight_decay=0.1"),
        ({"dataset": "digits", "shift": 8}, "--shift=8"),
        ({"learning_rate": "nan"}, "--learning_rate=nan"),
        ({"batch_size": 500}, "--batch_size=500"),
        ({"devices": 3}, "--devices=3"),
        ({"temperature": 0}, "--temperature=0"),
        ({"method": "s4nn", "temperature": 2}, "--temperature=2"),
        ({"arch": "conv"}, "--arch=conv"),
        ({"arch": "conv", "dataset": "digits", "window": 8}, "--window=8"),
        ({"arch": "conv", "dataset": "digits", "method": "s4nn"}, "--arch=conv"),
        ({"method": "magic"}, "--method=magic"),
        ({"method": "certified"}, "--train_radius=0"),
        ({"train_radius": 1}, "--train_radius=1"),
        ({"response": "square"}, "--response=square"),
        ({"response": "step,leak,step"}, "--response=step,leak,step"),
        ({"brightness": -0.1}, "--brightness=-0.1"),
        ({"mirror": True}, "--mirror=true"),
        ({"response": "leak", "time_constant": -2.0}, "--time_constant=-2.0"),
        ({"response": "alpha", "time_constant": "inf"}, "--time_constant=inf"),
        ({"response": "ramp", "time_constant": 1.5}, "--time_constant=1.5"),
        ({"response": "ramp", "time_constant": 300}, "--time_constant=300"),
        ({"time_constant": 2.0}, "--time_constant=2.0"),
        ({"max_delay": 5}, "--max_delay=5"),
        ({"max_delay": -1}, "--max_delay=-1"),
        ({"response": "leak", "method": "s4nn"}, "--response=leak"),
        ({"clock": 0.9}, "--clock=0.9: needs another --response"),
        ({"clock": 1.0, "response": "step,ramp"}, "--clock=1.0: must be below 1"),
        ({"clock": 0.9, "response": "ramp", "hidden": "0"}, "--clock=0.9"),
        ({"clock": 0.9, "response": "ramp", "weight_bits": 4}, "--clock=0.9"),
        ({"max_delay": 1, "method": "s4nn"}, "--max_delay=1"),
    ],
)
def test_wrong_flags_exit_2_with_one_line_and_write_nothing(
    tmp_path, capsys, changes, named
):
    assert exit_code(flags(tmp_path / "out", **changes)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "out").exists()
