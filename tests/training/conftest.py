"""Specs and workloads that several tests of training share."""

import pytest

from adasde.experiments.plan import plan
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import changed


@pytest.fixture
def resnet(tensors):
    """The network with batch norm, its images mirrored and cropped."""
    return ImageWorkload(tensors, BUILDERS["resnet"], 0.5, 0.3, crop=2)


@pytest.fixture
def at_ell(config, small_spec):
    """Make the spec of a plain run (ell = 1) or of SVAG, cut to the size of the synthetic images."""

    def make(ell):
        run = plan(config).runs[f"svag-fashion-cnn-adam.{'sqrt.k1' if ell == 1 else f'svag.l{ell}'}.s0"]
        same = ("samples", "horizon", "evaluate", "schedule")
        return changed(run, **{key: small_spec.document[key] for key in same})

    return make
