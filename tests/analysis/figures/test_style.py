"""figures/style.py: colours that mean one thing in all figures, and axes with round ticks."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from adasde.analysis.figures import style
from adasde.scaling.rules import RULES
from adasde.workloads.registry import WORKLOADS


def luminance(colour):
    return np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize(
    ("colour_of", "levels"), [(style.kappa_colour, 2.0 ** np.arange(-4, 9)), (style.ell_colour, [1, 2, 4, 8, 16])]
)
def test_every_level_has_a_colour_of_its_own(colour_of, levels):
    colours = [to_rgb(colour_of(level)) for level in levels]
    for one, other in itertools.combinations(colours, 2):
        assert np.abs(np.subtract(one, other)).max() > 0.03
    above = [luminance(colour_of(level)) for level in levels if level > 1]
    assert above == sorted(above)  # lighter the larger, which is seen without colours too


def test_every_rule_has_a_name_and_a_look_of_its_own():
    assert set(RULES) <= set(style.RULES)
    looks = [(to_rgb(look["color"]), look["marker"]) for look in style.RULE_STYLES.values()]
    assert len(set(looks)) == len(looks)


def test_workloads_have_forms_and_optimizers_fills():
    looks = style.looks_of([("cnn", "rmsprop"), ("gpt2", "adam"), ("cnn", "adam"), ("cnn", "adam")])
    assert looks["cnn", "adam"]["marker"] == looks["cnn", "rmsprop"]["marker"] != looks["gpt2", "adam"]["marker"]
    assert ["markerfacecolor" in looks["cnn", name] for name in ("adam", "rmsprop")] == [False, True]


def test_every_experiment_has_a_look_of_its_own():
    looks = style.looks_by_name([f"e{number}" for number in range(16)] + ["e0"])
    assert len(looks) == len({(look["marker"], look["color"], "markerfacecolor" in look) for look in looks.values()})
    assert len(style.looks_by_name(map(str, range(50)))) == 50


@pytest.mark.parametrize(("threshold", "end", "ticks"), [
    (0.0023, 0.4, [0, 0.001, 0.002, 0.02, 0.2]), (3.0, 2.5, [0, 1, 2]), (0.1, 0.13, [0, 0.05, 0.1]),
    (1.3, 7.0, [0, 0.5, 1, 2, 5]), (0.0023, 4.0, [0, 0.002, 0.02, 0.2, 2]),
])  # fmt: skip
def test_ticks_are_round_on_both_sides_of_the_threshold(threshold, end, ticks):
    _, panel = plt.subplots()
    panel.set_ylim(-end, end)
    style.symlog_axis(panel, threshold)
    assert np.allclose([tick for tick in panel.get_yticks() if tick >= 0], ticks)
    assert np.allclose(sorted(-np.array(panel.get_yticks())), panel.get_yticks())
    plt.close("all")


def test_repeats_in_words():
    assert [style.repeats(1), style.repeats(3), style.repeats({2, 5}), style.repeats({1, 4}, "model", "models")] == [
        "1 seed", "3 seeds", "2 to 5 seeds", "1 to 4 models",
    ]  # fmt: skip


@pytest.mark.parametrize(("words", "lines"), [(3, [32]), (4, [21, 21]), (5, [32, 21]), (6, [32, 32])])
def test_lines_of_a_headline_are_about_as_long(words, lines):
    assert [len(line) for line in style.balanced("a_headline " * words, 42).split("\n")] == lines


def test_a_headline_fits_its_figure():
    figure, _ = style.panels(1, 1, (4, 3))
    style.headline(figure, "a long message " * 6, "detail")
    figure.canvas.draw()
    left, right = figure._suptitle.get_window_extent().intervalx
    assert 0 <= left < right <= figure.bbox.width
    plt.close(figure)


def test_a_long_name_leaves_the_panels_their_room():
    """The key of a figure is as wide as its longest line; names of our own workloads stay on one."""
    model = "timm/vit_tiny_patch16_224@fashion-mnist?size=28&depth=4&embed_dim=64&num_heads=2&patch_size=7"
    for workload in (model, *WORKLOADS):
        row = {"workload": workload, "optimizer": "rmsprop"}
        lines = style.entry(row).splitlines()
        assert max(map(len, lines)) <= style.ENTRY
        assert " ".join(lines) == style.subject(row)
        assert (len(lines) == 1) == (workload != model)
