"""From many queries to verdicts: cheap and batched first, complete last.

Each stage sees only what is left and says that it was the one. Samples travel through
the batched stages together; what they leave goes to the solvers, one process each.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat import backends, intervals, replay
from jaxsnn.sat.portfolio import MakePool, Portfolio
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.solve import solve_each
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.sat.workers import Pool
from jaxsnn.verify import attack, bounds, general, quotient

# The largest total shift whose knapsacks are worth compiling.
_MAX_COMPILED_BUDGET = 8

STAGES = (Stage.BOUNDS, Stage.ATTACK, Stage.SOLVE)


@dataclasses.dataclass(frozen=True)
class CascadeConfig:
    """What runs, and for how long.

    Attributes:
      stages: the stages after the clean run, in the order in which they run.
      backends: solvers of the last stage; several take turns.
      seconds: wall-clock limit of the last stage for each query.
      workers: processes of the last stage, killed when they overrun; 0 solves in
        this process, where nothing can.
      memory_bytes: address space of each such process, None for no limit.
      make_pool: where these processes are, `workers.Pool` for this machine.
      batch_size: samples in one batch of the accelerated stages.
      effort: of the attack.
      search: of the search that stands for it where inputs may fail or something else
        than robustness is required.
    """

    stages: tuple[Stage, ...] = STAGES
    backends: tuple[str, ...] = ()
    seconds: float = 60.0
    workers: int = 0
    memory_bytes: int | None = None
    make_pool: MakePool = Pool
    batch_size: int = 16
    effort: attack.AttackConfig = attack.DEFAULT_CONFIG
    search: general.SearchConfig = general.DEFAULT_CONFIG

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds={self.seconds} must be positive")
        if self.workers < 0 or self.batch_size < 1:
            raise ValueError(
                f"workers={self.workers} must not be negative and "
                f"batch_size={self.batch_size} must be at least 1"
            )
        if not self.backends:
            object.__setattr__(self, "backends", backends.portfolio())


class Decision(NamedTuple):
    """The result of one query of one sample."""

    sample: int  # position in the batch of samples
    query: int  # position among the sample's nested queries
    result: Result


def verify(
    network: IntegerNetwork,
    samples: Sequence[Sequence[Query]],
    config: CascadeConfig,
    key: jax.Array,
) -> Iterator[Decision]:
    """Decides nested queries for many samples; yields each as it is decided.

    Args:
      network: the network.
      samples: for each sample its nested queries, the narrowest first; the k-th query
        of every sample has the same budgets.
      config: stages, solvers and limits.
      key: random key of the attack.

    Yields:
      Exactly one decision for every query, samples in any order.

    Guarantees:
      `ROBUST` is a proof by intervals or by a complete solver; `FALSIFIED` holds a
      counterexample that the reference simulator confirmed.

    Raises:
      ValueError: samples with different numbers of queries or different budgets.
    """
    engine: general.GeneralStages | _Engine
    if any(general.is_general(query) for queries in samples for query in queries):
        engine = general.GeneralStages(network, config.stages, config.search)
    else:
        engine = _Engine(network, config, _limits(samples))
    with _Solvers(network, config) as solvers:
        for start in range(0, len(samples), config.batch_size):
            batch = samples[start : start + config.batch_size]
            batch_key, key = jax.random.split(key)
            results = engine.run(batch, batch_key)
            for offset, found in enumerate(results):
                sample = start + offset
                left = [k for k, result in found.items() if result.stage is None]
                for index, result in found.items():
                    if index not in left:
                        yield Decision(sample, index, result)
                if left and Stage.SOLVE in config.stages:
                    solvers.submit(sample, samples[sample], left, found)
                else:
                    for index in left:
                        yield Decision(sample, index, found[index])
            yield from solvers.finished()
        yield from solvers.finished(wait=True)


def _limits(samples: Sequence[Sequence[Query]]) -> bounds.Limits:
    """The largest budgets, after checking that all samples have the same."""
    kinds = {
        tuple((query.max_total_shift, query.max_changed) for query in queries)
        for queries in samples
    }
    if len(kinds) > 1:
        raise ValueError("every sample must be asked the same kinds of query")
    shifts, changes = zip(*next(iter(kinds), ((None, None),)), strict=True)

    def largest(budgets: Sequence[int | None]) -> int | None:
        finite = [budget for budget in budgets if budget is not None]
        if finite and len(finite) < len(budgets):
            raise ValueError("a budget must be given for every radius or for none")
        return max(finite, default=None)

    return bounds.Limits(largest(shifts), largest(changes))


class _Engine:
    """The batched stages, compiled once for all radii and images of similar size."""

    def __init__(
        self, network: IntegerNetwork, config: CascadeConfig, limits: bounds.Limits
    ) -> None:
        self.network = network
        self.config = config
        self.limits = limits
        self._small_budgets = (limits.max_total_shift or 0) <= _MAX_COMPILED_BUDGET
        self.later_layers = simulate.device_weights(network)[1:]
        bound = functools.partial(self._run_batch, self._decide_by_bounds)
        search = functools.partial(self._run_batch, self._search)
        self._compiled = {Stage.BOUNDS: jax.jit(bound), Stage.ATTACK: jax.jit(search)}
        self._warm: set[tuple[Stage, int]] = set()

    def _run_batch(
        self,
        one: Callable[..., Any],
        first_layer: simulate.Weights,
        later_layers: tuple[simulate.Weights, ...],
        *arguments: Any,
    ) -> Any:
        def example(first_layer: simulate.Weights, *arguments: Any) -> Any:
            return one((first_layer, *later_layers), *arguments)

        return jax.vmap(example)(first_layer, *arguments)

    def _decide_by_bounds(
        self,
        weights: Sequence[simulate.Weights],
        ball: bounds.Ball,
        label: jax.Array,
        tolerance: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        del key
        levels = bounds.propagate(
            self.network.layers, weights, self.network.num_steps, ball, self.limits
        )
        return bounds.decided(levels[-1], label, tolerance)

    def _search(
        self,
        weights: Sequence[simulate.Weights],
        ball: bounds.Ball,
        label: jax.Array,
        tolerance: jax.Array,
        key: jax.Array,
    ) -> attack.Attack:
        return attack.search(
            self.network.layers,
            weights,
            self.network.num_steps,
            ball,
            label,
            tolerance,
            key,
            self.limits,
            self.config.effort,
        )

    def run(
        self, batch: Sequence[Sequence[Query]], key: jax.Array
    ) -> list[dict[int, Result]]:
        """Runs the batched stages; undecided queries get a result without a stage."""
        results = [_clean(self.network, queries) for queries in batch]
        for index in range(len(batch[0]) if batch else 0):
            stage_key, key = jax.random.split(key)
            for stage in self.config.stages:
                left = [
                    row
                    for row, found in enumerate(results)
                    if found[index].stage is None
                ]
                if left and stage is not Stage.SOLVE:
                    self._run_stage(stage, index, batch, left, results, stage_key)
        return results

    def _run_stage(
        self,
        stage: Stage,
        index: int,
        batch: Sequence[Sequence[Query]],
        left: Sequence[int],
        results: list[dict[int, Result]],
        key: jax.Array,
    ) -> None:
        """Runs one stage on the rows that are left and writes their results."""
        queries = [batch[row][index] for row in left]
        if stage is Stage.BOUNDS and not self._small_budgets:
            # The compiled knapsacks grow with the budget; NumPy's do not.
            for row, query in zip(left, queries, strict=True):
                started = time.monotonic()
                proved = intervals.proves(self.network, query)
                spent = results[row][index].seconds + time.monotonic() - started
                result = Result(Verdict.UNKNOWN, seconds=spent)
                if proved:
                    result = Result(Verdict.ROBUST, stage, seconds=spent)
                results[row][index] = result
            return
        outcome, kept, seconds = self._call(stage, queries, key)
        for position, row in enumerate(left):
            spent = results[row][index].seconds + seconds / len(left)
            query = queries[position]
            result = Result(Verdict.UNKNOWN, seconds=spent)
            if stage is Stage.BOUNDS and outcome[position]:
                result = Result(Verdict.ROBUST, stage, seconds=spent)
            elif stage is Stage.ATTACK and outcome.found[position]:
                steps = kept.restore(position, query, outcome.spike_steps[position])
                result = _replayed(self.network, query, steps, spent)
                # Wider balls hold the same counterexample.
                for wider in range(index + 1, len(batch[row])):
                    results[row][wider] = dataclasses.replace(result, seconds=0.0)
            results[row][index] = result

    def _call(
        self, stage: Stage, queries: Sequence[Query], key: jax.Array
    ) -> tuple[Any, quotient.Quotient, float]:
        """Runs a compiled stage on a padded batch; compilation is not counted."""
        size = self.config.batch_size
        padded = list(queries) + [queries[-1]] * (size - len(queries))
        kept = quotient.relevant_inputs(self.network, padded)

        def run() -> Any:
            # Gathering the arrays compiles small programs too.
            arguments = (
                quotient.first_layer(self.network, kept),
                self.later_layers,
                quotient.balls(self.network, padded, kept),
                jnp.asarray([query.label for query in padded], jnp.int32),
                jnp.asarray([_tolerance(self.network, q) for q in padded], jnp.int32),
                jax.random.split(key, size),
            )
            return jax.tree.map(np.asarray, self._compiled[stage](*arguments))

        shape = (stage, kept.inputs.shape[1])
        if shape not in self._warm:
            run()
            self._warm.add(shape)
        started = time.monotonic()
        return run(), kept, time.monotonic() - started


def _clean(network: IntegerNetwork, queries: Sequence[Query]) -> dict[int, Result]:
    """Queries whose decision does not even stand without a perturbation."""
    started = time.monotonic()
    steps = queries[0].spike_steps
    broken = replay.falsifies(network, queries[0], steps)
    results = {}
    for index in range(len(queries)):
        seconds = (time.monotonic() - started) / len(queries)
        if broken:
            results[index] = Result(
                Verdict.FALSIFIED, Stage.CLEAN, None, seconds, counterexample=steps
            )
        else:
            results[index] = Result(Verdict.UNKNOWN, seconds=seconds)
    return results


def _replayed(
    network: IntegerNetwork, query: Query, steps: np.ndarray, seconds: float
) -> Result:
    steps = np.asarray(steps, np.int64)
    if not replay.falsifies(network, query, steps):
        raise RuntimeError(
            "the attack reported an input that does not replay; "
            "please report this network and query"
        )
    return Result(Verdict.FALSIFIED, Stage.ATTACK, None, seconds, counterexample=steps)


def _tolerance(network: IntegerNetwork, query: Query) -> np.ndarray:
    """`Query.tolerance`, out of reach for classes that do not count."""
    tolerance = query.tolerance(network.num_classes)
    if query.target is not None:
        others = np.arange(network.num_classes) != query.target
        tolerance[others] = -2 * network.num_steps
    return tolerance


class _Solvers:
    """The complete stage in killable processes, or in this one."""

    def __init__(self, network: IntegerNetwork, config: CascadeConfig) -> None:
        self.network = network
        self.config = config
        self.portfolio = None
        if config.workers:
            self.portfolio = Portfolio(
                network,
                config.backends,
                config.seconds,
                config.workers,
                config.memory_bytes,
                make_pool=config.make_pool,
            )
        # For each sample the queries that were left, and the seconds spent on all.
        self.left: dict[int, tuple[list[int], dict[int, Result]]] = {}
        self.done: list[Decision] = []

    def __enter__(self) -> "_Solvers":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.portfolio is not None:
            self.portfolio.__exit__(*exception)

    def submit(
        self,
        sample: int,
        queries: Sequence[Query],
        left: list[int],
        found: dict[int, Result],
    ) -> None:
        """Begins to decide the queries `left` of a sample."""
        wanted = [queries[index] for index in left]
        self.left[sample] = (left, found)
        if self.portfolio is not None:
            self.portfolio.submit(sample, wanted)
            return
        results = solve_each(
            self.network, wanted, self.config.seconds, self.config.backends
        )
        for position, result in enumerate(results):
            self.done.append(self._decision(sample, position, result))

    def _decision(self, sample: int, position: int, result: Result) -> Decision:
        """A result, its time in the stages before included."""
        left, found = self.left[sample]
        index = left[position]
        seconds = result.seconds + found[index].seconds
        return Decision(sample, index, dataclasses.replace(result, seconds=seconds))

    def finished(self, wait: bool = False) -> Iterator[Decision]:
        """Yields what has been decided; with `wait` all that is pending."""
        done, self.done = self.done, []
        yield from done
        if self.portfolio is not None:
            for sample, position, result in self.portfolio.finished(wait):
                assert isinstance(sample, int)
                yield self._decision(sample, position, result)
