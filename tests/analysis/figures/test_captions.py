"""figures/captions.py: caption and setting of every figure."""

import subprocess
import sys

import pytest
from docutils.core import publish_parts

from adasde.analysis.figures import captions
from adasde.analysis.figures.registry import PLOTS, figure_runs
from adasde.experiments.plan import plan


def figure(name):
    return name if PLOTS[name].subject is None else f"{name}-x"


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_has_a_caption_with_a_title(name):
    title, paragraphs = captions.caption(figure(name))
    assert 10 < len(title) < 60
    assert paragraphs
    assert all(paragraph.endswith(".") for paragraph in paragraphs)
    assert "#" not in title + " ".join(paragraphs)


@pytest.mark.parametrize("name", PLOTS)
def test_captions_are_shown_by_snakemake_as_they_are(name):
    """No mark of Markdown or of reStructuredText is taken for text, or text for a mark."""
    title, paragraphs = captions.caption(figure(name))
    text = captions.report_caption(figure(name))
    shown = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["fragment"]
    assert shown.count("<p>") == 1 + len(paragraphs)
    assert f"<strong>{title.replace(chr(39), '&#x27;')}</strong>" in shown.replace("'", "&#x27;")
    assert shown.count("<strong>") == 1
    assert "<em>" not in shown


def test_a_figure_has_a_setting_and_a_label(config):
    name = "scaling-fashion-resnet-rmsprop"
    config["figures"] = [name]
    planned = plan(config)
    runs = figure_runs(planned)[name]
    ((experiment, line),) = captions.setting(planned, runs).items()
    assert experiment == "fashion-resnet-rmsprop"
    for part in ("ResNet on Fashion-MNIST", "rmsprop, lr ", "beta ", "batch size", "seeds 0, 1"):
        assert part in line
    assert captions.label(planned, runs, name) == f"{name} (RMSprop)"


def test_captions_need_no_pandas_and_no_plotting_library():
    script = "import sys, adasde.analysis.figures.captions; print({'pandas', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
