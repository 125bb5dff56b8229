"""A network for iris with robust and breakable decisions, on file."""

import numpy as np

from jaxsnn import integer
from jaxsnn.sat.spec import Dense, IntegerNetwork


def write(path):
    """Writes the network, untrained but always the same."""
    rng = np.random.default_rng(266)
    network = IntegerNetwork(
        (
            Dense(rng.integers(-4, 7, (6, 4)), rng.integers(2, 7, 6)),
            Dense(rng.integers(-4, 6, (3, 6)), rng.integers(1, 5, 3)),
        ),
        num_steps=10,
    )
    integer.save(path, network)
