"""figures/captions.py: caption and setting of every figure."""

import subprocess
import sys

import pytest

from adasde.analysis.figures import captions
from adasde.analysis.figures.registry import PLOTS, figure_runs
from adasde.experiments.plan import plan


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_has_a_caption_with_a_title(name):
    title, paragraphs = captions.caption(name if PLOTS[name].subject is None else f"{name}-x")
    assert 10 < len(title) < 60
    assert paragraphs
    assert all(paragraph.endswith(".") for paragraph in paragraphs)
    assert "#" not in title + " ".join(paragraphs)


def test_a_figure_has_a_setting_and_a_label(config):
    planned = plan(config)
    runs = figure_runs(planned)["scaling-fashion-resnet-rmsprop"]
    ((name, line),) = captions.setting(planned, runs).items()
    assert name == "fashion-resnet-rmsprop"
    for part in ("ResNet on Fashion-MNIST", "rmsprop, lr ", "beta ", "batch size", "seeds 0, 1"):
        assert part in line
    label = captions.label(planned, runs, "scaling-fashion-resnet-rmsprop")
    assert label == "scaling-fashion-resnet-rmsprop (RMSprop)"


def test_captions_need_no_pandas_and_no_plotting_library():
    script = "import sys, adasde.analysis.figures.captions; print({'pandas', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
