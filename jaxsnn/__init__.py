"""Temporally coded spiking networks and their formal verification.

Names load their modules when they are first used (PEP 562), so that solver processes
and proof checkers, which need NumPy alone, never import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsnn.coding import latency, pixel_window
    from jaxsnn.integer import load, quantize, save
    from jaxsnn.reduction import prune_neurons, prune_weights, without_silent
    from jaxsnn.sat.perturbation import Perturbation
    from jaxsnn.sat.query import (
        Query,
        Result,
        Stage,
        Verdict,
        l0_query,
        l1_query,
        linf_query,
    )
    from jaxsnn.sat.radius import (
        l0_family,
        l1_family,
        linf_family,
        smallest_breaking_radius,
    )
    from jaxsnn.sat.requirement import Alike, Latency, Monotone, Tie
    from jaxsnn.sat.solve import solve
    from jaxsnn.sat.spec import Conv2D, Dense, EarliestPool2D, IntegerNetwork
    from jaxsnn.simulate import output_steps
    from jaxsnn.verify.cascade import CascadeConfig
    from jaxsnn.verify.equivalence import compare

_MODULES = {
    "jaxsnn.coding": ("latency", "pixel_window"),
    "jaxsnn.integer": ("load", "quantize", "save"),
    "jaxsnn.reduction": ("prune_neurons", "prune_weights", "without_silent"),
    "jaxsnn.sat.perturbation": ("Perturbation",),
    "jaxsnn.sat.query": (
        "Query",
        "Result",
        "Stage",
        "Verdict",
        "l0_query",
        "l1_query",
        "linf_query",
    ),
    "jaxsnn.sat.radius": (
        "l0_family",
        "l1_family",
        "linf_family",
        "smallest_breaking_radius",
    ),
    "jaxsnn.sat.requirement": ("Alike", "Latency", "Monotone", "Tie"),
    "jaxsnn.sat.solve": ("solve",),
    "jaxsnn.sat.spec": ("Conv2D", "Dense", "EarliestPool2D", "IntegerNetwork"),
    "jaxsnn.simulate": ("output_steps",),
    "jaxsnn.verify.cascade": ("CascadeConfig",),
    "jaxsnn.verify.equivalence": ("compare",),
}
_SOURCES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Alike",
    "CascadeConfig",
    "Conv2D",
    "Dense",
    "EarliestPool2D",
    "IntegerNetwork",
    "Latency",
    "Monotone",
    "Perturbation",
    "Query",
    "Result",
    "Stage",
    "Tie",
    "Verdict",
    "compare",
    "l0_family",
    "l0_query",
    "l1_family",
    "l1_query",
    "latency",
    "linf_family",
    "linf_query",
    "load",
    "output_steps",
    "pixel_window",
    "prune_neurons",
    "prune_weights",
    "quantize",
    "save",
    "smallest_breaking_radius",
    "solve",
    "without_silent",
]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_SOURCES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
