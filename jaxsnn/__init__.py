"""Temporally coded spiking networks and their formal verification.

Names load their modules when they are first used (PEP 562), so that solver processes
and proof checkers, which need NumPy alone, never import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsnn.coding import latency, pixel_window
    from jaxsnn.integer import load, quantize, save
    from jaxsnn.sat.query import (
        Query,
        Result,
        Stage,
        Tie,
        Verdict,
        l0_query,
        l1_query,
        linf_query,
    )
    from jaxsnn.sat.radius import smallest_breaking_radius
    from jaxsnn.sat.solve import solve
    from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork
    from jaxsnn.simulate import output_steps
    from jaxsnn.verify.cascade import CascadeConfig

_MODULES = {
    "jaxsnn.coding": ("latency", "pixel_window"),
    "jaxsnn.integer": ("load", "quantize", "save"),
    "jaxsnn.sat.query": (
        "Query",
        "Result",
        "Stage",
        "Tie",
        "Verdict",
        "l0_query",
        "l1_query",
        "linf_query",
    ),
    "jaxsnn.sat.radius": ("smallest_breaking_radius",),
    "jaxsnn.sat.solve": ("solve",),
    "jaxsnn.sat.spec": ("Conv2D", "Dense", "EarliestPool2D", "IntegerNetwork"),
    "jaxsnn.simulate": ("output_steps",),
    "jaxsnn.verify.cascade": ("CascadeConfig",),
}
_SOURCES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CascadeConfig",
    "Conv2D",
    "Dense",
    "EarliestPool2D",
    "IntegerNetwork",
    "Query",
    "Result",
    "Stage",
    "Tie",
    "Verdict",
    "l0_query",
    "l1_query",
    "latency",
    "linf_query",
    "load",
    "output_steps",
    "pixel_window",
    "quantize",
    "save",
    "smallest_breaking_radius",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_SOURCES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
