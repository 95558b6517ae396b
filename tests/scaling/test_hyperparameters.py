"""Hyperparameters: the constants of their SDEs, SVAG, and values out of range."""

import math
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasde.common import InputError
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.recipe import Recipe
from adasde.scaling.rules import RULES
from scaling.strategies import largest_kappa, optimizers, same

pytestmark = pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")


@given(h=optimizers, ell=st.floats(1, 100))
def test_svag_is_the_rule_at_one_over_ell_squared(h, ell):
    assert same(h.svag(ell), h.scaled(1 / ell**2))


@given(h=optimizers, share=st.floats(0.01, 1), sigma=st.floats(1e-3, 1e3))
def test_the_sde_constants_are_invariant_under_sqrt(h, share, sigma):
    # A batch kappa times as large has noise of scale sigma / sqrt(kappa).
    kappa = share * largest_kappa(h)
    before, after = h.sde_constants(sigma), h.scaled(kappa).sde_constants(sigma / math.sqrt(kappa))
    for a, b in zip(astuple(before), astuple(after), strict=True):
        assert a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-300)  # subnormal numbers have few digits


@given(h=optimizers, share=st.floats(0.01, 0.9), sigma=st.floats(1e-3, 1e3))
def test_no_other_rule_keeps_the_sde_constants(h, share, sigma):
    kappa = share * largest_kappa(h)
    if abs(kappa - 1) < 0.1:
        return
    for rule in set(RULES) - {"sqrt", "sqrt-no-eps", "sqrt-no-decay", "half-life"}:  # whose betas and lr are sqrt's
        before, after = h.sde_constants(sigma), h.scaled(kappa, rule).sde_constants(sigma / math.sqrt(kappa))
        pairs = ((before.sigma0, after.sigma0), (before.c2, after.c2))
        assert not all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamHyperparameters(-1e-3, 0.9, 0.999, 1e-8), "lr = -0.001: must be a finite number > 0"),
        (lambda: AdamHyperparameters(math.nan, 0.9, 0.999, 1e-8), "lr = nan"),
        (lambda: AdamHyperparameters(1e-3, 1.0, 0.999, 1e-8), r"beta1 = 1: must be in \[0, 1\)"),
        (lambda: RMSpropHyperparameters(1e-3, -0.1, 1e-8), "beta = -0.1"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, -1e-8), "eps = -1e-08: must be a finite number >= 0"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0, -1), "weight_decay = -1"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0).scaled(0), "kappa = 0: must be a finite number > 0"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0).svag(-2), "ell = -2"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0).sde_constants(0), "sigma = 0"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0).scaled(2, "sqr"), "rule = 'sqr': must be one of sqrt, linear"),
        (lambda: Recipe(RMSpropHyperparameters(1e-3, 0.9, 0), 0), "batch_size = 0: must be a whole number >= 1"),
        (lambda: Recipe(RMSpropHyperparameters(1e-3, 0.9, 0), 1, average=1.0), r"average = 1: must be in \[0, 1\)"),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    with pytest.raises(InputError, match=message):
        make()
