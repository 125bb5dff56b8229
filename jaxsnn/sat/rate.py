"""Rate-coded networks of leaky integrate-and-fire neurons, exact: the baseline.

The network that Banerjee, Ghosh, Banerjee and Mohalik verified by SMT (VMCAI 2023), as
snnTorch computes it: inputs are spike trains, a neuron `n` follows

    U_n(t) = beta U_n(t - 1) + sum of w[n, i] x_i(t) - theta_n y_n(t - 1)
    y_n(t) = U_n(t) > theta_n

(reset by subtraction, one step after the spike; strict comparison), layers pass spikes
on within a step, and the class is the output that spikes most often, the lowest index
first. Here weights and thresholds are integers and the leak is a fraction
`beta = numerator / 2^bits`, so that `2^(bits t) U_n(t)` is an integer: nothing rounds.

Neurons may spike many times, so times of spikes do not describe them. But with this
reset potentials are linear in the spikes `x_i(tau)` and in the neuron's own earlier
ones:

    U_n(t) = sum over tau <= t of beta^(t - tau) sum of w[n, i] x_i(tau)
             - theta_n sum over tau < t of beta^(t - 1 - tau) y_n(tau)

(`jaxsnn.sat.rate_encode`).
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxsnn.sat.requirement import Tie

# Potentials, scaled to integers, stay below this: int32 on accelerators and in solvers.
MAX_POTENTIAL = 2**31


class Leak(NamedTuple):
    """The share `numerator / 2^bits` of a potential that is left after a step.

    Attributes:
      numerator: from 0 (nothing is left) to `2^bits` (no leak).
      bits: 0 or more.
    """

    numerator: int
    bits: int

    @property
    def share(self) -> float:
        """The share as a float, which is exact."""
        return self.numerator / 2**self.bits


@dataclasses.dataclass(frozen=True, eq=False)
class LIF:
    """A fully connected layer of leaky integrate-and-fire neurons.

    Attributes:
      weights: `[N, D]` integers.
      thresholds: `[N]` positive integers.
    """

    weights: np.ndarray
    thresholds: np.ndarray

    def __post_init__(self) -> None:
        weights, thresholds = np.asarray(self.weights), np.asarray(self.thresholds)
        if weights.ndim != 2 or thresholds.shape != weights.shape[:1]:
            raise ValueError(
                f"weights {weights.shape} and thresholds {thresholds.shape} must be "
                "[N, D] and [N]"
            )
        if weights.dtype.kind not in "iu" or thresholds.dtype.kind not in "iu":
            raise ValueError(
                f"weights of type {weights.dtype} and thresholds of type "
                f"{thresholds.dtype}; exact networks hold integers"
            )
        if thresholds.min(initial=1) < 1:
            raise ValueError(
                f"thresholds from {thresholds.min()}; with reset by subtraction they "
                "must be positive"
            )
        object.__setattr__(self, "weights", weights.astype(np.int64))
        object.__setattr__(self, "thresholds", thresholds.astype(np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class RateNetwork:
    """A feed-forward network of such layers.

    Attributes:
      layers: from the inputs to the outputs.
      num_steps: `T`, the length of spike trains.
      leak: of every neuron.

    Raises:
      ValueError: widths that do not fit, a leak outside `[0, 1]`, or a neuron whose
        potential, as an integer, could leave 32 bits (named).

    >>> layer = LIF(np.array([[2, -1], [1, 1]]), np.array([2, 1]))
    >>> RateNetwork((layer,), num_steps=4, leak=Leak(3, 2)).num_inputs
    2
    """

    layers: tuple[LIF, ...]
    num_steps: int
    leak: Leak

    def __post_init__(self) -> None:
        if not self.layers or self.num_steps < 1:
            raise ValueError("a network needs at least one layer and one step")
        if self.leak.bits < 0 or not 0 <= self.leak.numerator <= 2**self.leak.bits:
            raise ValueError(f"leak={self.leak} must be a fraction in [0, 1]")
        # What every input at every step, or its absence, could add up to.
        largest = sum(abs(int(factor)) for factor in self.factors(self.num_steps - 1))
        for depth, layer in enumerate(self.layers):
            if depth and layer.weights.shape[1] != len(self.layers[depth - 1].weights):
                raise ValueError(
                    f"layer {depth} takes {layer.weights.shape[1]} inputs, but layer "
                    f"{depth - 1} has {len(self.layers[depth - 1].weights)} neurons"
                )
            load = np.abs(layer.weights).sum(axis=1) + layer.thresholds
            if int(load.max(initial=0)) * largest >= MAX_POTENTIAL:
                raise ValueError(
                    f"layer {depth}, neuron {int(load.argmax())}: its potential could "
                    f"reach {int(load.max()) * largest}, beyond 2^31; use fewer steps, "
                    "a leak of fewer bits or smaller weights"
                )

    @property
    def num_inputs(self) -> int:
        """Number of input neurons."""
        return self.layers[0].weights.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of output neurons."""
        return len(self.layers[-1].weights)

    def factors(self, step: int) -> list[int]:
        """Returns what a weight counts in the potential of a step, by its spike's step.

        `numerator^(t - tau) 2^(bits tau)` for `tau = 0 .. t`: the integers in which
        `2^(bits t) U(t)` is linear. A threshold counts at `t` as at `tau = t`.

        >>> RateNetwork((LIF(np.ones((1, 1), int), np.ones(1, int)),), 3,
        ...             Leak(3, 2)).factors(2)
        [9, 12, 16]
        """
        numerator, bits = self.leak
        return [
            numerator ** (step - tau) * 2 ** (bits * tau) for tau in range(step + 1)
        ]


