"""Hyperparameters that property tests draw."""

import math
from dataclasses import astuple

from hypothesis import strategies as st

from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters

rates = st.floats(1e-6, 1.0)

betas = st.floats(0.5, 0.9999)

adams = st.builds(AdamHyperparameters, rates, betas, betas, st.floats(0, 1e-3), st.floats(0, 1), st.booleans())

rmsprops = st.builds(RMSpropHyperparameters, rates, betas, st.floats(0, 1e-3), st.floats(0, 1))

optimizers = st.one_of(adams, rmsprops)


def same(one, two):
    return type(one) is type(two) and all(
        a == b if isinstance(a, bool) else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
        for a, b in zip(astuple(one), astuple(two), strict=True)
    )


def smallest_complement(h):
    return max(1 - b for b in ((h.beta1, h.beta2) if isinstance(h, AdamHyperparameters) else (h.beta,)))


def largest_kappa(h):
    return 0.999 / smallest_complement(h)
