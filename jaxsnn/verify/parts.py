"""Bounds of many parts of a ball at a time, on the accelerator.

This answers what `jaxsnn.sat.split` asks as it branches: which of these balls do
intervals prove? The tree that comes out is the one that NumPy would find, and
`jaxsnn.sat.check.split` follows it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import simulate
from jaxsnn.sat.query import Query
from jaxsnn.sat.spec import IntegerNetwork
from jaxsnn.verify import bounds, quotient


class PartProver:
    """Proves parts of balls by intervals; a `jaxsnn.sat.split.Prove`.

    prover = PartProver(network, width=192, max_total_shift=4, rows=256)
    found = split.decide(network, query, max_parts=50_000, prove=prover, batch=256)
    """

    def __init__(
        self, network: IntegerNetwork, width: int, max_total_shift: int, rows: int
    ) -> None:
        """Compiles nothing yet.

        Args:
          network: two layers or more, the first of them dense.
          width: the most inputs that are kept of it (`quotient.width`).
          max_total_shift: the largest budget.
          rows: balls that are bounded at a time.
        """
        self._width = width
        self._rows = rows
        self._later_layers = simulate.device_weights(network)[1:]
        limits = bounds.Limits(max_total_shift)

        def prove(
            first: simulate.Weights,
            later: Sequence[simulate.Weights],
            ball: bounds.Ball,
            label: jax.Array,
            tolerance: jax.Array,
        ) -> jax.Array:
            levels = bounds.propagate(
                network.layers, (first, *later), network.num_steps, ball, limits
            )
            return bounds.decided(levels[-1], label, tolerance)

        self._prove = jax.jit(jax.vmap(prove, in_axes=(None, None, 0, None, None)))

    def __call__(self, network: IntegerNetwork, queries: Sequence[Query]) -> list[bool]:
        """Returns which balls intervals prove.

        Args:
          network: the network with what is kept of its inputs.
          queries: robustness of one label within a total shift.

        Raises:
          ValueError: more inputs are kept than `width`.
        """
        missing = self._width - network.num_inputs
        if missing < 0:
            raise ValueError(
                f"{network.num_inputs} inputs are kept; width={self._width} must be at "
                "least as many"
            )
        index = np.tile(np.arange(self._width), (self._rows, 1))
        valid = index < network.num_inputs
        kept = quotient.Quotient(np.where(valid, index, 0), valid)
        one = quotient.Quotient(*(values[:1] for values in kept))
        first = quotient.first_layer(network, one)
        first = simulate.Weights(*(jnp.asarray(values[0]) for values in first))
        proved: list[bool] = []
        for start in range(0, len(queries), self._rows):
            some = queries[start : start + self._rows]
            padded = [*some, *([some[-1]] * (self._rows - len(some)))]
            found = self._prove(
                first,
                self._later_layers,
                quotient.balls(network, padded, kept),
                jnp.int32(some[0].label),
                jnp.asarray(quotient.tolerance(network, some[0]), jnp.int32),
            )
            proved += np.asarray(found)[: len(some)].tolist()
        return proved
