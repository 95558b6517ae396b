"""adasde: SDEs and the square-root scaling rule for Adam and RMSprop.

The tools of "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (Malladi, Lyu, Panigrahi, Arora,
NeurIPS 2022) as a small library, and the code that rebuilds the paper's experiments.
"""

from .errors import InputError
from .recipe import Recipe
from .scaling import SGD, Adam, RMSprop, ScalingWarning
from .schedule import Schedule

__version__ = "0.1.0"
__all__ = ["SGD", "Adam", "InputError", "RMSprop", "Recipe", "ScalingWarning", "Schedule"]
