"""What `run.json` says of program, packages, revision and device behind a result."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "python-sat")
_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def program_name() -> str:
    """Returns `experiments.NAME` as typed after `python -m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else pathlib.Path(sys.argv[0]).stem


def versions() -> dict[str, str | None]:
    """Returns the versions of Python and of what numbers depend on; None if absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, Any] | None:
    """Returns revision and whether the checkout differs from it; None outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(_REPOSITORY), *arguments),
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != _REPOSITORY:
            return None
        return {
            "revision": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def describe_device() -> dict[str, Any]:
    """Returns platform, kind and number of the devices jax computes on."""
    import jax

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "cpu_count": os.cpu_count(),
    }
