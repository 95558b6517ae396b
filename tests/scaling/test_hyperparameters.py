"""Hyperparameters: the constants of their SDEs, SVAG, and values out of range."""

import math
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasde.common import InputError
from adasde.scaling.clock import scaled_steps
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters, SGDHyperparameters
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
        (lambda: RMSpropHyperparameters(1e-3, False, 0), r"beta = False: must be in \[0, 1\)"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 10**400), "eps = 1000.*: must be a finite number >= 0"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0, True), "weight_decay = True: must be a finite number >= 0"),
        (lambda: AdamHyperparameters(1e-3, 0.9, 0.99, 0, decoupled="false"), "decoupled = 'false': must be True or F"),
        (lambda: Recipe(RMSpropHyperparameters(1e-3, 0.9, 0), 0), "batch_size = 0: must be a whole number >= 1"),
        (lambda: Recipe(RMSpropHyperparameters(1e-3, 0.9, 0), 1, average=1.0), r"average = 1: must be in \[0, 1\)"),
        (lambda: Recipe(None, 8), "hyperparameters = None: must be AdamHyperparameters or RMSpropHyperparameters"),
        (lambda: Recipe(RMSpropHyperparameters(1e-3, 0.9, 0), 1, milestones=(3, 2)), "milestones = .*: must not decr"),
        # What no float can hold:
        (lambda: AdamHyperparameters(1e-200, 0.9, 0.99, 0).sde_constants(1), "lr = 1e-200: must be from 1e-150 to"),
        (lambda: RMSpropHyperparameters(1e200, 0.9, 0).sde_constants(1), r"lr = 1e\+200: must be from 1e-150 to 1e"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0).svag(1e200), r"ell = 1e\+200: must be from 1e-150 to 1e\+150"),
        (lambda: RMSpropHyperparameters(1e-3, 0.9, 0).svag(1e-200), "ell = 1e-200: must be from 1e-150 to 1e"),
        (lambda: RMSpropHyperparameters(1e308, 0.9, 0).scaled(9, "linear"), r"kappa = 9: takes lr = 1e\+308 to inf"),
        (lambda: SGDHyperparameters(1e300).scaled(1e30), r"kappa = 1e\+30: takes lr = 1e\+300 to inf, beyond what a f"),
        (lambda: AdamHyperparameters(1, 0, 0.999, 0).scaled(1e-20), "kappa = 1e-20: too small for beta2 = 0.999, whi"),
        (lambda: AdamHyperparameters(1, 0.9, 0.99, 0).scaled(1e-20, "half-life"), "kappa = 1e-20: too small for beta1"),
        (
            lambda: Recipe(RMSpropHyperparameters(1, 0, 0), 10**15, average=0.999).scaled(1e-15, "none"),
            "for average = ",
        ),
        (lambda: Recipe(RMSpropHyperparameters(1, 0.9, 0), 8, rates={"end": 1e308}).scaled(4), "takes end = 1e.308"),
        (lambda: Recipe(RMSpropHyperparameters(1, 0, 0), 8, clip=1e308).scaled(0.25), "takes clip = 1e.308 to inf"),
        (lambda: Recipe(RMSpropHyperparameters(1, 0, 0), 8).scaled(1e308, "none"), "kappa = 1e.308: batch size 8 w"),
        (lambda: scaled_steps(10, 1e-308), "kappa = 1e-308: 10 steps would become more than a float holds"),
        (lambda: scaled_steps(10**300, 1e-300), "kappa = 1e-300: 1e.300 steps would become more than a float holds"),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
