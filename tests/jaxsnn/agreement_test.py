import numpy as np

from jaxsnn import agreement, integer
from jaxsnn.sat import replay


def example(bits):
    rng = np.random.default_rng(0)
    weights = [rng.normal(0.3, 1.0, (9, 12)), rng.normal(0.3, 1.0, (3, 9))]
    thresholds = [np.full(9, 1.0), np.full(3, 1.0)]
    steps, labels = rng.integers(0, 8, (200, 12)), rng.integers(0, 3, 200)
    return weights, thresholds, steps, labels, bits


def test_counts_are_those_of_the_simulators_one_by_one():
    weights, thresholds, steps, labels, bits = example(1)
    found = agreement.measure(weights, thresholds, 8, steps, labels, bits)
    whole = integer.quantize(weights, thresholds, 8, bits)
    same = identical = correct = 0
    for one, label in zip(steps, labels, strict=True):
        # The definition, in floats.
        level = one
        for weight, threshold in zip(weights, thresholds, strict=True):
            potentials = np.array([weight @ (level <= t) for t in range(8)])
            crossed = potentials > threshold
            first = np.where(crossed.any(axis=0), crossed.argmax(axis=0), 7)
            level = np.minimum(first + 1, 7)
        outputs = replay.spike_steps(whole, one)[-1]
        same += level.argmin() == outputs.argmin()
        identical += (level == outputs).all()
        correct += outputs.argmin() == label
    assert found.num_examples == 200
    assert (found.predictions, found.output_steps) == (same, identical)
    assert found.integer_correct == correct
    assert 0 < identical < same < 200  # one bit is coarse: the comparison says much


def test_negative_thresholds_are_crossed_before_any_spike():
    weights, thresholds = [np.eye(2)], [np.array([-1.0, 0.0])]
    for steps in ([[3, 3]], [[3, 3], [0, 3]]):  # no example depends on another
        outputs = agreement.output_steps(weights, thresholds, 9, np.array(steps))
        assert outputs[0].tolist() == [1, 4]
    for step in (0, 1, 3, 8):
        found = agreement.output_steps([-2 * np.eye(1)], [-np.ones(1)], 9, [[step]])
        whole = integer.quantize([-2 * np.eye(1)], [-np.ones(1)], 9)
        assert found[0, 0] == replay.spike_steps(whole, np.array([step]))[-1][0]


def test_enough_bits_agree_wholly():
    weights, thresholds, steps, labels, bits = example(12)
    found = agreement.measure(weights, thresholds, 8, steps, labels, bits)
    assert found.predictions >= 199
    assert found.float_correct > 0
