"""What may be required of output spikes on every admissible input.

Robustness is the usual requirement. The others ask about times rather than classes,
about pairs of inputs, or about two networks at once.
"""

import dataclasses
import enum

import numpy as np

from jaxsnn.sat.spec import IntegerNetwork


class Tie(enum.Enum):
    """How a tie for the first output spike is read.

    Between two networks the readings are: the same classes are first (adversarial),
    the same class is first with the lowest index (argmin), some class is first in
    both (S4NN).

    Attributes:
      ADVERSARIAL: another output at the same step is a failure.
      ARGMIN: the lowest index wins.
      S4NN: the predicted class among the first is enough.
    """

    ADVERSARIAL = "adversarial"
    ARGMIN = "argmin"
    S4NN = "s4nn"


@dataclasses.dataclass(frozen=True)
class Robust:
    """The label spikes first; ties are read as the query says."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """The first output spike, or that of the label, comes at `max_step` or before.

    With `max_step = T - 2` and any output: some output spikes of itself, so that the
    network is never silent until the forced spike.

    Attributes:
      max_step: the latest step at which the network may decide.
      of_label: whether the label itself must have spiked by then.
    """

    max_step: int
    of_label: bool = False

    def __post_init__(self) -> None:
        if self.max_step < 0:
            raise ValueError(f"max_step={self.max_step} must not be negative")


@dataclasses.dataclass(frozen=True)
class Monotone:
    """Moving one input earlier never makes one output later.

    About all pairs of admissible inputs that differ in this input alone.

    Attributes:
      input: index of the input that moves.
      output: index of the output that must not be delayed.
    """

    input: int
    output: int

    def __post_init__(self) -> None:
        if self.input < 0 or self.output < 0:
            raise ValueError(
                f"input={self.input} and output={self.output} are indices; they must "
                "not be negative"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Alike:
    """Another network decides as this one does; see `Tie` for the readings.

    Attributes:
      other: takes the same inputs and steps and has the same classes.
    """

    other: IntegerNetwork


Requirement = Robust | Latency | Monotone | Alike


def check_comparable(network: IntegerNetwork, other: IntegerNetwork) -> None:
    """Raises a `ValueError` unless two networks take and give the same things."""
    for name in ("num_steps", "num_inputs", "num_classes"):
        ours, theirs = getattr(network, name), getattr(other, name)
        if ours != theirs:
            raise ValueError(
                f"networks can be compared only if they agree in {name}, "
                f"not {ours} and {theirs}"
            )


def first(output_steps: np.ndarray) -> np.ndarray:
    """Returns `[C]` booleans: the outputs that spike first.

    >>> first(np.array([4, 2, 2]))
    array([False,  True,  True])
    """
    return output_steps == output_steps.min()


def alike(tie: Tie, output_steps: np.ndarray, other_steps: np.ndarray) -> bool:
    """Whether two networks with these output spikes decide alike.

    >>> alike(Tie.ARGMIN, np.array([1, 1, 3]), np.array([2, 5, 5]))
    True
    >>> alike(Tie.ADVERSARIAL, np.array([1, 1, 3]), np.array([2, 5, 5]))
    False
    """
    ours, theirs = first(output_steps), first(other_steps)
    match tie:
        case Tie.ADVERSARIAL:
            return bool((ours == theirs).all())
        case Tie.ARGMIN:
            return bool(ours.argmax() == theirs.argmax())
        case Tie.S4NN:
            return bool((ours & theirs).any())
