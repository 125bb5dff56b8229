"""Questions about a network, and their answers.

A query asks whether the decision for one input stands for every admissible
perturbation of its spike steps. Admissible is what satisfies all of: a window for
each input, a total budget (L1), a number of changed inputs (L0).
"""

import dataclasses
import enum

import numpy as np


class Tie(enum.Enum):
    """How a tie for the first output spike is read."""

    ADVERSARIAL = "adversarial"  # another output at the same step is a failure
    ARGMIN = "argmin"  # the lowest index wins
    S4NN = "s4nn"  # the predicted class among the first is enough


class Verdict(enum.Enum):
    """The answer to a query; never a boolean."""

    ROBUST = "robust"  # proved: no admissible input changes the decision
    FALSIFIED = "falsified"  # an admissible input that does was replayed
    UNKNOWN = "unknown"  # the stages that ran could not decide
    TIMEOUT = "timeout"  # the time ran out; more might decide
    ERROR = "error"  # a stage failed; the message says how


class Stage(enum.Enum):
    """The part of the cascade that decided."""

    CLEAN = "clean"
    ATTACK = "attack"
    BOUNDS = "bounds"
    SOLVE = "solve"


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """One robustness question.

    Attributes:
      spike_steps: `[D]` the unperturbed input.
      low: `[D]` the earliest admissible step of each input.
      high: `[D]` the latest.
      label: the class whose decision must stand (the prediction for `spike_steps`).
      max_total_shift: bound on `sum |s' - s|`, or None.
      max_changed: bound on the number of inputs with `s' != s`, or None.
      tie: the reading of ties.
      target: only this class counts as a wrong decision, or None for any.
    """

    spike_steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: int
    max_total_shift: int | None = None
    max_changed: int | None = None
    tie: Tie = Tie.ADVERSARIAL
    target: int | None = None

    def __post_init__(self) -> None:
        steps, low, high = (
            np.asarray(value, dtype=np.int64)
            for value in (self.spike_steps, self.low, self.high)
        )
        if not steps.shape == low.shape == high.shape or steps.ndim != 1:
            raise ValueError(
                f"spike_steps {steps.shape}, low {low.shape} and high {high.shape} "
                "must be vectors of one length"
            )
        if (low > steps).any() or (steps > high).any():
            raise ValueError("windows must contain the unperturbed step of each input")
        for name in ("max_total_shift", "max_changed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value} must not be negative")
        if self.target is not None and self.target == self.label:
            raise ValueError(f"target {self.target} is the label itself")
        for name, value in (("spike_steps", steps), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)

    def admits(self, spike_steps: np.ndarray) -> bool:
        """Whether a perturbed input lies in the ball."""
        steps = np.asarray(spike_steps)
        shift = np.abs(steps - self.spike_steps)
        return bool(
            (self.low <= steps).all()
            and (steps <= self.high).all()
            and (self.max_total_shift is None or shift.sum() <= self.max_total_shift)
            and (self.max_changed is None or (shift > 0).sum() <= self.max_changed)
        )

    def violated_by(self, output_steps: np.ndarray) -> bool:
        """Whether these output spikes break the decision."""
        return bool(self.beating(output_steps).any())

    def beating(self, output_steps: np.ndarray) -> np.ndarray:
        """Returns `[C]` booleans: the classes that beat the label."""
        steps = np.asarray(output_steps)
        beats = steps < steps[self.label] + self.tolerance(len(steps))
        beats[self.label] = False
        if self.target is not None:
            beats &= np.arange(len(steps)) == self.target
        return beats

    def tolerance(self, num_classes: int) -> np.ndarray:
        """Returns `[C]`: class `o` beats the label if `fire_o < fire_label + this`."""
        if self.tie is Tie.ADVERSARIAL:
            return np.ones(num_classes, np.int64)
        if self.tie is Tie.ARGMIN:
            return (np.arange(num_classes) < self.label).astype(np.int64)
        return np.zeros(num_classes, np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """How a query was decided.

    Attributes:
      verdict: the answer.
      stage: the stage that decided, None if none did.
      backend: the solver that decided, None for the other stages.
      seconds: time spent on this query alone.
      counterexample: `[D]` perturbed spike steps that were replayed, or None.
      message: what went wrong, for errors.
    """

    verdict: Verdict
    stage: Stage | None = None
    backend: str | None = None
    seconds: float = 0.0
    counterexample: np.ndarray | None = None
    message: str | None = None


def window_ball(
    spike_steps: np.ndarray, radius: int, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the windows `(low, high)` of an L-infinity ball in steps.

    >>> window_ball(np.array([0, 2]), 1, num_steps=4)
    (array([0, 1]), array([1, 3]))
    """
    if radius < 0:
        raise ValueError(f"{radius=} must not be negative")
    steps = np.asarray(spike_steps, dtype=np.int64)
    return np.maximum(steps - radius, 0), np.minimum(steps + radius, num_steps - 1)


def linf_query(
    spike_steps: np.ndarray, label: int, radius: int, num_steps: int
) -> Query:
    """Every input moves by at most `radius` steps."""
    low, high = window_ball(spike_steps, radius, num_steps)
    return Query(spike_steps, low, high, label)


def l1_query(spike_steps: np.ndarray, label: int, radius: int, num_steps: int) -> Query:
    """All inputs together move by at most `radius` steps (arXiv 2408.10900)."""
    low, high = window_ball(spike_steps, radius, num_steps)
    return Query(spike_steps, low, high, label, max_total_shift=radius)


def l0_query(spike_steps: np.ndarray, label: int, radius: int, num_steps: int) -> Query:
    """At most `radius` inputs move, anywhere."""
    low, high = window_ball(spike_steps, num_steps, num_steps)
    return Query(spike_steps, low, high, label, max_changed=radius)
