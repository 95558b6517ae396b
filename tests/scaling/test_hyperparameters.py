"""scaling.py: the laws of the rules, and what is refused."""

import math
import warnings
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasde.common import InputError
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.recipe import Recipe, formula
from adasde.scaling.rules import RULES, ScalingWarning

pytestmark = pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")

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


@pytest.mark.parametrize("rule", RULES)
@given(h=optimizers, share=st.floats(0.01, 1))
def test_kappa_then_its_inverse_is_the_identity(rule, h, share):
    kappa = share * largest_kappa(h)
    assert same(h.scaled(kappa, rule).scaled(1 / kappa, rule), h)


@pytest.mark.parametrize("rule", RULES)
@given(h=optimizers, one=st.floats(0.01, 1), two=st.floats(0.01, 1))
def test_scaling_twice_is_scaling_by_the_product(rule, h, one, two):
    one *= largest_kappa(h)
    if one * two * smallest_complement(h) < 0.999:
        assert same(h.scaled(one, rule).scaled(two, rule), h.scaled(one * two, rule))


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
    for rule in set(RULES) - {"sqrt", "sqrt-no-eps"}:
        before, after = h.sde_constants(sigma), h.scaled(kappa, rule).sde_constants(sigma / math.sqrt(kappa))
        pairs = ((before.sigma0, after.sigma0), (before.c2, after.c2))
        assert not all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)


def test_the_rule_by_hand():
    assert same(AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8).scaled(4), AdamHyperparameters(2e-3, 0.6, 0.996, 5e-9))
    assert same(RMSpropHyperparameters(1e-3, 0.99, 1e-8).scaled(4, "linear"), RMSpropHyperparameters(4e-3, 0.99, 1e-8))
    assert same(RMSpropHyperparameters(1e-3, 0.99, 1e-8).scaled(4, "lr-only"), RMSpropHyperparameters(2e-3, 0.99, 1e-8))
    assert same(
        RMSpropHyperparameters(1e-3, 0.99, 1e-8).scaled(4, "sqrt-no-eps"), RMSpropHyperparameters(2e-3, 0.96, 1e-8)
    )
    assert same(
        RMSpropHyperparameters(1e-3, 0.99, 1e-8).scaled(4, "sqrt-no-betas"), RMSpropHyperparameters(2e-3, 0.99, 5e-9)
    )
    assert AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8).scaled(400, "none") == AdamHyperparameters(
        1e-3, 0.9, 0.999, 1e-8
    )


def test_decoupled_decay_shrinks_the_weights_equally_per_sample():
    decoupled = AdamHyperparameters(1e-3, 0.99, 0.999, 1e-8, weight_decay=0.1, decoupled=True)
    for rule in ("sqrt", "linear"):
        new = decoupled.scaled(4, rule)
        assert math.isclose(new.lr * new.weight_decay, 4 * decoupled.lr * decoupled.weight_decay)
    coupled = replace(decoupled, decoupled=False)
    assert coupled.scaled(4).weight_decay == coupled.weight_decay


def test_the_rest_of_a_recipe():
    recipe = Recipe(
        AdamHyperparameters(1e-3, 0.99, 0.999, 1e-8),
        256,
        steps=1000,
        warmup_steps=100,
        milestones=(600, 800),
        clip=1.0,
        average=0.999,
    )
    new = recipe.scaled(4)
    assert (new.batch_size, new.steps, new.warmup_steps, new.milestones) == (1024, 250, 25, (150, 200))
    assert new.clip == 0.5
    assert math.isclose(new.average, 0.999**4)
    assert recipe.scaled(4, "linear").clip == 1.0
    assert new.scaled(0.25).steps == 1000
    assert recipe.scaled(1.5).batch_size == 384
    with pytest.raises(InputError, match="batch size 256 would become 256.256"):
        recipe.scaled(1.001)


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


def test_a_kappa_too_large_names_the_beta_and_the_limit():
    h = AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8)
    for kappa in (10, 16):  # 10 * (1 - 0.9) is below 1 in floating point
        with pytest.raises(InputError, match=f"kappa = {kappa}: too large for beta1 = 0.9.* below 10$"):
            h.scaled(kappa)
    assert h.scaled(16, "linear").beta1 == 0.9


def test_beyond_half_is_a_warning():
    h = RMSpropHyperparameters(1e-3, 0.9, 1e-8)
    with pytest.warns(ScalingWarning, match="leaves beta = 0.4"):
        h.scaled(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        h.scaled(5)
        h.scaled(0.1)


def test_formulas_name_every_part():
    assert formula("lr", "sqrt") == "sqrt(kappa) lr"
    assert formula("lr", "linear") == "kappa lr"
    assert formula("beta2", "sqrt") == "1 - kappa (1 - beta2)"
    assert formula("beta2", "lr-only") == "unchanged"
    assert formula("eps", "sqrt") == "eps / sqrt(kappa)"
    assert formula("weight_decay", "sqrt", decoupled=True) == "sqrt(kappa) weight_decay"
    assert "coupled" in formula("weight_decay", "sqrt")
    assert formula("average", "sqrt") == "average^kappa"
    assert formula("steps", "sqrt") == "steps / kappa"
