"""The benchmark of bounds and attack, on a network made for it."""

import numpy as np
import pytest

from experiments import run_state
from experiments.benchmarks import batched_stages
from jaxsnn.sat import replay
from jaxsnn.sat.query import Stage, l1_query
from tests.jaxsnn import small_networks


def test_a_missing_data_dir_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run_state.run(
            batched_stages.main,
            batched_stages.FLAGS,
            ["batched_stages", f"--workdir={tmp_path}"],
        )
    assert exit_info.value.code == 2
    assert "--data_dir" in capsys.readouterr().err


def test_bounds_are_measured_without_their_compilation():
    rng = np.random.default_rng(1)
    network = small_networks.drawn(rng, (4, 4, 3), 7)
    queries = []
    for steps in rng.integers(0, 5, (6, 4)):
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        queries.append(l1_query(steps, label, 1, 7))
    seconds, decided = batched_stages.measure(network, queries, Stage.BOUNDS, 0)
    assert seconds > 0
    assert decided == len(queries)  # a split of so small a ball is complete
    assert batched_stages.measure_peer(network, queries) > 0
