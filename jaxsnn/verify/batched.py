"""The stages before the solvers, for the robustness of many samples.

Intervals run in NumPy until a run has spent on them what their compilation would cost,
then on the accelerator, with the same results; L1 balls that they leave are split, as
far as a second goes. The attack runs only where solvers would need longer than it takes
to compile.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat import intervals, replay, split
from jaxsnn.sat.query import Query, Result, Stage, Verdict
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.verify import attack, bounds, parts, quotient

# About what the programs of one stage take to compile.
COMPILATION_SECONDS = 5.0

# Undecided spikes of hidden neurons that solvers get through in that time, roughly.
# Queries with fewer than the second number are theirs even if all is compiled.
SPIKES_IN_COMPILATION = 3000
FEW_SPIKES = 64


# Within windows alone the attack begins anew, from other starts, once for each so many
# undecided spikes a step of time: solvers take the longer, and falsified balls have the
# most of them. Queries of the published networks that are robust have up to 12 (64
# steps) or 47 (32 steps), those that are falsified 20 to 180.
SPIKES_PER_ATTACK = 16
MAX_ATTACKS = 8


# The largest total shift whose knapsacks are worth compiling: they grow with the
# budget, those of NumPy do not.
MAX_COMPILED_BUDGET = 8


# Synapses times steps that splits of a ball go through in about a second.
SPLIT_WORK = 1_000_000_000

# Parts that are bounded at a time on an accelerator, and in all.
ROWS_OF_PARTS = 256
MAX_BATCHED_PARTS = 16_384


class _Bounded(NamedTuple):
    """What intervals say of some queries."""

    proved: np.ndarray  # [Q] bool
    undecided: np.ndarray  # [Q] int64, neurons times steps at which they may spike


class BatchedStages:
    """Bounds and attack, compiled when they are worth it and at most once."""

    def __init__(
        self,
        network: IntegerNetwork,
        stages: Sequence[Stage],
        limits: bounds.Limits,
        samples: Sequence[Sequence[Query]],
        effort: attack.AttackConfig,
        on_compiled: Callable[[Stage, float], None],
        patience: float,
    ) -> None:
        """Nothing is compiled yet.

        Args:
          network: the network.
          stages: what runs, in this order.
          limits: the largest budgets of all queries.
          samples: all queries of the run, of which batches will come.
          effort: of the attack.
          on_compiled: told of each program that was compiled, with its seconds.
          patience: the attack does not begin anew on a query that has taken so many
            seconds.
        """
        self._network = network
        self._stages = stages
        self._limits = limits
        self._effort = effort
        self._on_compiled = on_compiled
        self._patience = patience
        self._width = quotient.width(
            network, (query for queries in samples for query in queries)
        )
        self._numpy_seconds = 0.0
        self._small_budgets = (limits.max_total_shift or 0) <= MAX_COMPILED_BUDGET
        self._later_layers = simulate.device_weights(network)[1:]
        self._programs: dict[tuple[Stage, int], Callable[..., Any]] = {}
        # CPUs gain nothing by batches and lose what easy samples wait for hard ones.
        on_cpu = jax.default_backend() == "cpu"
        self._rows = 1 if on_cpu else 64
        self._prove_parts: parts.PartProver | None = None
        if not on_cpu and limits.max_total_shift and self._small_budgets:
            self._prove_parts = parts.PartProver(
                network, self._width, limits.max_total_shift, ROWS_OF_PARTS
            )

    def run(
        self, batch: Sequence[Sequence[Query]], key: jax.Array
    ) -> list[dict[int, Result]]:
        """Runs the stages; undecided queries get a result without a stage."""
        results = [_clean(self._network, queries) for queries in batch]
        undecided = np.full((len(batch), len(batch[0]) if batch else 0), FEW_SPIKES)
        for index in range(undecided.shape[1]):
            stage_key, key = jax.random.split(key)
            for stage in self._stages:
                left = [
                    row
                    for row, found in enumerate(results)
                    if found[index].stage is None
                ]
                if left and stage is Stage.BOUNDS:
                    self._bound(index, batch, left, results, undecided)
                elif left and stage is Stage.ATTACK:
                    left = self._worth_attacking(index, left, undecided)
                    self._attack(index, batch, left, results, undecided, stage_key)
        return results

    def _bound(
        self,
        index: int,
        batch: Sequence[Sequence[Query]],
        left: Sequence[int],
        results: list[dict[int, Result]],
        undecided: np.ndarray,
    ) -> None:
        """Proves what intervals prove among the rows that are left."""
        queries = [batch[row][index] for row in left]
        if self._numpy_seconds < COMPILATION_SECONDS or not self._small_budgets:
            started = time.monotonic()
            found = _bound_by_numpy(self._network, queries)
            seconds = time.monotonic() - started
            self._numpy_seconds += seconds
        else:
            outcome, _, seconds = self._call(Stage.BOUNDS, queries, jax.random.key(0))
            found = _Bounded(*outcome)
        for position, row in enumerate(left):
            spent = results[row][index].seconds + seconds / len(left)
            result = Result(Verdict.UNKNOWN, seconds=spent)
            if found.proved[position]:
                result = Result(Verdict.ROBUST, Stage.BOUNDS, seconds=spent)
            elif split.applies(self._network, queries[position]):
                spikes = int(found.undecided[position])
                result = self._split(queries[position], spent, spikes)
            results[row][index] = result
            if result.verdict is Verdict.FALSIFIED:
                self._settle_wider(index, results[row], result)
            undecided[row, index] = found.undecided[position]

    def _split(self, query: Query, seconds: float, undecided: int) -> Result:
        """Decides one query by parts of its ball, if as many as are allowed do."""
        started = time.monotonic()
        if self._prove_parts is None:
            max_parts = _max_parts(self._network, query, undecided)
            found = split.decide(self._network, query, max_parts)
        else:
            found = split.decide(
                self._network,
                query,
                MAX_BATCHED_PARTS,
                self._prove_parts,
                ROWS_OF_PARTS,
            )
        seconds += time.monotonic() - started
        if found.split is not None:
            return Result(Verdict.ROBUST, Stage.BOUNDS, seconds=seconds)
        if found.counterexample is not None:
            steps = found.counterexample
            return _replayed(self._network, query, steps, Stage.BOUNDS, seconds)
        return Result(Verdict.UNKNOWN, seconds=seconds)

    def _worth_attacking(
        self, index: int, left: Sequence[int], undecided: np.ndarray
    ) -> list[int]:
        """The rows on which the attack is likely to save time."""
        bounded = Stage.BOUNDS in self._stages[: self._stages.index(Stage.ATTACK)]
        if Stage.SOLVE not in self._stages or not bounded:
            return list(left)
        hard = [row for row in left if undecided[row, index] >= FEW_SPIKES]
        compiled = any(stage is Stage.ATTACK for stage, _ in self._programs)
        if compiled or undecided[hard, index].sum() >= SPIKES_IN_COMPILATION:
            return hard
        return []

    def _attack(
        self,
        index: int,
        batch: Sequence[Sequence[Query]],
        left: Sequence[int],
        results: list[dict[int, Result]],
        undecided: np.ndarray,
        key: jax.Array,
    ) -> None:
        """Searches the rows that are left for counterexamples, and replays them."""
        stage = Stage.ATTACK
        for number, attack_key in enumerate(jax.random.split(key, MAX_ATTACKS)):
            left = [
                row
                for row in left
                if results[row][index].stage is None
                and number < self._num_attacks(undecided[row, index])
                and (number == 0 or results[row][index].seconds < self._patience)
            ]
            if not left:
                return
            queries = [batch[row][index] for row in left]
            outcome, kept, seconds = self._call(stage, queries, attack_key)
            for position, row in enumerate(left):
                query = queries[position]
                spent = results[row][index].seconds + seconds / len(left)
                result = dataclasses.replace(results[row][index], seconds=spent)
                if outcome.found[position]:
                    steps = kept.restore(position, query, outcome.spike_steps[position])
                    result = _replayed(self._network, query, steps, stage, spent)
                    self._settle_wider(index, results[row], result)
                results[row][index] = result

    def _num_attacks(self, undecided: int) -> int:
        """How often a ball with so many undecided spikes is attacked, at most."""
        if self._limits != bounds.NO_LIMITS:
            return 1
        return 1 + int(undecided / self._network.num_steps / SPIKES_PER_ATTACK)

    def _settle_wider(
        self, index: int, results: dict[int, Result], result: Result
    ) -> None:
        """Wider balls hold the same counterexample."""
        for wider in range(index + 1, len(results)):
            results[wider] = dataclasses.replace(result, seconds=0.0)

    def _call(
        self, stage: Stage, queries: Sequence[Query], key: jax.Array
    ) -> tuple[Any, quotient.Quotient, float]:
        """Runs a stage on all queries; returns seconds without compilation."""
        rows = min(self._rows, 2 ** (len(queries) - 1).bit_length())
        started = time.monotonic()
        kept = quotient.relevant_inputs(self._network, queries, self._width)
        num_padding = -len(queries) % rows
        order = [*range(len(queries)), *([len(queries) - 1] * num_padding)]
        padded = [queries[row] for row in order]
        inputs = quotient.Quotient(*(values[order] for values in kept))
        arguments = (
            quotient.first_layer(self._network, inputs),
            quotient.balls(self._network, padded, inputs),
            np.asarray([query.label for query in padded], np.int32),
            np.asarray(
                [quotient.tolerance(self._network, q) for q in padded], np.int32
            ),
            np.asarray(jax.random.key_data(jax.random.split(key, len(padded)))),
        )
        chunks = [
            jax.tree.map(lambda values, r=row: values[r : r + rows], arguments)
            for row in range(0, len(padded), rows)
        ]
        if (stage, rows) not in self._programs:
            compiling = time.monotonic()
            one = self._decide_by_bounds if stage is Stage.BOUNDS else self._search
            # The later layers are arguments: as constants they would be folded.
            program = jax.jit(jax.vmap(one, in_axes=(0, None, 0, 0, 0, 0)))
            first, *others = chunks[0]
            lowered = program.lower(first, self._later_layers, *others)
            self._programs[stage, rows] = lowered.compile()
            seconds = time.monotonic() - compiling
            started += seconds
            self._on_compiled(stage, seconds)
        compiled = self._programs[stage, rows]
        outcomes = [
            jax.tree.map(np.asarray, compiled(first, self._later_layers, *others))
            for first, *others in chunks
        ]
        outcome = jax.tree.map(lambda *parts: np.concatenate(parts), *outcomes)
        return outcome, kept, time.monotonic() - started

    def _decide_by_bounds(
        self,
        first_layer: simulate.Weights,
        later_layers: Sequence[simulate.Weights],
        ball: bounds.Ball,
        label: jax.Array,
        tolerance: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        del key
        levels = bounds.propagate(
            self._network.layers,
            (first_layer, *later_layers),
            self._network.num_steps,
            ball,
            self._limits,
        )
        proved = bounds.decided(levels[-1], label, tolerance)
        widths = [
            (jnp.minimum(high, last) - jnp.minimum(low, last)).sum()
            for (low, high), last in zip(
                levels[1:-1], _lasts(self._network), strict=True
            )
        ]
        return proved, jnp.asarray(sum(widths), jnp.int32)

    def _search(
        self,
        first_layer: simulate.Weights,
        later_layers: Sequence[simulate.Weights],
        ball: bounds.Ball,
        label: jax.Array,
        tolerance: jax.Array,
        key: jax.Array,
    ) -> attack.Attack:
        return attack.search(
            self._network.layers,
            (first_layer, *later_layers),
            self._network.num_steps,
            ball,
            label,
            tolerance,
            jax.random.wrap_key_data(key),
            self._limits,
            self._effort,
        )


def _lasts(network: IntegerNetwork) -> list[int]:
    """The first step of each hidden level that tells nothing any more."""
    return [
        network.last_informative_step(depth) + 1
        for depth in range(1, len(network.layers))
    ]


def _bound_by_numpy(network: IntegerNetwork, queries: Sequence[Query]) -> _Bounded:
    proved, undecided = [], []
    for query in queries:
        levels = intervals.propagate(network, query)
        proved.append(intervals.decided(levels[-1:], query))
        widths = [
            int((np.minimum(high, last) - np.minimum(low, last)).sum())
            for (low, high), last in zip(levels[1:-1], _lasts(network), strict=True)
        ]
        undecided.append(sum(widths))
    return _Bounded(np.array(proved, bool), np.array(undecided, np.int64))


def _max_parts(network: IntegerNetwork, query: Query, undecided: int) -> int:
    """As many parts as take about a second, or less where solvers need less."""
    num_inputs = int((query.low <= network.last_informative_step(0)).sum())
    size = network.layers[0].num_outputs * network.num_steps * max(num_inputs, 1)
    seconds = COMPILATION_SECONDS * undecided / SPIKES_IN_COMPILATION
    return min(split.MAX_PARTS, 1 + int(SPLIT_WORK * min(seconds, 1)) // size)


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
    network: IntegerNetwork,
    query: Query,
    steps: np.ndarray,
    stage: Stage,
    seconds: float,
) -> Result:
    steps = np.asarray(steps, np.int64)
    if not replay.falsifies(network, query, steps):
        raise RuntimeError(
            f"{stage.value} reported an input that does not replay; "
            "please report this network and query"
        )
    return Result(Verdict.FALSIFIED, stage, None, seconds, counterexample=steps)
