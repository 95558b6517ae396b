"""The oracles that simulations study, by name. The registry imports no torch, so that plans stay fast."""

from dataclasses import dataclass

from adasde.common import InputError


@dataclass(frozen=True)
class Oracle:
    """An oracle's name in figures, and the data set that it needs, if any."""

    title: str
    data: str | None = None


ORACLES = {
    "linear": Oracle("linear"),
    "quadratic": Oracle("quadratic"),
    "double-well": Oracle("double well"),
    "softmax": Oracle("softmax regression on Fashion-MNIST", data="fashion-mnist"),
    "hidden-layer": Oracle("one hidden layer on Fashion-MNIST", data="fashion-mnist"),
}


def oracle_named(name: str) -> Oracle:
    """Return the registry entry called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in ORACLES:
        raise InputError(f"oracle = {name!r}: must be one of {', '.join(ORACLES)}")
    return ORACLES[name]
