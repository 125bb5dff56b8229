"""What may happen to an input: limits that hold together, and failures beside them.

One value for every ball: L-infinity, L1, L0, a window for each input such as a pixel
ball, any conjunction of them, and inputs that fail.
"""

import dataclasses

import numpy as np

from jaxsnn.sat.query import Query
from jaxsnn.sat.radius import Family
from jaxsnn.sat.requirement import Requirement, Robust, Tie

Window = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Limits on the change of an input; None where there is no such limit.

    Attributes:
      max_shift: steps by which each input may move (L-infinity).
      max_total_shift: steps by which all together may move (L1).
      max_changed: number of inputs that may move (L0).
      max_dropped: number of inputs that may lose their spike, beside these limits.
      max_inserted: number of silent inputs that may spike at any step, likewise.

    Raises:
      ValueError: a negative limit.

    >>> limits = Perturbation(max_shift=2, max_changed=1)
    >>> query = limits.around(np.array([1, 5]), label=0, num_steps=8)
    >>> query.admits(np.array([1, 3])), query.admits(np.array([2, 3]))
    (True, False)
    """

    max_shift: int | None = None
    max_total_shift: int | None = None
    max_changed: int | None = None
    max_dropped: int = 0
    max_inserted: int = 0

    def __post_init__(self) -> None:
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None and limit < 0:
                raise ValueError(f"{name}={limit} must not be negative")

    def around(
        self,
        spike_steps: np.ndarray,
        label: int,
        num_steps: int,
        *,
        window: Window | None = None,
        tie: Tie = Tie.ADVERSARIAL,
        target: int | None = None,
        requires: Requirement | None = None,
    ) -> Query:
        """Returns the query about one input.

        Args:
          spike_steps: `[D]` the input.
          label: the class whose decision must stand.
          num_steps: `T`.
          window: further limits `(low, high)`, `[D]` each.
          tie: the reading of ties.
          target: the only wrong class, or None for any.
          requires: what must hold; robustness by default.

        Raises:
          ValueError: an input outside the window.
        """
        steps = np.asarray(spike_steps, np.int64)
        low, high = np.zeros_like(steps), np.full_like(steps, num_steps - 1)
        for reach in (self.max_shift, self.max_total_shift):
            if reach is not None:
                low, high = (
                    np.maximum(low, steps - reach),
                    np.minimum(high, steps + reach),
                )
        if window is not None:
            low, high = np.maximum(low, window[0]), np.minimum(high, window[1])
        fails = self.max_dropped > 0 or self.max_inserted > 0
        return Query(
            steps,
            low,
            high,
            label,
            max_total_shift=self.max_total_shift,
            max_changed=self.max_changed,
            tie=tie,
            target=target,
            max_dropped=self.max_dropped,
            max_inserted=self.max_inserted,
            silent_step=num_steps - 1 if fails else None,
            requires=Robust() if requires is None else requires,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Growing:
    """Balls of every radius: one limit grows, the others stay.

    Attributes:
      limits: those that stay.
      name: the limit of `Perturbation` that is the radius.
      window: see `Perturbation.around`, as are the rest.
    """

    limits: Perturbation
    name: str
    window: Window | None = None
    target: int | None = None
    requires: Requirement = dataclasses.field(default_factory=Robust)

    def __call__(
        self, spike_steps: np.ndarray, label: int, radius: int, num_steps: int
    ) -> Query:
        """Returns the query of one radius."""
        limits = dataclasses.replace(self.limits, **{self.name: radius})
        return limits.around(
            spike_steps,
            label,
            num_steps,
            window=self.window,
            target=self.target,
            requires=self.requires,
        )

    def family(
        self,
        spike_steps: np.ndarray,
        label: int,
        num_steps: int,
        tie: Tie = Tie.ADVERSARIAL,
    ) -> Family:
        """Returns the balls around one input, for `smallest_breaking_radius`.

        >>> balls = Growing(Perturbation(max_shift=1), "max_dropped")
        >>> balls.family(np.array([0, 3, 7]), label=0, num_steps=8).largest
        2
        """
        steps = np.asarray(spike_steps, np.int64)
        reach = np.maximum(steps, num_steps - 1 - steps)
        silent = int((steps == num_steps - 1).sum())
        largest = {
            "max_shift": int(reach.max(initial=0)),
            "max_total_shift": int(reach.sum()),
            "max_changed": len(steps),
            "max_dropped": len(steps) - silent,
            "max_inserted": silent,
        }[self.name]
        return Family(steps, label, num_steps, self, largest, tie)