def potentials(network: RateNetwork, layer: LIF, spikes: np.ndarray) -> np.ndarray:
    """Returns the potentials of a layer, by the recurrence and without shortcuts.

    Args:
      network: for its leak.
      layer: one of its layers.
      spikes: `[T, D]` booleans, the spikes of its inputs.

    Returns:
      `[T, N]` int64: `2^(bits t) U(t)`.
    """
    numerator, bits = network.leak
    potential = np.zeros(len(layer.weights), np.int64)
    spiked = np.zeros(len(layer.weights), np.int64)
    rows = []
    for step, row in enumerate(np.asarray(spikes).astype(np.int64)):
        unit = 2 ** (bits * step)
        current = layer.weights @ row - layer.thresholds * spiked
        potential = numerator * potential + unit * current
        spiked = (potential > unit * layer.thresholds).astype(np.int64)
        rows.append(potential)
    return np.array(rows)


def spike_trains(network: RateNetwork, inputs: np.ndarray) -> list[np.ndarray]:
    """Returns the spikes of every level, the inputs first: the reference simulator.

    Args:
      network: the network.
      inputs: `[T, D]` booleans.

    Returns:
      A list of `[T, N_k]` booleans; the last are the outputs.

    Raises:
      ValueError: inputs of another shape or type.

    >>> layer = LIF(np.array([[2]]), np.array([2]))
    >>> network = RateNetwork((layer,), num_steps=4, leak=Leak(1, 1))
    >>> spike_trains(network, np.ones((4, 1), bool))[-1][:, 0].astype(int).tolist()
    [0, 1, 0, 1]
    """
    spikes = np.asarray(inputs)
    if spikes.shape != (network.num_steps, network.num_inputs) or spikes.dtype != bool:
        raise ValueError(
            f"inputs of type {spikes.dtype} and shape {spikes.shape}; the network "
            f"takes booleans ({network.num_steps}, {network.num_inputs})"
        )
    levels = [spikes]
    units = 2 ** (network.leak.bits * np.arange(network.num_steps, dtype=np.int64))
    for layer in network.layers:
        scaled = potentials(network, layer, levels[-1])
        levels.append(scaled > units[:, None] * layer.thresholds)
    return levels


def prediction(output_spikes: np.ndarray) -> int:
    """Returns the class: the output that spikes most often, the lowest index first."""
    return int(np.asarray(output_spikes).sum(axis=0).argmax())


@dataclasses.dataclass(frozen=True, eq=False)
class RateQuery:
    """Does the decision stand when spikes of the inputs are added or removed?

    Attributes:
      spikes: `[T, D]` booleans, the unperturbed input.
      label: the class whose decision must stand (the prediction for `spikes`).
      max_flips: spikes added or removed, all together.
      tie: the reading of ties.
    """

    spikes: np.ndarray
    label: int
    max_flips: int
    tie: Tie = Tie.ADVERSARIAL

    def __post_init__(self) -> None:
        spikes = np.asarray(self.spikes)
        if spikes.ndim != 2 or spikes.dtype != bool:
            raise ValueError(
                f"spikes of type {spikes.dtype} and shape {spikes.shape} must be "
                "booleans [T, D]"
            )
        if self.max_flips < 0:
            raise ValueError(f"max_flips={self.max_flips} must not be negative")
        object.__setattr__(self, "spikes", spikes)

    def admits(self, spikes: np.ndarray) -> bool:
        """Whether a perturbed input lies in the ball."""
        return bool((np.asarray(spikes) != self.spikes).sum() <= self.max_flips)

    def violated_by(self, output_spikes: np.ndarray) -> bool:
        """Whether these `[T, C]` output spikes break the decision."""
        counts = np.asarray(output_spikes).sum(axis=0)
        beats = counts - counts[self.label] >= self.lead(len(counts))
        beats[self.label] = False
        return bool(beats.any())

    def lead(self, num_classes: int) -> np.ndarray:
        """Returns `[C]`: by how many spikes a class must lead the label to beat it."""
        if self.tie is Tie.ADVERSARIAL:
            return np.zeros(num_classes, np.int64)
        if self.tie is Tie.ARGMIN:
            return (np.arange(num_classes) > self.label).astype(np.int64)
        return np.ones(num_classes, np.int64)
