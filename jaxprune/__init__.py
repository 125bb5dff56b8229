"""Depth pruning of Flax networks by layer similarity.

The names of `__all__` are what most programs need; the modules hold the rest, each
about one subject: `cka` and `similarity` measure, `clusters` and `baselines` choose,
`plan` and `layouts` remove, `heal`, `refit`, `recover` and `freezing` repair, `certify`
bounds what it cost, `mpruner` repeats all that. `models` holds architectures and maps
published weights onto them.
"""

from jaxprune import activations as activations
from jaxprune import baselines as baselines
from jaxprune import certify as certify
from jaxprune import checkpoints as checkpoints
from jaxprune import cka as cka
from jaxprune import clusters as clusters
from jaxprune import cost as cost
from jaxprune import freezing as freezing
from jaxprune import heal as heal
from jaxprune import layouts as layouts
from jaxprune import mpruner as mpruner
from jaxprune import plan as plan
from jaxprune import recover as recover
from jaxprune import refit as refit
from jaxprune import similarity as similarity
from jaxprune import sparsify as sparsify
from jaxprune.certify import accuracy_drop_certificate
from jaxprune.heal import fit_linear_maps, reestimate_batch_norm
from jaxprune.layouts import Listed, Named, Stacked
from jaxprune.plan import Stack, apply_plan, apply_plan_to_optimizer, make_plan
from jaxprune.prunable import Prunable, prune
from jaxprune.recover import fine_tune
from jaxprune.similarity import similarity_matrix

__all__ = [
    "Listed",
    "Named",
    "Prunable",
    "Stack",
    "Stacked",
    "accuracy_drop_certificate",
    "apply_plan",
    "apply_plan_to_optimizer",
    "fine_tune",
    "fit_linear_maps",
    "make_plan",
    "prune",
    "reestimate_batch_norm",
    "similarity_matrix",
]

__version__ = "0.1.0"
