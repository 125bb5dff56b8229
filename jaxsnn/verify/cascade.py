"""From many queries to verdicts: cheap and batched first, complete last.

Each stage sees only what is left and says that it was the one. Samples travel through
the batched stages together; what they leave goes to the solvers, one process each.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat import backends, replay
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.solve import solve
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.verify import attack, bounds

STAGES = (Stage.BOUNDS, Stage.ATTACK, Stage.SOLVE)


@dataclasses.dataclass(frozen=True)
class CascadeConfig:
    """What runs, and for how long.

    Attributes:
      stages: the stages after the clean run, in the order in which they run.
      backends: solvers of the last stage; several take turns.
      seconds: wall-clock limit of the last stage for each query.
      workers: processes of the last stage; 1 solves in this process.
      batch_size: samples in one batch of the accelerated stages.
      effort: of the attack.
    """

    stages: tuple[Stage, ...] = STAGES
    backends: tuple[str, ...] = ()
    seconds: float = 60.0
    workers: int = 1
    batch_size: int = 16
    effort: attack.AttackConfig = attack.DEFAULT_CONFIG

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds={self.seconds} must be positive")
        if self.workers < 1 or self.batch_size < 1:
            raise ValueError(
                f"workers={self.workers} and batch_size={self.batch_size} "
                "must be at least 1"
            )
        if not self.backends:
            object.__setattr__(self, "backends", backends.installed())


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
    """The batched stages, compiled once for all radii."""

    def __init__(
        self, network: IntegerNetwork, config: CascadeConfig, limits: bounds.Limits
    ) -> None:
        self.network = network
        self.config = config
        self.weights = simulate.device_weights(network)
        self.limits = limits
        self._bounds = jax.jit(self._decide_by_bounds)
        self._attack = jax.jit(self._search)
        self._warm: set[Callable[..., Any]] = set()

    def _decide_by_bounds(
        self, weights: Any, ball: bounds.Ball, label: Any, tolerance: Any
    ) -> jax.Array:
        def one(ball: bounds.Ball, label: Any, tolerance: Any) -> jax.Array:
            levels = bounds.propagate(
                self.network.layers, weights, self.network.num_steps, ball, self.limits
            )
            return bounds.decided(levels[-1], label, tolerance)

        return jax.vmap(one)(ball, label, tolerance)

    def _search(
        self,
        weights: Any,
        ball: bounds.Ball,
        label: Any,
        tolerance: Any,
        keys: jax.Array,
    ) -> attack.Attack:
        one = functools.partial(
            attack.search,
            self.network.layers,
            weights,
            self.network.num_steps,
            limits=self.limits,
            config=self.config.effort,
        )
        return jax.vmap(one)(ball, label, tolerance, keys)

    def run(
        self, batch: Sequence[Sequence[Query]], key: jax.Array
    ) -> list[dict[int, Result]]:
        """Runs the batched stages; undecided queries get a result without a stage."""
        results = [_clean(self.network, queries) for queries in batch]
        for index in range(len(batch[0]) if batch else 0):
            queries = [sample[index] for sample in batch]
            arguments = _stack(queries, self.config.batch_size, self.network)
            index_key, key = jax.random.split(key)
            keys = jax.random.split(index_key, self.config.batch_size)
            for stage in self.config.stages:
                left = [
                    b for b, found in enumerate(results) if found[index].stage is None
                ]
                if not left or stage is Stage.SOLVE:
                    continue
                if stage is Stage.BOUNDS:
                    decided, seconds = self._timed(self._bounds, *arguments)
                else:
                    attacks, seconds = self._timed(self._attack, *arguments, keys)
                share = seconds / len(batch)
                for b in left:
                    spent = results[b][index].seconds + share
                    verdict = Result(Verdict.UNKNOWN, seconds=spent)
                    if stage is Stage.BOUNDS and decided[b]:
                        verdict = Result(Verdict.ROBUST, stage, seconds=spent)
                    elif stage is Stage.ATTACK and attacks.found[b]:
                        verdict = _replayed(
                            self.network, queries[b], attacks.spike_steps[b], spent
                        )
                        # Wider balls hold the same counterexample.
                        for wider in range(index + 1, len(batch[b])):
                            results[b][wider] = dataclasses.replace(
                                verdict, seconds=0.0
                            )
                    results[b][index] = verdict
        return results

    def _timed(
        self, function: Callable[..., Any], *arguments: Any
    ) -> tuple[Any, float]:
        """Calls a compiled function; the first call's compilation is not counted."""
        if function not in self._warm:
            jax.block_until_ready(function(self.weights, *arguments))
            self._warm.add(function)
        started = time.monotonic()
        output = jax.block_until_ready(function(self.weights, *arguments))
        return jax.tree.map(np.asarray, output), time.monotonic() - started


