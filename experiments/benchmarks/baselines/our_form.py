"""General solvers on the project's own constraints, without the cascade before them."""

import functools
from collections.abc import Callable

from jaxsnn.sat import solve as complete
from jaxsnn.sat.query import Query, Result
from jaxsnn.sat.spec import IntegerNetwork


def solver(backend: str) -> Callable[[IntegerNetwork, Query, float], Result]:
    """Returns `solve(network, query, seconds)` with one backend, started anew."""
    return functools.partial(_solve, backend)


def _solve(
    backend: str, network: IntegerNetwork, query: Query, seconds: float
) -> Result:
    (result,) = complete.solve(network, [query], seconds, (backend,))
    return result
