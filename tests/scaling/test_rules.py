"""The laws of the rules: inverses, products, values by hand, and where a rule ends."""

import math
import warnings
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasde.common import InputError
from adasde.scaling.hyperparameters import AdamHyperparameters, RMSpropHyperparameters
from adasde.scaling.rules import RULES, ScalingWarning, scaled_batch_size
from scaling.strategies import largest_kappa, optimizers, same, smallest_complement

pytestmark = pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")


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


def test_a_kappa_too_large_names_the_beta_and_the_limit():
    h = AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8)
    for kappa in (10, 16):  # 10 * (1 - 0.9) is below 1 in floating point
        with pytest.raises(InputError, match=f"kappa = {kappa}: too large for beta1 = 0.9.* below 10\\. Half-life"):
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


def test_half_life_betas_exist_at_every_kappa():
    h = AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8)
    wanted = AdamHyperparameters(4e-3, 0.9**16, 0.999**16, 1e-8 / 4)
    assert same(h.scaled(16, betas="half-life"), wanted)
    assert same(h.scaled(16, "half-life"), wanted)
    assert h.scaled(16, "linear", betas="half-life").beta1 == 0.9  # a rule that leaves the betas alone
    with pytest.warns(
        ScalingWarning, match=r"leaves beta1 = 0.0343.*: half-life betas were right .* kappa 16.*InvariantAdam"
    ):
        h.scaled(32, "half-life")
    with pytest.raises(InputError, match="betas = 'half': must be linear or half-life"):
        h.scaled(2, betas="half")


def test_where_the_linear_form_ends_the_error_says_what_else_there_is():  # case C19
    with pytest.raises(InputError, match="Half-life betas.*kappa 16.*wrong at 32.*InvariantAdam.*larger base batch"):
        AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8).scaled(16)


def test_without_momentum_there_is_none_at_any_batch():  # case R12
    h = AdamHyperparameters(1e-3, 0.0, 0.99, 1e-8)
    for new in (h.scaled(0.25), h.scaled(4), h.svag(2), h.scaled(4, betas="half-life")):
        assert new.beta1 == 0.0


def test_invariant_adam_keeps_the_hyperparameters_of_the_base_batch():
    h = AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8, 0.1, decoupled=True)
    assert h.scaled(16, "invariant") == h


def test_a_batch_size_is_whole():
    assert scaled_batch_size(256, 1.5) == 384
    with pytest.raises(InputError, match=r"kappa = 0.3: batch size 2 would become 0.6; .* \(nearest kappa: 1/2\)"):
        scaled_batch_size(2, 0.3)
