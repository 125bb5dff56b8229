"""Depth pruning of Flax networks by layer similarity.

The names below are what most programs need; the modules hold the rest, each about one
subject: `cka` and `similarity` measure, `clusters` and `baselines` choose, `plan` and
`layouts` remove, `heal` and `recover` repair, `certify` bounds what it cost, `mpruner`
repeats all that. `models` holds architectures and maps published weights onto them.
"""

from jaxprune import activations as activations
from jaxprune import baselines as baselines
from jaxprune import certify as certify
from jaxprune import checkpoints as checkpoints
from jaxprune import cka as cka
from jaxprune import clusters as clusters
from jaxprune import cost as cost
from jaxprune import heal as heal
from jaxprune import layouts as layouts
from jaxprune import mpruner as mpruner
from jaxprune import plan as plan
from jaxprune import recover as recover
from jaxprune import similarity as similarity
from jaxprune import sparsify as sparsify
from jaxprune.certify import accuracy_drop_certificate as accuracy_drop_certificate
from jaxprune.heal import fit_linear_maps as fit_linear_maps
from jaxprune.heal import reestimate_batch_norm as reestimate_batch_norm
from jaxprune.layouts import Listed as Listed
from jaxprune.layouts import Named as Named
from jaxprune.layouts import Stacked as Stacked
from jaxprune.plan import Plan as Plan
from jaxprune.plan import Stack as Stack
from jaxprune.plan import apply_plan as apply_plan
from jaxprune.plan import apply_plan_to_optimizer as apply_plan_to_optimizer
from jaxprune.plan import make_plan as make_plan
from jaxprune.prunable import Prunable as Prunable
from jaxprune.prunable import Structure as Structure
from jaxprune.prunable import prune as prune
from jaxprune.recover import fine_tune as fine_tune
from jaxprune.similarity import similarity_matrix as similarity_matrix

__version__ = "0.1.0"
