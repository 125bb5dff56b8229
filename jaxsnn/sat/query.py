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
from jaxsnn.sat.spec import IntegerNetwork


class Verdict(enum.Enum):
    """The answer to a query; never a boolean.

    Attributes:
      ROBUST: proved: no admissible input changes the decision.
      FALSIFIED: an admissible input that does was replayed.
      UNKNOWN: the stages that ran could not decide.
      TIMEOUT: the time ran out; more might decide.
      ERROR: a stage failed; the message says how.
    """

    ROBUST = "robust"
    FALSIFIED = "falsified"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"
    ERROR = "error"

    def __bool__(self) -> bool:
        raise TypeError("a verdict is no boolean; compare it, as `is Verdict.ROBUST`")


class Stage(enum.Enum):
    """The part of the cascade that decided.

    Attributes:
      CLEAN: the unperturbed input breaks the requirement already, such as by a tie.
      ATTACK: a search for counterexamples.
      BOUNDS: intervals of spike times.
      SOLVE: a complete solver.
    """

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

    Raises:
      ValueError: arrays of different lengths or not of integers, a window without its
        unperturbed step, negative budgets, or options without a meaning together.

    >>> steps = np.array([1, 4])
    >>> query = Query(steps, low=steps - 1, high=steps + 1, label=0, max_changed=1)
    >>> query.admits(np.array([1, 3])), query.admits(np.array([0, 3]))
    (True, False)
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
            _whole(name, getattr(self, name)) for name in ("spike_steps", "low", "high")
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
        # Of NumPy and JAX, too, which do not hash alike.
        object.__setattr__(self, "label", int(self.label))
        for name, value in (("spike_steps", steps), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)

    def check_fits(self, network: IntegerNetwork) -> None:
        """Checks that this query is about such a network.

        Raises:
          ValueError: another number of inputs, steps outside `0 .. T-1`, or a class
            that the network has not.
        """
        if len(self.spike_steps) != network.num_inputs:
            raise ValueError(
                f"the query is about {len(self.spike_steps)} inputs, the network has "
                f"{network.num_inputs}"
            )
        last = network.num_steps - 1
        if (self.low < 0).any() or (self.high > last).any():
            raise ValueError(
                f"windows reach from step {self.low.min()} to {self.high.max()}, the "
                f"network has the steps 0 to {last}"
            )
        if self.silent_step not in (None, last):
            raise ValueError(
                f"silent_step={self.silent_step} must be {last}, the network's last"
            )
        for name in ("label", "target"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < network.num_classes:
                raise ValueError(
                    f"{name}={value} must be one of the classes 0 to "
                    f"{network.num_classes - 1}"
                )

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


def _whole(name: str, steps: np.ndarray) -> np.ndarray:
    array = np.asarray(steps)
    if array.dtype.kind not in "iu" and (array % 1 != 0).any():
        raise ValueError(f"{name} holds {array[array % 1 != 0][0]}, which is no step")
    return array.astype(np.int64)


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
    """Returns the question whether a decision stands in an L-infinity ball.

    Args:
      spike_steps: `[D]` the input.
      label: the class whose decision must stand.
      radius: every input moves by at most so many steps.
      num_steps: `T`; steps stay in `0 .. T-1`.

    Raises:
      ValueError: a negative radius, or spike steps outside `0 .. T-1`.

    >>> query = linf_query(np.array([0, 2]), label=1, radius=1, num_steps=4)
    >>> query.low, query.high
    (array([0, 1]), array([1, 3]))
    """
    low, high = window_ball(spike_steps, radius, num_steps)
    return Query(spike_steps, low, high, label)


def l1_query(spike_steps: np.ndarray, label: int, radius: int, num_steps: int) -> Query:
    """Returns the question whether a decision stands in an L1 ball (arXiv 2408.10900).

    Arguments as of `linf_query`, but for `radius`: all inputs together move by at most
    so many steps.

    >>> query = l1_query(np.array([1, 2]), label=1, radius=2, num_steps=8)
    >>> query.admits(np.array([2, 3])), query.admits(np.array([3, 3]))
    (True, False)
    """
    low, high = window_ball(spike_steps, radius, num_steps)
    return Query(spike_steps, low, high, label, max_total_shift=radius)


def l0_query(spike_steps: np.ndarray, label: int, radius: int, num_steps: int) -> Query:
    """Returns the question whether a decision stands in an L0 ball.

    Arguments as of `linf_query`, but for `radius`: at most so many inputs move, and
    they may move to any step.

    >>> query = l0_query(np.array([1, 2]), label=1, radius=1, num_steps=8)
    >>> query.admits(np.array([7, 2])), query.admits(np.array([2, 3]))
    (True, False)
    """
    low, high = window_ball(spike_steps, num_steps, num_steps)
    return Query(spike_steps, low, high, label, max_changed=radius)
