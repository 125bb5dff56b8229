"""What a baseline's answer becomes: a result, its counterexample replayed."""

import time

import numpy as np

from jaxsnn.sat import replay
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.spec import IntegerNetwork


def robust(name: str, started: float) -> Result:
    """The baseline found that no admissible input breaks the decision."""
    seconds = time.monotonic() - started
    return Result(Verdict.ROBUST, Stage.SOLVE, name, seconds)


def falsified(
    network: IntegerNetwork,
    query: Query,
    spike_steps: np.ndarray,
    name: str,
    started: float,
) -> Result:
    """The baseline found an input; one that does not replay is an error, not a verdict.

    Args:
        network: the network.
        query: the question.
        spike_steps: `[D]` perturbed spike steps, as the baseline says.
        name: of the baseline.
        started: `time.monotonic()` at its start.
    """
    seconds = time.monotonic() - started
    steps = np.asarray(spike_steps, np.int64)
    if query.admits(steps):
        outputs = replay.spike_steps(network, steps)[-1]
        if query.violated_by(outputs):
            return Result(
                Verdict.FALSIFIED, Stage.SOLVE, name, seconds, counterexample=steps
            )
    message = f"{name} named an input that does not replay"
    return Result(Verdict.ERROR, backend=name, seconds=seconds, message=message)


def timeout(started: float) -> Result:
    """The time ran out."""
    return Result(Verdict.TIMEOUT, seconds=time.monotonic() - started)
