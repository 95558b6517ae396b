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


def test_a_batch_size_is_whole():
    assert scaled_batch_size(256, 1.5) == 384
    with pytest.raises(InputError, match=r"kappa = 0.3: batch size 2 would become 0.6; .* \(nearest kappa: 1/2\)"):
        scaled_batch_size(2, 0.3)
