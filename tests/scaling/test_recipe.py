"""A whole recipe: how each part scales, and its formula."""

import math

import pytest

from adasde.common import InputError
from adasde.scaling.hyperparameters import AdamHyperparameters
from adasde.scaling.recipe import Recipe, formula

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
    assert recipe.scaled(1.5).batch_size == 384
    with pytest.raises(InputError, match="batch size 256 would become 256.256"):
        recipe.scaled(1.001)


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
