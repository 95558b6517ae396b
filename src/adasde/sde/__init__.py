"""Tools for theorists: the paper's SDEs and the algorithms that they approximate, on noisy gradient oracles."""

from adasde.scaling.hyperparameters import SDEConstants
from adasde.sde.finite_sums import FiniteSum, HiddenLayer, Minibatch, SoftmaxRegression
from adasde.sde.integrators import BrownianIncrements, EulerMaruyama, State
from adasde.sde.oracles import DoubleWell, Linear, NoisyGradientOracle, Quadratic, SVAGOracle
from adasde.sde.simulate import simulate_algorithm, simulate_sde

__all__ = [
    "BrownianIncrements",
    "DoubleWell",
    "EulerMaruyama",
    "FiniteSum",
    "HiddenLayer",
    "Linear",
    "Minibatch",
    "NoisyGradientOracle",
    "Quadratic",
    "SDEConstants",
    "SVAGOracle",
    "SoftmaxRegression",
    "State",
    "simulate_algorithm",
    "simulate_sde",
]
