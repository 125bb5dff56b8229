"""Questions about a network, and their answers.

A query asks whether the decision for one input stands for every admissible
perturbation of its spike steps, or whether something else holds of the outputs
(`jaxsnn.sat.requirement`). Admissible is what satisfies all of: a window for each
input, a total budget (L1), a number of changed inputs (L0). Some inputs may fail, which
none of these hold back: a number of spikes is lost, a number of silent inputs spikes.
"""

import dataclasses
import enum

import numpy as np

from jaxsnn.sat.requirement import Latency, Requirement, Robust, Tie


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
    """One question about one input and its perturbations.

    Attributes:
      spike_steps: `[D]` the unperturbed input.
      low: `[D]` the earliest admissible step of each input that does not fail.
      high: `[D]` the latest.
      label: the class whose decision must stand (the prediction for `spike_steps`).
      max_total_shift: bound on `sum |s' - s|` over the inputs that do not fail, or
        None.
      max_changed: bound on the number of those with `s' != s`, or None.
      tie: the reading of ties.
      target: only this class counts as a wrong decision, or None for any.
      max_dropped: so many inputs may fail by losing their spike: they move to
        `silent_step`, out of any window.
      max_inserted: so many silent inputs may fail by spiking at any step.
      silent_step: `T - 1`, the forced spike; None where no input may fail.
      requires: what must hold of the outputs.
    """

    spike_steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: int
    max_total_shift: int | None = None
    max_changed: int | None = None
    tie: Tie = Tie.ADVERSARIAL
    target: int | None = None
    max_dropped: int = 0
    max_inserted: int = 0
    silent_step: int | None = None
    requires: Requirement = dataclasses.field(default_factory=Robust)

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
        for name in ("max_total_shift", "max_changed", "max_dropped", "max_inserted"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value} must not be negative")
        if self.target is not None:
            if self.target == self.label:
                raise ValueError(f"target {self.target} is the label itself")
            if not isinstance(self.requires, Robust):
                raise ValueError("only robustness has a target")
        if self.silent_step is None:
            if self.max_dropped or self.max_inserted:
                raise ValueError(
                    "inputs that may fail need silent_step, the last step T - 1"
                )
        elif steps.size and int(high.max()) > self.silent_step:
            raise ValueError(
                f"a window ends at step {high.max()}, after silent_step="
                f"{self.silent_step}"
            )
        for name, value in (("spike_steps", steps), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)

    @property
    def can_drop(self) -> np.ndarray:
        """`[D]` booleans: the inputs that may lose their spike."""
        if not self.max_dropped:
            return np.zeros(self.spike_steps.shape, bool)
        return self.spike_steps != self.silent_step

    @property
    def can_insert(self) -> np.ndarray:
        """`[D]` booleans: the silent inputs that may spike."""
        if not self.max_inserted:
            return np.zeros(self.spike_steps.shape, bool)
        return self.spike_steps == self.silent_step

    @property
    def earliest(self) -> np.ndarray:
        """`[D]` the earliest step of each input, failures included."""
        return np.where(self.can_insert, 0, self.low)

    @property
    def latest(self) -> np.ndarray:
        """`[D]` the latest step of each input, failures included."""
        if self.silent_step is None:
            return self.high
        return np.where(self.can_drop, self.silent_step, self.high)

    def admits(self, spike_steps: np.ndarray) -> bool:
        """Whether a perturbed input is admissible."""
        steps = np.asarray(spike_steps)
        if ((steps < self.earliest) | (steps > self.latest)).any():
            return False
        shift = np.abs(steps - self.spike_steps)
        outside = (steps < self.low) | (steps > self.high)
        for failed, limit in (
            (self.can_drop & (steps == self.silent_step), self.max_dropped),
            (self.can_insert & (shift > 0), self.max_inserted),
        ):
            if (outside & failed).sum() > limit:
                return False
            # Those outside their window did fail; the others count as failed where
            # that saves most of the budgets.
            order = np.lexsort((-shift, ~outside, ~failed))[: min(limit, failed.sum())]
            shift[order], outside[order] = 0, False
        return bool(
            not outside.any()
            and (self.max_total_shift is None or shift.sum() <= self.max_total_shift)
            and (self.max_changed is None or (shift > 0).sum() <= self.max_changed)
        )

    def violated_by(self, output_steps: np.ndarray) -> bool:
        """Whether these output spikes break what is required of one run.

        Raises:
          ValueError: the requirement is about more than one run of one network; see
            `jaxsnn.sat.replay.falsifies`.
        """
        match self.requires:
            case Robust():
                return bool(self.beating(output_steps).any())
            case Latency(max_step, of_label):
                steps = np.asarray(output_steps)
                return bool((steps[self.label] if of_label else steps.min()) > max_step)
        raise ValueError(f"{type(self.requires).__name__} is not about one run alone")

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
      counterexample: `[D]` perturbed spike steps that were replayed, or None; `[2, D]`
        for `Monotone`, the input and the one with a spike moved earlier.
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