def _clean(network: IntegerNetwork, queries: Sequence[Query]) -> dict[int, Result]:
    """Queries whose decision does not even stand without a perturbation."""
    started = time.monotonic()
    steps = queries[0].spike_steps
    outputs = replay.spike_steps(network, steps)[-1]
    results = {}
    for index, query in enumerate(queries):
        seconds = (time.monotonic() - started) / len(queries)
        if query.violated_by(outputs):
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
    outputs = replay.spike_steps(network, steps)[-1]
    if not (query.admits(steps) and query.violated_by(outputs)):
        raise RuntimeError(
            "the attack reported an input that does not replay; "
            "please report this network and query"
        )
    return Result(Verdict.FALSIFIED, Stage.ATTACK, None, seconds, counterexample=steps)


def _stack(
    queries: Sequence[Query], batch_size: int, network: IntegerNetwork
) -> tuple[bounds.Ball, jax.Array, jax.Array]:
    """Queries as arrays, padded to the batch size by repeating the last."""
    padded = list(queries) + [queries[-1]] * (batch_size - len(queries))

    def column(values: Sequence[Any]) -> jax.Array:
        return jnp.asarray(np.array(values), jnp.int32)

    ball = bounds.Ball(
        column([query.spike_steps for query in padded]),
        column([query.low for query in padded]),
        column([query.high for query in padded]),
        column([query.max_total_shift or 0 for query in padded]),
        column([query.max_changed or 0 for query in padded]),
    )
    tolerances = []
    for query in padded:
        tolerance = query.tolerance(network.num_classes)
        if query.target is not None:  # no other class can beat the label
            others = np.arange(network.num_classes) != query.target
            tolerance[others] = -2 * network.num_steps
        tolerances.append(tolerance)
    return ball, column([query.label for query in padded]), column(tolerances)


class _Solvers:
    """The complete stage in processes of their own, or in this one."""

    def __init__(self, network: IntegerNetwork, config: CascadeConfig) -> None:
        self.network = network
        self.config = config
        self.pool: concurrent.futures.ProcessPoolExecutor | None = None
        self.pending: dict[concurrent.futures.Future, tuple] = {}
        self.done: list[Decision] = []

    def __enter__(self) -> "_Solvers":
        if self.config.workers > 1:
            # Forking a process that runs jax may deadlock.
            self.pool = concurrent.futures.ProcessPoolExecutor(
                self.config.workers, multiprocessing.get_context("spawn")
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def submit(
        self,
        sample: int,
        queries: Sequence[Query],
        left: list[int],
        found: dict[int, Result],
    ) -> None:
        wanted = [queries[index] for index in left]
        work = (self.network, wanted, self.config.seconds, self.config.backends)
        if self.pool is None:
            self._record(sample, left, found, solve(*work))
        else:
            self.pending[self.pool.submit(solve, *work)] = (sample, left, found)

    def _record(
        self,
        sample: int,
        left: list[int],
        found: dict[int, Result],
        results: list[Result],
    ) -> None:
        for index, result in zip(left, results, strict=True):
            seconds = result.seconds + found[index].seconds
            result = dataclasses.replace(result, seconds=seconds)
            self.done.append(Decision(sample, index, result))

    def finished(self, wait: bool = False) -> Iterator[Decision]:
        """Yields what has been decided; with `wait` all that is pending."""
        while True:
            ready = [future for future in self.pending if future.done()]
            for future in ready:
                sample, left, found = self.pending.pop(future)
                self._record(sample, left, found, future.result())
            yield from self.done
            self.done.clear()
            if not (wait and self.pending):
                return
            concurrent.futures.wait(
                self.pending, return_when=concurrent.futures.FIRST_COMPLETED
            )
