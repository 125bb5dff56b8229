"""The stages before the solvers for every kind of query.

Where inputs may fail, or something else than robustness is required, intervals come
from NumPy and counterexamples from a random search in the accelerated simulator: less
clever than `attack`, but it asks nothing of a query than to judge output spikes.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat import intervals, replay
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.requirement import Alike, Latency, Monotone, Robust, Tie
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.verify import points


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How hard to search.

    Attributes:
      num_points: inputs simulated together.
      num_rounds: generations; each but the first varies the best of the last.
      elite: one in so many of a generation is varied further.
    """

    num_points: int = 128
    num_rounds: int = 6
    elite: int = 8

    def __post_init__(self) -> None:
        if min(self.num_points, self.num_rounds, self.elite) < 1:
            raise ValueError(
                f"num_points={self.num_points}, num_rounds={self.num_rounds} and "
                f"elite={self.elite} must be at least 1"
            )


DEFAULT_CONFIG = SearchConfig()

Simulate = Callable[[np.ndarray], np.ndarray]  # [P, D] inputs to [P, C] output steps


def is_general(query: Query) -> bool:
    """Whether a query is more than robustness of inputs that do not fail."""
    plain = isinstance(query.requires, Robust)
    return not plain or query.max_dropped > 0 or query.max_inserted > 0


