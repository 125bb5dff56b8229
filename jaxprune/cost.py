"""What a model costs: parameters, floating-point operations, and measured time."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxprune.prunable import Refit, Variables


class Latency(NamedTuple):
    """Wall-clock time of one call, in milliseconds, over repeated calls."""

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    num_repeats: int


def count_parameters(params: Any) -> int:
    """Returns the number of scalars in a pytree of arrays.

    >>> count_parameters({"kernel": np.ones((3, 4)), "bias": np.ones(4)})
    16
    """
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(params))


def count_flops(function: Callable[..., Any], *args: Any) -> float | None:
    """Returns the floating-point operations of one call, from the compiled program.

    A multiplication and an addition count as two. The program is the one that XLA makes
    for a CPU, after simplifying it, wherever the function is to run: on GPUs products
    and convolutions run in libraries of whose operations XLA does not tell. It counts
    the body of a loop once: of a scan (scanned blocks), the other steps are added here;
    a loop of unknown length is not.

    Args:
        function: what to count.
        *args: arguments, or their shapes as `jax.ShapeDtypeStruct`.

    Returns:
        The count, or None where the CPU is not among the platforms of JAX, or does not
        tell.

    Raises:
        TypeError: a program that is compiled already.

    >>> count_flops(lambda x, y: x @ y, np.ones((8, 16)), np.ones((16, 32)))
    8192.0
    """
    if isinstance(function, jax.stages.Compiled):
        raise TypeError(
            "operations are counted from a function, not from a compiled program, "
            "which on GPUs does not tell of them all"
        )
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    # Where the CPU is the default, naming it would have the program compiled again.
    with jax.default_device(None if jax.default_backend() == "cpu" else host):
        shapes = jax.eval_shape(lambda *args: args, *args)
        told = _told(_compiled(function, shapes))
        return None if told is None else told + _untold(function, shapes)


def _untold(function: Callable[..., Any], args: Any) -> float:
    """Returns the operations of all steps of scans but those that XLA tells of."""
    flops = 0.0
    for steps, body in _scans(jax.make_jaxpr(function)(*args).jaxpr):
        step = jaxpr_as_fun(body)
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in body.in_avals]
        told = _told(_compiled(step, shapes)) or 0.0
        flops += (steps - 1) * told + steps * _untold(step, shapes)
    return flops


def _told(compiled: jax.stages.Compiled) -> float | None:
    analysis = compiled.cost_analysis()
    if isinstance(analysis, list):  # one entry per program on older versions
        analysis = analysis[0] if analysis else None
    flops = (analysis or {}).get("flops")
    # Some backends answer -1 for "not known".
    return float(flops) if flops is not None and flops >= 0 else None


def _scans(jaxpr: Any) -> Iterator[tuple[int, Any]]:
    """Yields length and body of each scan, those inside another one left out."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
            continue
        for part in jax.tree.leaves(list(equation.params.values())):
            # Programs within, with or without their constants.
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from _scans(inner)


def measure_latency(
    function: Callable[..., Any],
    *args: Any,
    num_repeats: int = 20,
    num_warm_up: int = 3,
) -> Latency:
    """Returns the time of one jitted call, dispatch and computation together.

    Args:
        function: what to time; it is jitted and compiled before the clock starts.
        *args: arguments, put on the default device before.
        num_repeats: calls that are timed.
        num_warm_up: calls before them that are not.

    Raises:
        ValueError: if `num_repeats` is not positive.
    """
    return compare_latency({"": function}, {"": args}, num_repeats, num_warm_up)[""]


def compare_latency(
    functions: Mapping[str, Callable[..., Any]],
    args: Mapping[str, tuple[Any, ...]],
    num_repeats: int = 20,
    num_warm_up: int = 3,
) -> dict[str, Latency]:
    """Returns the time of one call of several functions, called in turns.

    Taking turns keeps a change of the machine's load or clock from favouring one.

    Args:
        functions: what to time, by name; jitted here unless compiled already.
        args: arguments of each, by the same names.
        num_repeats: calls of each that are timed.
        num_warm_up: calls of each before them that are not.

    Raises:
        ValueError: if `num_repeats` is not positive.
    """
    if num_repeats < 1:
        raise ValueError(f"num_repeats={num_repeats} must be at least 1")
    placed = {name: jax.device_put(args[name]) for name in functions}
    compiled = {
        name: _compiled(function, placed[name]) for name, function in functions.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(num_warm_up + num_repeats):
        for name, call in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*placed[name]))
            if repeat >= num_warm_up:
                seconds[name].append(time.perf_counter() - start)
    result = {}
    for name, times in seconds.items():
        lower, median, upper = (1e3 * float(np.quantile(times, q)) for q in QUARTILES)
        result[name] = Latency(median, lower, upper, num_repeats)
    return result


def block_latencies(
    refit: Refit,
    variables: Sequence[Variables],
    model_variables: Variables,
    inputs: Any,
    num_repeats: int = 20,
) -> list[float]:
    """Returns the median time of each block alone, in milliseconds.

    Blocks that run one program on one shape are measured once, all others in turns.
    For `clusters.optimal`, which then saves the most time rather than parameters.

    Args:
        refit: how the blocks of a stack are run one by one, of `Prunable.refit`.
        variables: of each block, as the layouts of the stack hand them out.
        model_variables: of the whole model.
        inputs: a batch.
        num_repeats: calls of each program that are timed.
    """
    carry = jax.jit(refit.enter)(model_variables, inputs)
    kinds: list[Any] = []
    functions: dict[str, Callable[..., Any]] = {}
    args: dict[str, tuple[Any, ...]] = {}
    programs: dict[Any, Any] = {}
    for block, own in zip(refit.blocks, variables, strict=True):
        shapes = jax.tree.leaves(jax.tree.map(np.shape, (own, carry)))
        kind = (block.forward, tuple(shapes))
        if kind not in programs:
            programs[kind] = _compiled(block.forward, (own, carry))
            name = str(len(functions))
            functions[name], args[name] = programs[kind], (own, carry)
        kinds.append(kind)
        carry = programs[kind](own, carry)
    measured = compare_latency(functions, args, num_repeats)
    names = {kind: str(index) for index, kind in enumerate(programs)}
    return [measured[names[kind]].median_ms for kind in kinds]


def _compiled(function: Callable[..., Any], args: Any) -> Any:
    if isinstance(function, jax.stages.Compiled):
        return function
    return jax.jit(function).lower(*args).compile()


QUARTILES = (0.25, 0.5, 0.75)
