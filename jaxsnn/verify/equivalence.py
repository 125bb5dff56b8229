"""Whether two networks decide alike on every input of a ball.

Both are encoded over the same input literals, so that what they share is one and the
same constraint: a pruned network against its original leaves little to decide.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxsnn.sat import replay
from jaxsnn.sat.perturbation import Perturbation
from jaxsnn.sat.requirement import Alike, Tie, check_comparable
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.verify import cascade


def compare(
    network: IntegerNetwork,
    other: IntegerNetwork,
    inputs: np.ndarray,
    balls: Sequence[Perturbation],
    config: cascade.CascadeConfig,
    key: jax.Array,
    tie: Tie = Tie.ARGMIN,
) -> Iterator[cascade.Decision]:
    """Decides for each input and ball whether both networks decide alike.

    Args:
      network: one network.
      other: of the same steps, inputs and classes.
      inputs: `[B, D]` spike steps.
      balls: nested, the narrowest first.
      config: stages, solvers and limits.
      key: random key of the search.
      tie: what alike means where outputs tie (`Tie`); the same class by default, the
        lowest index of a tie.

    Yields:
      One decision for each input and ball. `ROBUST` is a proof that they decide alike,
      `FALSIFIED` holds an input on which they do not, replayed in both.

    Raises:
      ValueError: networks that cannot be compared.

    >>> from jaxsnn.reduction import without_silent
    >>> from jaxsnn.sat.spec import Dense
    >>> hidden = Dense(np.array([[1, 0], [0, 1], [0, -1]]), np.array([0, 0, 0]))
    >>> outputs = Dense(np.array([[1, 0, 0], [0, 1, 1]]), np.array([0, 0]))
    >>> network = IntegerNetwork((hidden, outputs), num_steps=8)
    >>> smaller = without_silent(network)
    >>> decisions = compare(
    ...     network, smaller, np.array([[1, 4]]), [Perturbation(max_shift=3)],
    ...     cascade.CascadeConfig(backends=("pysat",)), jax.random.key(0))
    >>> smaller.layers[0].num_outputs, [d.result.verdict.value for d in decisions]
    (2, ['robust'])
    """
    check_comparable(network, other)
    requires = Alike(other)
    samples = []
    for steps in np.asarray(inputs, np.int64):
        label = replay.prediction(replay.spike_steps(network, steps)[-1])
        samples.append(
            [
                ball.around(steps, label, network.num_steps, tie=tie, requires=requires)
                for ball in balls
            ]
        )
    yield from cascade.verify(network, samples, config, key)
