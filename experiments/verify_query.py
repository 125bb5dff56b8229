"""The flags that say what is asked of each sample, for every binary that asks.

In a conjunction `--radius` is that of `--norm`, and the other limits are fixed:

    --norm=linf --radius=1,2 --max_changed=5 --max_total_shift=8
    --norm=drop --radius=0,1,2 --max_shift=1    lost spikes, the others jitter
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import run_state
from jaxsnn.sat.perturbation import Growing, Perturbation
from jaxsnn.sat.requirement import Latency, Monotone, Requirement, Robust, Tie
from jaxsnn.sat.spec import IntegerNetwork

# The limit that is the radius of each norm.
NORMS = {
    "linf": "max_shift",
    "l1": "max_total_shift",
    "l0": "max_changed",
    "pixel": "max_pixel",
    "drop": "max_dropped",
    "insert": "max_inserted",
}
_PROPERTIES = "robust, latency:K, latency:K,label, not_silent, or monotone:INPUT,CLASS"


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of every sample.

    Attributes:
        norm: what the radius is about.
        radii: in ascending order.
        limits: those beside the radius.
        max_pixel: limit of a pixel ball beside the radius, or None.
        tie: the reading of ties.
        target: the only wrong class, or None.
        requires: what must hold.
        requirement: its name on the command line.
    """

    norm: str
    radii: tuple[int, ...] | tuple[float, ...]
    limits: Perturbation = dataclasses.field(default_factory=Perturbation)
    max_pixel: float | None = None
    tie: Tie = Tie.ADVERSARIAL
    target: int | None = None
    requires: Requirement = dataclasses.field(default_factory=Robust)
    requirement: str = "robust"

    def growing(self, window: Any) -> Growing:
        """Returns the balls of every radius, but those of pixels."""
        return Growing(
            self.limits, NORMS[self.norm], window, self.target, self.requires
        )


def define_flags(flag_values: flags.FlagValues, tie: Tie) -> None:
    """Adds the flags of balls and readings of ties."""
    flags.DEFINE_enum(
        "norm",
        "linf",
        list(NORMS),
        "What --radius limits: linf, l1: steps; l0: number of inputs; pixel: fraction "
        "of the grey scale; drop: number of spikes lost; insert: number of silent "
        "inputs that spike.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "radius",
        ["1"],
        "One or more radii, decided incrementally for each sample.",
        flag_values=flag_values,
    )
    for name, text in (
        ("max_shift", "Steps by which each input may move, beside --norm."),
        ("max_total_shift", "Steps by which all inputs may move, beside --norm."),
        ("max_changed", "Number of inputs that may move, beside --norm."),
        ("max_dropped", "Number of inputs that may also lose their spike."),
        ("max_inserted", "Number of silent inputs that may also spike at any step."),
    ):
        flags.DEFINE_integer(name, None, text, lower_bound=0, flag_values=flag_values)
    flags.DEFINE_float(
        "max_pixel",
        None,
        "Fraction of the grey scale by which each pixel may change, beside --norm.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "tie",
        tie.value,
        [each.value for each in Tie],
        "Reading of ties for the first output spike.",
        flag_values=flag_values,
    )


def define_property_flags(flag_values: flags.FlagValues) -> None:
    """Adds the flags of what must hold."""
    flags.DEFINE_string(
        "property",
        "robust",
        f"What must hold of every admissible input: {_PROPERTIES}.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "target",
        None,
        "Only this class counts as a wrong decision.",
        lower_bound=0,
        flag_values=flag_values,
    )


def check(flag_values: flags.FlagValues) -> Asked:
    """Returns what is asked, as far as flags alone tell it.

    Raises:
        UsageError: a flag without a meaning beside the others.
    """
    norm = flag_values.norm
    own = NORMS[norm]
    if getattr(flag_values, own) is not None:
        raise run_state.usage_error(
            own, getattr(flag_values, own), f"is the radius of --norm={norm}"
        )
    if flag_values.max_pixel is not None and not 0 <= flag_values.max_pixel <= 1:
        raise run_state.usage_error(
            "max_pixel", flag_values.max_pixel, "must lie in 0..1"
        )
    values = {
        field.name: getattr(flag_values, field.name)
        for field in dataclasses.fields(Perturbation)
        if getattr(flag_values, field.name) is not None
    }
    if norm in ("drop", "insert"):
        # Inputs that do not fail stay, unless something lets them move.
        moves = ("max_shift", "max_total_shift", "max_changed")
        if flag_values.max_pixel is None and not any(name in values for name in moves):
            values["max_shift"] = 0
    return Asked(
        norm=norm,
        radii=tuple(parse_radii(flag_values.radius, norm)),
        limits=Perturbation(**values),
        max_pixel=flag_values.max_pixel,
        tie=Tie(flag_values.tie),
    )


def parse_radii(items: Sequence[str], norm: str) -> list[int] | list[float]:
    """Returns radii in ascending order, each once.

    Raises:
        UsageError: naming the radius and what would be valid.
    """
    valid = "in 0..1" if norm == "pixel" else "a whole number, 0 or more, below 2^31"
    most = 1 if norm == "pixel" else 2**31 - 1
    radii = set()
    for item in items:
        try:
            radius = float(item) if norm == "pixel" else int(item)
        except ValueError:
            radius = -1
        if not 0 <= radius <= most:
            raise run_state.usage_error(
                "radius", item, f"must be {valid} for --norm={norm}"
            )
        radii.add(radius)
    if not radii:
        raise run_state.usage_error("radius", "", f"name at least one radius, {valid}")
    return sorted(radii)


def with_property(
    asked: Asked, flag_values: flags.FlagValues, network: IntegerNetwork
) -> Asked:
    """Adds what must hold, checked against the network.

    Raises:
        UsageError: no property, or an index or step that the network has not.
    """
    requires = parse_property(flag_values.property, network)
    target = flag_values.target
    if target is not None:
        if not isinstance(requires, Robust):
            raise run_state.usage_error(
                "target", target, "has a meaning only for --property=robust"
            )
        if target >= network.num_classes:
            raise run_state.usage_error(
                "target", target, f"must be below {network.num_classes}, the classes"
            )
    return dataclasses.replace(
        asked, requires=requires, requirement=flag_values.property, target=target
    )


def parse_property(text: str, network: IntegerNetwork) -> Requirement:
    """Returns the requirement that `--property` names.

    Raises:
        UsageError: as `with_property`.
    """

    def index(item: str, end: int, what: str) -> int:
        value = int(item)
        if not 0 <= value < end:
            raise run_state.usage_error(
                "property", text, f"{what} {value} must lie in 0..{end - 1}"
            )
        return value

    kind, _, rest = text.partition(":")
    items = rest.split(",") if rest else []
    last = network.num_steps - 1
    try:
        match kind, items:
            case "robust", []:
                return Robust()
            case "latency", [step]:
                return Latency(index(step, last, "step"))
            case "latency", [step, "label"]:
                return Latency(index(step, last, "step"), of_label=True)
            case "not_silent", []:
                return Latency(last - 1)
            case "monotone", [moved, output]:
                return Monotone(
                    index(moved, network.num_inputs, "input"),
                    index(output, network.num_classes, "class"),
                )
    except ValueError as error:
        if isinstance(error, run_state.UsageError):
            raise
    raise run_state.usage_error("property", text, f"must be {_PROPERTIES}")
