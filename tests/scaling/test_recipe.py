"""A whole recipe: how each part scales, and its formula."""

import inspect
import math
import re

import pytest

from adasde.common import InputError
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.recipe import TORCH_DEFAULTS, Recipe, assumption, comparison, formula, recipe_of

pytestmark = pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")


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
    assert Recipe(recipe.hyperparameters, 256, milestones=(1, 2)).scaled(4).milestones == (1, 1)
    assert recipe.scaled(1.5).batch_size == 384
    with pytest.raises(InputError, match="batch size 256 would become 256.256"):
        recipe.scaled(1.001)


def test_half_life_betas():
    recipe = Recipe(AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8), 16, average=0.99)
    new = recipe.scaled(16, betas="half-life")
    assert (new.hyperparameters.beta1, new.hyperparameters.beta2) == pytest.approx((0.9**16, 0.999**16), rel=1e-14)
    assert new.hyperparameters.lr == 4e-3
    assert recipe.scaled(16, "lr-only", "half-life").hyperparameters.beta1 == 0.9
    with pytest.raises(InputError, match="too large for beta1 = 0.9"):
        recipe.scaled(16)
    with pytest.raises(InputError, match="betas = 'exact': must be linear or half-life"):
        recipe.scaled(16, betas="exact")


def test_further_rates_and_counts():
    recipe = Recipe(
        AdamHyperparameters(1e-3, 0.99, 0.999, 1e-8),
        256,
        momentum_decay=4e-3,
        rates={"min_lr": 1e-5},
        counts={"save_steps": 500, "eval_steps": 100, "logging_steps": 2},
    )
    new = recipe.scaled(3)
    assert new.rates == pytest.approx({"min_lr": 1e-5 * 3**0.5})
    assert new.counts == {"save_steps": 165, "eval_steps": 33, "logging_steps": 1}
    assert new.momentum_decay == pytest.approx(12e-3)
    assert recipe.scaled(3, "none").rates == {"min_lr": 1e-5}
    assert recipe.scaled(3, "none").counts == new.counts
    shown = comparison(recipe, new, "sqrt")
    assert re.search(r"min_lr +1e-05 +1.73205e-05 +sqrt\(kappa\) min_lr", shown)
    assert re.search(r"save_steps +500 +165 +save_steps / kappa", shown)
    for fields in ({"rates": {"min_lr": 0.0}}, {"counts": {"save_steps": 0.5}}, {"momentum_decay": -1.0}):
        with pytest.raises(InputError, match=r"min_lr = 0|save_steps = 0.5|momentum_decay = -1"):
            Recipe(AdamHyperparameters(1e-3, 0.99, 0.999, 1e-8), 256, **fields)


def test_the_invariant_rule_needs_whole_micro_batches():
    recipe = Recipe(AdamHyperparameters(1e-3, 0.9, 0.999, 1e-8), 256)
    assert recipe.scaled(16, "invariant").hyperparameters == recipe.hyperparameters
    with pytest.raises(InputError, match=r"kappa = 1.5: must be a whole number >= 1"):
        recipe.scaled(1.5, "invariant")


@pytest.mark.parametrize("name", TORCH_DEFAULTS)
def test_defaults_are_torchs(name):
    import torch

    kind = {"adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "rmsprop": "RMSprop"}[name]
    taken = {key: value.default for key, value in inspect.signature(getattr(torch.optim, kind)).parameters.items()}
    if "betas" in taken:
        taken["beta1"], taken["beta2"] = taken["betas"]
    else:
        taken["beta"] = taken["alpha"]
    assert {part: taken[part] for part in TORCH_DEFAULTS[name]} == TORCH_DEFAULTS[name]
    recipe, assumed = recipe_of(name, {"batch_size": 8, "lr": None})
    assert recipe.parts().items() >= TORCH_DEFAULTS[name].items()
    assert assumed == {part: value for part, value in TORCH_DEFAULTS[name].items() if value}
    assert getattr(recipe.hyperparameters, "decoupled", None) is {"adamw": True, "rmsprop": None}.get(name, False)


def test_assumptions_in_words():
    assert assumption({"beta1": 0.9, "beta2": 0.999}, "torch's") == "betas 0.9, 0.999: torch's default"
    assert assumption({"beta2": 0.999, "eps": 1e-8}, "torch's") == "beta2 0.999; eps 1e-08: torch's defaults"


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
    assert formula("beta1", "sqrt", betas="half-life") == formula("beta1", "half-life") == "beta1^kappa"
    assert formula("beta1", "lr-only", betas="half-life") == "unchanged"
    assert formula("momentum_decay", "sqrt") == "kappa momentum_decay"
    without = Recipe(AdamHyperparameters(1e-3, 0.0, 0.999, 1e-8), 8)
    assert re.search(r"beta1 +0 +0 +unchanged \(no momentum\)", comparison(without, without.scaled(4), "sqrt"))
