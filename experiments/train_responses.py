"""The flags of training that say what a spike does to potentials over time."""

import math

from absl import flags

from experiments import run_state

RESPONSES = ("step", "leak", "ramp", "alpha")


def define(values: flags.FlagValues) -> None:
    """Defines --response, --time_constant, --max_delay and --clock."""
    flags.DEFINE_list(
        "response",
        ["step"],
        "What a spike adds to a potential over time: step (its weight for ever), leak "
        "(decaying), ramp (rising) or alpha (rising and decaying). One for all layers, "
        "or one for each from the first to the outputs, separated by commas.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "time_constant",
        None,
        "Steps in which a leak falls by a factor of e, a ramp is full, or alpha peaks, "
        "in all layers that have one (default a quarter of num_steps).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_delay",
        0,
        "Synapses have fixed delays, drawn from 0 to so many steps.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "clock",
        0.0,
        "Share of their threshold by which a hidden neuron that spikes after the first "
        "input lifts all outputs in the end, so that they wait for more spikes and yet "
        "are not silent; needs a ramp at the outputs, as in --response=step,ramp.",
        lower_bound=0.0,
        flag_values=values,
    )


def responses(
    values: flags.FlagValues, least_steps: int
) -> tuple[tuple[int, ...], ...]:
    """Returns the responses that the flags describe, after checking them.

    Args:
        values: of all flags of training.
        least_steps: that a network of so many layers needs.

    Raises:
        UsageError: naming the flag, its value and what would be valid.
    """
    from jaxsnn.sat import response

    names = values.response
    layers = least_steps - 2
    shown = ",".join(names)
    if not {*names} <= {*RESPONSES}:
        raise run_state.usage_error(
            "response", shown, f"must be of {', '.join(RESPONSES)}"
        )
    if len(names) not in (1, layers):
        raise run_state.usage_error(
            "response", shown, f"must be one, or one for each of {layers} layers"
        )
    if values.method == "s4nn" and {*names} != {"step"}:
        raise run_state.usage_error(
            "response",
            shown,
            "must be step with --method=s4nn; surrogate gradients learn others",
        )
    if values.method == "s4nn" and values.max_delay:
        raise run_state.usage_error(
            "max_delay",
            values.max_delay,
            "must be 0 with --method=s4nn; surrogate gradients learn with delays",
        )
    if values.max_delay > values.num_steps - least_steps:
        raise run_state.usage_error(
            "max_delay",
            values.max_delay,
            f"must be at most {values.num_steps - least_steps} with "
            f"--num_steps={values.num_steps} and so many layers",
        )
    if values.clock:
        _check_clock(values, names[-1], layers)
    time_constant = values.time_constant
    if {*names} == {"step"} and time_constant is not None:
        raise run_state.usage_error(
            "time_constant", time_constant, "needs another --response than step"
        )
    if time_constant is None:
        time_constant = max(1, values.num_steps // 4)
    whole = "ramp" in names
    if not 0 < time_constant < math.inf or (whole and time_constant % 1):
        raise run_state.usage_error(
            "time_constant",
            time_constant,
            "must be a positive number of steps" + (", whole for a ramp" * whole),
        )
    make = {
        "step": lambda _: response.STEP,
        "leak": response.leak,
        "ramp": lambda duration: response.ramp(int(duration)),
        "alpha": response.alpha,
    }
    try:
        return tuple(make[name](time_constant) for name in names)
    except ValueError as error:
        raise run_state.usage_error(
            "time_constant", time_constant, str(error)
        ) from None


def _check_clock(values: flags.FlagValues, last: str, layers: int) -> None:
    for wrong, reason in (
        (values.clock >= 1, "must be below 1; outputs would spike without evidence"),
        (values.method == "s4nn", "must be 0 with --method=s4nn"),
        (values.weight_bits, "must be 0 with --weight_bits; its weights are large"),
        (values.arch != "dense", "must be 0 with --arch=conv"),
        (layers < 2, "must be 0 with --hidden=0"),
        (last == "step", "needs another --response of the outputs, as step,ramp"),
    ):
        if wrong:
            raise run_state.usage_error("clock", values.clock, reason)
