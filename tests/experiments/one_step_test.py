"""Every single shift of the published inputs, simulated; nothing is left out.

The L1 ball of radius 1 has at most 2 * 784 + 1 inputs. Each differs from the
unperturbed one in one input at one step, so that one column of the potentials changes;
all inputs of a ball are simulated together in this way, which shares nothing with what
is tested.
"""

import pathlib

import numpy as np
import pytest

from experiments import data, published
from jaxsnn import coding, integer
from jaxsnn.sat import backends, replay
from jaxsnn.sat.query import Verdict, l1_query
from jaxsnn.sat.solve import solve
from jaxsnn.sat.spec import Dense, IntegerNetwork

DATA_DIR = pathlib.Path("../shared/data")
NETWORKS = published.networks(DATA_DIR) if (DATA_DIR / "s4nn").is_dir() else []


def single_shifts(network, steps):
    """All inputs at distance one: `[M]` inputs that move and `[M]` their new steps."""
    neurons = np.arange(len(steps))
    earlier, later = steps > 0, steps < network.num_steps - 1
    return (
        np.concatenate([neurons[earlier], neurons[later]]),
        np.concatenate([steps[earlier] - 1, steps[later] + 1]),
    )


def outputs_of_single_shifts(network, steps):
    """Output spike steps `[M, C]` of every input at distance one."""
    hidden, last = network.layers[0], network.num_steps - 1
    clean = replay.potentials(hidden, steps, network.num_steps)
    moved, moved_to = single_shifts(network, steps)
    spikes = np.empty((len(moved), hidden.num_outputs), np.int64)
    for column in range(network.num_steps):
        # An input that comes sooner adds itself here, one that waits is missing here.
        comes = moved_to == column
        comes &= steps[moved] == column + 1
        waits = (steps[moved] == column) & (moved_to == column + 1)
        mine = np.flatnonzero(comes | waits)
        sign = np.where(comes[mine], 1, -1)[:, None]
        here = clean[:, column] + sign * hidden.weights[:, moved[mine]].T
        crossed = clean > hidden.thresholds[:, None]
        crossed[:, column] = False
        elsewhere = np.where(crossed.any(axis=1), crossed.argmax(axis=1), last)
        first = np.where(
            here > hidden.thresholds, np.minimum(elsewhere, column), elsewhere
        )
        spikes[mine] = np.minimum(first + 1, last)
    output = network.layers[1]
    fired = np.full((len(moved), output.num_outputs), last)
    for step in reversed(range(last)):
        crosses = (spikes <= step) @ output.weights.T > output.thresholds
        fired[crosses] = step + 1
    return fired


def test_the_oracle_is_the_simulator_one_input_at_a_time():
    rng = np.random.default_rng(11)
    network = IntegerNetwork(
        (
            Dense(rng.integers(-5, 9, (6, 9)), rng.integers(-1, 9, 6)),
            Dense(rng.integers(-5, 9, (3, 6)), rng.integers(-1, 9, 3)),
        ),
        num_steps=7,
    )
    for _ in range(10):
        steps = rng.integers(0, 7, 9)
        found = outputs_of_single_shifts(network, steps)
        moved, moved_to = single_shifts(network, steps)
        assert len(found) == 18 - np.isin(steps, [0, 6]).sum()
        for row, neuron, step in zip(found, moved, moved_to, strict=True):
            changed = steps.copy()
            changed[neuron] = step
            np.testing.assert_array_equal(row, replay.spike_steps(network, changed)[-1])


@pytest.mark.slow
@pytest.mark.skipif(not NETWORKS, reason="needs ../shared/data/s4nn")
@pytest.mark.parametrize("entry", NETWORKS, ids=lambda entry: entry.name)
def test_verdicts_on_published_networks_equal_the_exhaustive_ones(entry):
    network = integer.load(entry.path, entry.num_steps)
    images = data.load(entry.dataset, "train", str(DATA_DIR)).images
    for sample in published.samples(published.verdicts(DATA_DIR)):
        steps = coding.latency(images[sample].reshape(-1), entry.num_steps, 255)
        steps = np.asarray(steps, np.int64)
        outputs = replay.spike_steps(network, steps)[-1]
        query = l1_query(steps, replay.prediction(outputs), 1, entry.num_steps)
        broken = query.violated_by(outputs) or any(
            query.violated_by(row) for row in outputs_of_single_shifts(network, steps)
        )
        (result,) = solve(network, [query], 300.0, backends.portfolio())
        expected = Verdict.FALSIFIED if broken else Verdict.ROBUST
        assert result.verdict is expected, (entry.name, sample)