class GeneralStages:
    """Intervals and search for nested queries of any kind."""

    def __init__(
        self,
        network: IntegerNetwork,
        stages: Sequence[Stage],
        config: SearchConfig = DEFAULT_CONFIG,
        on_compiled: Callable[[Stage, float], None] = lambda stage, seconds: None,
    ) -> None:
        """Nothing is compiled yet.

        Args:
          network: the network.
          stages: what runs, in this order.
          config: of the search.
          on_compiled: told of each program that was compiled, and for how many
            seconds; these are part of no result.
        """
        self._network = network
        self._stages = stages
        self._config = config
        self._on_compiled = on_compiled
        self._simulators: dict[int, tuple[IntegerNetwork, Simulate]] = {}

    def run(
        self, batch: Sequence[Sequence[Query]], key: jax.Array
    ) -> list[dict[int, Result]]:
        """Runs the stages; undecided queries get a result without a stage."""
        if batch and Stage.ATTACK in self._stages:
            self._compile(batch[0][0])
        seeds = jax.random.bits(key, (len(batch),)).tolist()
        return [
            self._sample(queries, np.random.default_rng(seed))
            for queries, seed in zip(batch, seeds, strict=True)
        ]

    def _sample(
        self, queries: Sequence[Query], rng: np.random.Generator
    ) -> dict[int, Result]:
        results: dict[int, Result] = {}
        for index, query in enumerate(queries):
            started = time.monotonic()
            result = self._decide(query, rng)
            seconds = time.monotonic() - started
            results[index] = dataclasses.replace(result, seconds=seconds)
            if result.verdict is Verdict.FALSIFIED:
                # Wider balls hold the same counterexample.
                wider = range(index + 1, len(queries))
                return results | dict.fromkeys(wider, result)
        return results

    def _decide(self, query: Query, rng: np.random.Generator) -> Result:
        clean = query.spike_steps
        if replay.falsifies(self._network, query, clean):
            return Result(Verdict.FALSIFIED, Stage.CLEAN, counterexample=clean)
        for stage in self._stages:
            if stage is Stage.BOUNDS and intervals.proves(self._network, query):
                return Result(Verdict.ROBUST, stage)
            if stage is Stage.ATTACK:
                found = self._search(query, rng)
                if found is not None:
                    return Result(Verdict.FALSIFIED, stage, counterexample=found)
        return Result(Verdict.UNKNOWN)

    def _search(self, query: Query, rng: np.random.Generator) -> np.ndarray | None:
        """Returns a replayed counterexample, or None."""
        config = self._config
        population = points.random_points(query, rng, config.num_points)
        best = np.arange(config.num_points)
        for generation in range(config.num_rounds):
            if generation > 0:
                fresh = points.random_points(query, rng, config.num_points)
                mixed = rng.random(fresh.shape) < rng.choice(
                    [0.02, 0.1, 0.5], (config.num_points, 1)
                )
                parents = rng.choice(best, config.num_points)
                wanted = np.where(mixed, fresh, population[parents])
                population = points.project(query, rng, wanted)
            tried, slack = self._try(query, rng, population)
            order = np.argsort(slack, kind="stable")
            best = order[: max(1, config.num_points // config.elite)]
            if slack[order[0]] < 0:
                found = tried[order[0]]
                if not replay.falsifies(self._network, query, found):
                    raise RuntimeError(
                        "the search reported an input that does not replay; please "
                        "report this network and query"
                    )
                return found
        return None

    def _try(
        self, query: Query, rng: np.random.Generator, population: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what was tried, and by how much each missed: negative is found."""
        outputs = self._outputs(self._network, population)
        match query.requires:
            case Latency(max_step, of_label):
                times = outputs[:, query.label] if of_label else outputs.min(axis=1)
                return population, max_step - times
            case Alike(other):
                return population, _apart(
                    query.tie, outputs, self._outputs(other, population)
                )
            case Monotone(moved, output):
                return self._try_pairs(query, rng, population, outputs, moved, output)
        tolerance = query.tolerance(outputs.shape[1])
        lead = outputs - outputs[:, [query.label]] - tolerance
        counts = np.arange(outputs.shape[1]) != query.label
        if query.target is not None:
            counts &= np.arange(outputs.shape[1]) == query.target
        return population, np.where(counts, lead, np.iinfo(np.int64).max).min(axis=1)

    def _try_pairs(
        self,
        query: Query,
        rng: np.random.Generator,
        population: np.ndarray,
        outputs: np.ndarray,
        moved: int,
        output: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        sooner = population.copy()
        earliest, then = int(query.earliest[moved]), population[:, moved]
        sooner[:, moved] = rng.integers(earliest, np.maximum(then, earliest + 1))
        delayed = self._outputs(self._network, sooner)[:, output] - outputs[:, output]
        pairs = np.stack([population, sooner], axis=1)
        admitted = [
            now[moved] < then[moved] and query.admits(now)
            for then, now in zip(population, sooner, strict=True)
        ]
        return pairs, np.where(admitted, -delayed, np.iinfo(np.int64).max)

    def _compile(self, query: Query) -> None:
        """Compiles before the clock of any query runs."""
        inputs = np.tile(query.spike_steps, (self._config.num_points, 1))
        networks = [self._network]
        if isinstance(query.requires, Alike):
            networks.append(query.requires.other)
        for network in networks:
            if id(network) not in self._simulators:
                started = time.monotonic()
                self._outputs(network, inputs)
                self._on_compiled(Stage.ATTACK, time.monotonic() - started)

    def _outputs(self, network: IntegerNetwork, inputs: np.ndarray) -> np.ndarray:
        if id(network) not in self._simulators:
            compiled = jax.jit(lambda steps: simulate.output_steps(network, steps))

            def run(steps: np.ndarray) -> np.ndarray:
                return np.asarray(compiled(jnp.asarray(steps, jnp.int32)), np.int64)

            # Holding the network keeps its identity from being taken by another.
            self._simulators[id(network)] = (network, run)
        return self._simulators[id(network)][1](inputs)


def _apart(tie: Tie, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """How far two networks are from deciding differently: `[P]`, negative if they do.

    The smaller of the leads of the two winners.
    """
    winners = [steps == steps.min(axis=1, keepdims=True) for steps in (ours, theirs)]
    differ = {
        Tie.ADVERSARIAL: (winners[0] != winners[1]).any(axis=1),
        Tie.ARGMIN: winners[0].argmax(axis=1) != winners[1].argmax(axis=1),
        Tie.S4NN: ~(winners[0] & winners[1]).any(axis=1),
    }[tie]
    leads = [
        np.diff(np.partition(steps, 1, axis=1)[:, :2], axis=1)[:, 0]
        for steps in (ours, theirs)
        if steps.shape[1] > 1
    ]
    lead = np.min(leads, axis=0) if leads else np.zeros(len(ours), np.int64)
    return np.where(differ, -1, lead)
