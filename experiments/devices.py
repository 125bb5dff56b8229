"""The devices that share one computation."""

import contextlib
import os
from typing import TYPE_CHECKING

from absl import flags

from experiments import run_state

if TYPE_CHECKING:
    from jax.sharding import Mesh


def define(values: flags.FlagValues) -> None:
    """Defines --devices."""
    flags.DEFINE_integer(
        "devices",
        1,
        "Accelerators, or cores where there are none, that share each batch; sums are "
        "rounded differently then.",
        lower_bound=1,
        flag_values=values,
    )


def make_mesh(count: int, batch_size: int) -> "Mesh | None":
    """Returns the first `count` devices in a row, or None for one.

    On a machine without accelerators its cores act as devices. Only what is called
    before jax computes anything can ask for them.

    Args:
        count: what --devices says, at least 1.
        batch_size: examples that they share.

    Raises:
        UsageError: there are fewer, or they cannot share evenly.
    """
    if count == 1:
        return None
    if batch_size % count:
        raise run_state.usage_error(
            "devices",
            count,
            f"must divide the {batch_size} examples of a batch (--batch_size)",
        )
    # Late, because importing jax takes seconds.
    import jax
    import numpy as np

    # Where jax runs already there are the devices that there are.
    with contextlib.suppress(RuntimeError):
        cores = os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", min(count, cores))
    found = jax.devices()
    if len(found) < count:
        raise run_state.usage_error(
            "devices", count, f"must be at most {len(found)} here"
        )
    return jax.sharding.Mesh(np.array(found[:count]), ("batch",))
