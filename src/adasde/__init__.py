"""adasde: SDEs and the square-root scaling rule for Adam and RMSprop.

The tools of "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (Malladi, Lyu, Panigrahi, Arora,
NeurIPS 2022) as a small library, and the code that rebuilds the paper's experiments.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import InputError
from .recipe import Recipe
from .scaling import SGD, Adam, RMSprop, ScalingWarning
from .schedule import Schedule

if TYPE_CHECKING:
    from .practice import NoiseMonitor, rescale, rescale_arguments, scaled_steps, svag_loss

__version__ = "0.1.0"
# Imported when asked for, since they import torch.
_PRACTICE = ("NoiseMonitor", "rescale", "rescale_arguments", "scaled_steps", "svag_loss")
__all__ = [
    "SGD",
    "Adam",
    "InputError",
    "NoiseMonitor",
    "RMSprop",
    "Recipe",
    "ScalingWarning",
    "Schedule",
    "rescale",
    "rescale_arguments",
    "scaled_steps",
    "svag_loss",
]


def __getattr__(name):
    if name in _PRACTICE:
        return getattr(import_module(".practice", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
