"""The SMT encoding of arXiv 2408.10900: integer spike times, one check a query.

Each spike time is an integer variable, each potential a sum of weights selected by
comparisons of spike times, each neuron a latch over its steps. Two readings of the
description follow the published simulator, as everywhere here: a crossing is strict,
and the times are not bounded below by the depth of the layer (neurons with a negative
threshold fire without input).
"""

import time

import numpy as np
import z3

from experiments.benchmarks.baselines import outcome
from jaxsnn.sat.query import Query, Result
from jaxsnn.sat.spec import IntegerNetwork, Layer

NAME = "z3"


def solve(network: IntegerNetwork, query: Query, seconds: float) -> Result:
    """Decides one query; encoding counts towards the limit.

    Args:
        network: the network.
        query: the question.
        seconds: wall-clock limit. z3 checks its own clock and may come back late.
    """
    started = time.monotonic()
    deadline = started + seconds
    solver = z3.Solver()
    inputs = [z3.Int(f"s_0_{i}") for i in range(network.num_inputs)]
    for variable, low, high in zip(inputs, query.low, query.high, strict=True):
        solver.add(variable >= int(low), variable <= int(high))
    _add_budgets(solver, query, inputs)
    times = inputs
    for depth, layer in enumerate(network.layers, start=1):
        added = _add_layer(solver, layer, depth, times, network.num_steps, deadline)
        if added is None:
            return outcome.timeout(started)
        times = added
    label = times[query.label]
    tolerance = query.tolerance(len(times))
    solver.add(
        z3.Or(
            [
                times[other] < label + int(tolerance[other])
                for other in range(len(times))
                if other != query.label and query.target in (None, other)
            ]
        )
    )
    left = deadline - time.monotonic()
    if left <= 0:
        return outcome.timeout(started)
    solver.set("timeout", max(1, round(1000 * left)))
    answer = solver.check()
    if answer == z3.unsat:
        return outcome.robust(NAME, started)
    if answer == z3.unknown:
        return outcome.timeout(started)
    model = solver.model()
    steps = [model.eval(s, model_completion=True).as_long() for s in inputs]
    return outcome.falsified(network, query, np.array(steps), NAME, started)


def _add_budgets(solver: z3.Solver, query: Query, inputs: list[z3.ArithRef]) -> None:
    """Bounds the total shift (condition 7 of the paper) and the changed inputs."""
    clean = query.spike_steps.tolist()
    if query.max_total_shift is not None:
        shifts = [z3.Abs(s - at) for s, at in zip(inputs, clean, strict=True)]
        solver.add(z3.Sum(shifts) <= query.max_total_shift)
    if query.max_changed is not None:
        moved = [z3.If(s == at, 0, 1) for s, at in zip(inputs, clean, strict=True)]
        solver.add(z3.Sum(moved) <= query.max_changed)


def _add_layer(
    solver: z3.Solver,
    layer: Layer,
    depth: int,
    inputs: list[z3.ArithRef],
    num_steps: int,
    deadline: float,
) -> list[z3.ArithRef] | None:
    """Adds conditions 1 to 6 of the paper; returns the layer's spike times.

    None if the deadline passes meanwhile.
    """
    rows = layer.synapses()
    if not rows.instant:
        raise ValueError("this baseline knows no delays and no responses in time")
    last = num_steps - 1
    arrived: dict[tuple[int, int], z3.BoolRef] = {}
    times = []
    for neuron in range(layer.num_outputs):
        row = slice(rows.starts[neuron], rows.starts[neuron + 1])
        synapses = list(
            zip(rows.inputs[row].tolist(), rows.weights[row].tolist(), strict=True)
        )
        spike = z3.Int(f"s_{depth}_{neuron}")
        solver.add(spike >= layer.delay, spike <= last)
        threshold = int(rows.thresholds[neuron])
        fired = z3.BoolVal(False)
        for step in range(layer.delay, last):
            if time.monotonic() > deadline:
                return None
            terms = []
            for source, weight in synapses:
                key = source, step - layer.delay
                if key not in arrived:
                    arrived[key] = inputs[source] <= step - layer.delay
                terms.append(z3.If(arrived[key], weight, 0))
            potential = z3.Int(f"p_{depth}_{neuron}_{step}")
            solver.add(potential == (z3.Sum(terms) if terms else 0))
            crosses = potential > threshold
            solver.add((spike == step) == z3.And(z3.Not(fired), crosses))
            flag = z3.Bool(f"f_{depth}_{neuron}_{step}")
            solver.add(flag == z3.Or(fired, crosses))
            fired = flag
        solver.add((spike == last) == z3.Not(fired))
        times.append(spike)
    return times
