"""What tables and figures call the optimizers of runs: Adam with decoupled weight decay is AdamW."""

from adasde.experiments.specs import AnySpec
from adasde.scaling.hyperparameters import OPTIMIZERS

TITLES = {name: kind.title for name, kind in OPTIMIZERS.items()} | {"adamw": "AdamW"}


def optimizer_name(spec: AnySpec) -> str:
    """Name of the optimizer of a run or simulation, one of TITLES."""
    return "adamw" if getattr(spec.optimizer, "decoupled", False) else spec.optimizer.name
