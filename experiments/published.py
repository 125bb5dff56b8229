"""The networks, samples and verdicts published with arXiv 2408.10900.

`DATA_DIR/s4nn` holds the networks, `DATA_DIR/mnist` and `DATA_DIR/fashion_mnist` the
images. The published samples index the training files of both.
"""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from experiments import run_state

_NETWORK_FILE = re.compile(r"(fm_)?(\d+)_(\d+)_(\d+)_(\d+)\.npz")
_IRIS_INPUTS = 4
# The name of a data set in the published results.
_DATASETS = {"mnist": "mnist", "fmnist": "fashion_mnist"}


@dataclasses.dataclass(frozen=True)
class Network:
    """One trained network.

    Attributes:
        path: its file, `[fm_]STEPS_INPUTS_HIDDEN_CLASSES.npz`.
        dataset: what it was trained on, as `experiments.data` names it.
        num_steps: `T`.
        hidden: number of hidden neurons.
    """

    path: pathlib.Path
    dataset: str
    num_steps: int
    hidden: int

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        return self.path.stem


class Verdict(NamedTuple):
    """One published verdict on a temporally coded network."""

    dataset: str
    num_steps: int
    hidden: int
    budget: int  # of the L1 ball
    sample: int
    method: str
    verdict: str  # robust, falsified or unknown
    seconds: float | None  # None where nothing was decided


def networks(data_dir: str | os.PathLike[str]) -> list[Network]:
    """Returns all networks on images, those with the fewest weights and steps first.

    The networks on Iris are left out: how its measurements become spikes is not
    published.

    Raises:
        UsageError: there are none.
    """
    directory = _directory(data_dir)
    found = []
    for path in directory.glob("*.npz"):
        match = _NETWORK_FILE.fullmatch(path.name)
        if match is None or int(match[3]) == _IRIS_INPUTS:
            continue
        dataset = "fashion_mnist" if match[1] else "mnist"
        found.append(Network(path, dataset, int(match[2]), int(match[4])))
    if not found:
        raise run_state.usage_error("data_dir", data_dir, "s4nn holds no networks")
    return sorted(found, key=lambda n: (n.dataset != "mnist", n.num_steps, n.hidden))


def select(data_dir: str | os.PathLike[str], names: Sequence[str]) -> list[Network]:
    """Returns the networks of these names, or all if there are none.

    Raises:
        UsageError: naming the network that is not there.
    """
    known = {network.name: network for network in networks(data_dir)}
    for name in names:
        if name not in known:
            raise run_state.usage_error(
                "networks", name, f"must be among {', '.join(known)}"
            )
    return [known[name] for name in names] or list(known.values())


def verdicts(data_dir: str | os.PathLike[str]) -> list[Verdict]:
    """Returns all published verdicts on temporally coded networks.

    Raises:
        UsageError: the file is not there.
    """
    path = _directory(data_dir) / "published_results.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise run_state.usage_error(
            "data_dir", data_dir, f"holds no s4nn/{path.name}"
        ) from None
    return [
        Verdict(
            _DATASETS[row["dataset"]],
            int(row["num_steps"]),
            int(row["hidden"]),
            int(row["l1_budget"]),
            int(row["sample"]),
            row["method"],
            row["verdict"],
            float(row["seconds"]) if row["seconds"] else None,
        )
        for row in rows
        if row["coding"] == "temporal"
    ]


def samples(published: Sequence[Verdict]) -> list[int]:
    """Returns the samples that the verdicts are about, in ascending order."""
    return sorted({verdict.sample for verdict in published})


def _directory(data_dir: str | os.PathLike[str]) -> pathlib.Path:
    directory = pathlib.Path(data_dir)
    return directory if directory.name == "s4nn" else directory / "s4nn"
