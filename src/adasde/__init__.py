"""adasde: SDEs and the square-root scaling rule for Adam and RMSprop.

The tools of "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (Malladi, Lyu, Panigrahi, Arora, NeurIPS
2022) as a small library, and the code that rebuilds the paper's experiments. The public interface is ``__all__``.
Theorists find more in `adasde.sde`; people who add a model or a data set, in `adasde.workloads`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from adasde.common import InputError
from adasde.scaling.clock import scaled_steps
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters, SGDHyperparameters
from adasde.scaling.recipe import Recipe
from adasde.scaling.rules import ScalingWarning
from adasde.training.schedule import Schedule

if TYPE_CHECKING:
    from adasde.scaling.branch import BranchReport, branch
    from adasde.scaling.callbacks import lightning_callback, rescale_arguments, trainer_callback
    from adasde.scaling.micro_batches import MicroBatchNoise
    from adasde.scaling.monitor import NoiseMonitor
    from adasde.scaling.optimizers import InvariantAdam
    from adasde.scaling.ramp import BatchRamp
    from adasde.scaling.rescale import rescale
    from adasde.scaling.svag import minibatches_apart, svag_loss

__version__ = "0.1.0"

# Old names, kept for a release.
Adam, RMSprop, SGD = AdamHyperparameters, RMSpropHyperparameters, SGDHyperparameters

# These need torch, which takes more than a second to import. `adasde scale`, `adasde plan` and Snakemake do without.
_NEEDS_TORCH = {
    "BatchRamp": "adasde.scaling.ramp",
    "BranchReport": "adasde.scaling.branch",
    "InvariantAdam": "adasde.scaling.optimizers",
    "MicroBatchNoise": "adasde.scaling.micro_batches",
    "NoiseMonitor": "adasde.scaling.monitor",
    "branch": "adasde.scaling.branch",
    "lightning_callback": "adasde.scaling.callbacks",
    "minibatches_apart": "adasde.scaling.svag",
    "rescale": "adasde.scaling.rescale",
    "rescale_arguments": "adasde.scaling.callbacks",
    "svag_loss": "adasde.scaling.svag",
    "trainer_callback": "adasde.scaling.callbacks",
}

__all__ = [
    "AdamHyperparameters",
    "BatchRamp",
    "BranchReport",
    "InputError",
    "InvariantAdam",
    "MicroBatchNoise",
    "NoiseMonitor",
    "RMSpropHyperparameters",
    "Recipe",
    "SGDHyperparameters",
    "ScalingWarning",
    "Schedule",
    "branch",
    "lightning_callback",
    "minibatches_apart",
    "rescale",
    "rescale_arguments",
    "scaled_steps",
    "svag_loss",
    "trainer_callback",
]


def __getattr__(name: str) -> object:
    if name in _NEEDS_TORCH:
        return getattr(import_module(_NEEDS_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
