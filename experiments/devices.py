"""The devices that share one computation."""

import contextlib
import os
from typing import TYPE_CHECKING

from experiments import run_state

if TYPE_CHECKING:
    from jax.sharding import Mesh


def make_mesh(flag: str, count: int) -> "Mesh | None":
    """Returns the first `count` devices in a row, or None for one.

    On a machine without accelerators its cores act as devices. Only what is called
    before jax computes anything can ask for them.

    Args:
        flag: that asks for so many, for the error message.
        count: at least 1.

    Raises:
        UsageError: there are fewer.
    """
    if count == 1:
        return None
    # Late, because importing jax takes seconds.
    import jax
    import numpy as np

    # Where jax runs already there are the devices that there are.
    with contextlib.suppress(RuntimeError):
        cores = os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", min(count, cores))
    found = jax.devices()
    if len(found) < count:
        raise run_state.usage_error(flag, count, f"must be at most {len(found)} here")
    return jax.sharding.Mesh(np.array(found[:count]), ("batch",))
