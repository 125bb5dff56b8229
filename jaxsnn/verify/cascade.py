"""From many queries to verdicts: cheap and batched first, complete last.

Each stage sees only what is left and says that it was the one. Samples travel through
the batched stages together; what they leave goes to the solvers, one process each.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from jaxsnn.sat.portfolio import MakePool, Portfolio
from jaxsnn.sat.query import Query, Result, Stage
from jaxsnn.sat.solve import NAMES, portfolio, solve_each
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.sat.workers import Pool
from jaxsnn.verify import attack, bounds, general
from jaxsnn.verify.batched import BatchedStages

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
            object.__setattr__(self, "backends", portfolio())
        if unknown := [name for name in self.backends if name not in NAMES]:
            known = ", ".join(NAMES)
            raise ValueError(f"backends {unknown} are not among {known}")


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
    on_compiled: Callable[[Stage, float], None] = lambda stage, seconds: None,
) -> Iterator[Decision]:
    """Decides nested queries for many samples; yields each as it is decided.

    Args:
      network: the network.
      samples: for each sample its nested queries, the narrowest first; the k-th query
        of every sample has the same budgets.
      config: stages, solvers and limits.
      key: random key of the attack.
      on_compiled: told of each program that was compiled, and for how many seconds;
        these are part of no result.

    Yields:
      Exactly one decision for every query, samples in any order.

    Guarantees:
      `ROBUST` is a proof by intervals or by a complete solver; `FALSIFIED` holds a
      counterexample that the reference simulator confirmed.

    Raises:
      ValueError: samples with different numbers of queries or different budgets, or
        queries that are not about this network.
    """
    for queries in samples:
        for query in queries:
            query.check_fits(network)
    engine: general.GeneralStages | BatchedStages
    if any(general.is_general(query) for queries in samples for query in queries):
        engine = general.GeneralStages(
            network, config.stages, config.search, on_compiled
        )
    else:
        engine = BatchedStages(
            network,
            config.stages,
            _limits(samples),
            samples,
            config.effort,
            on_compiled,
            # No longer than the last stage may take.
            patience=config.seconds,
        )
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
