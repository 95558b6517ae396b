"""The figures of a whole scale: which runs they show, and what they refuse."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_claims import FAITHFUL, METRICS, write_runs

from adasde.analysis import reference, tables
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.figures.registry import draw_figure
from adasde.common import InputError
from adasde.experiments.artifacts import write_run

NOISE = {"noise_trace": 100.0, "squared_gradient": 0.2, **{f"speed_k{k}": 0.9 for k in (2, 4, 16, 64)}}
PARTS = {
    ("sqrt", 1): 0.0,
    ("sqrt", 4): 0.0,
    ("sqrt-no-betas", 4): 0.2,
    ("sqrt-no-eps", 4): 0.1,
}


@pytest.fixture
def scale(tmp_path, spec):
    """Runs of a main experiment and of an ablation at a large eps."""

    def make(**options):
        options = {"metrics": METRICS | NOISE} | options
        large = {**spec, "experiment": "ablation", "optimizer": {**spec["optimizer"], "eps": 1e-2}}
        paths = write_runs(tmp_path / "main", spec, FAITHFUL, **options)
        paths += write_runs(tmp_path / "ablation", large, PARTS, **options)
        return tables.collect(paths)[0]

    return make


OPTIONS = [{}, {"seeds": 1}, {"diverged": [("sqrt", 1, 0), ("sqrt-no-eps", 4, 1)]}]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_ablation_shows_small_and_large_eps_side_by_side(scale, options):
    drawn = draw_figure("ablation", scale(**options))
    titles = [axes.get_title(loc="left") for axes in drawn.axes[::2]]
    assert ["1e-8" in titles[0], "1e-2" in titles[1]] == [True, True]
    ticks = [text.get_text() for text in drawn.axes[2].get_xticklabels()]
    assert len(ticks) == 3
    assert "epsilon" in ticks[2]
    plt.close(drawn)


@pytest.mark.parametrize("options", [*OPTIONS, {"metrics": METRICS | NOISE | {"squared_gradient": -1.0}}])
def test_noise_shows_signal_over_noise_and_speeds(scale, options):
    drawn = draw_figure("noise", scale(**options))
    top, bottom = drawn.axes[:2]
    assert top.get_yscale() == "log"
    assert bottom.get_ylim() == (0, 1.05)
    if not options:
        values = {round(float(line.get_ydata()[0]), 3) for line in top.lines[:3]}
        wanted = {32 * kappa * 0.2 / 100 for kappa in (1, 2, 4)}
        assert all(any(abs(value - want) < 0.1 * want for value in values) for want in wanted)
    plt.close(drawn)


@pytest.mark.parametrize("figure", ["scaling-fashion-cnn-adam", "rules-fashion-cnn", "noise", "ablation"])
def test_a_reference_is_drawn_behind(scale, figure):
    trajectories = scale()
    theirs = trajectories.assign(value=1.5 * trajectories["value"])
    plain, there, both = (
        draw_figure(figure, trajectories),
        draw_figure(figure, theirs),
        draw_figure(figure, trajectories, reference=(theirs, None)),
    )
    for own, other, joined in zip(plain.axes, there.axes, both.axes, strict=True):
        added = joined.lines[len(own.lines) :]
        assert all(line.get_zorder() < 1 and line.get_color() == "0.5" for line in added)
        curves = [line for line in other.lines if line.get_transform() == other.transData and len(line.get_xdata())]
        for line, found in zip(curves, added, strict=True):
            assert line.get_xydata().tolist() == found.get_xydata().tolist() or np.isnan(line.get_ydata()).any()
    assert any(len(joined.lines) > len(own.lines) for own, joined in zip(plain.axes, both.axes, strict=True))
    alone = theirs[theirs["experiment"] == "ablation"]
    if figure == "noise":
        with pytest.raises(InputError, match="reference: its figure has other panels"):
            draw_figure(
                "noise", trajectories, reference=(pd.concat([theirs, alone.assign(experiment="c", rule="sqrt")]), None)
            )
    plt.close("all")


def test_figures_without_their_runs_are_refused(scale, tmp_path, spec):
    table = scale(metrics=METRICS)
    with pytest.raises(InputError, match="noise': the runs hold no noise_trace"):
        draw_figure("noise", table)
    with pytest.raises(InputError, match="nothing to show, since no run follows sqrt-no-betas or sqrt-no-eps"):
        draw_figure("ablation", table[table["experiment"] != "ablation"])
    with pytest.raises(InputError, match="figure = 'noise-x': must be one of scaling-EXPERIMENT, rules-TASK, svag-"):
        draw_figure("noise-x", table)


def test_rules_leave_ablations_out(scale):
    drawn = draw_figure("rules-fashion-cnn", scale())
    assert len(drawn.axes) == 3
    plt.close(drawn)


def test_the_authors_curves_are_drawn_behind_ours(tmp_path, spec):
    """Where they published an experiment: one broad line per batch size, in the colour of ours."""
    ours = {**spec, "task": "wikitext103-gpt2", "experiment": "gpt2-adam"}
    metrics = {"train_loss": 6.0, "log_perplexity": 6.0, "squared_norm": 700.0}
    table = tables.collect(write_runs(tmp_path, ours, {("sqrt", 1): 0.0, ("sqrt", 4): 0.0}, metrics=metrics))[0]
    table.loc[:, "batch_size"] *= 16  # 512 and 2048
    drawn = draw_figure("scaling-gpt2-adam", table)
    panel = drawn.axes[1]
    broad = [line for line in panel.lines if line.get_linewidth() == 3.0 and len(line.get_xdata())]
    assert len(broad) == 5
    assert all(line.get_xdata()[-1] <= table["epoch"].max() * 1.01 for line in broad)
    assert all(4.9 < line.get_ydata()[-1] < 5.3 for line in broad)
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert ["= 512$" in legend[0], "= 2048$" in legend[1]] == [True, True]
    assert legend[2:] == ["the authors'", "within 3 seed deviations"]
    plt.close(drawn)
    assert reference.author_curves("wiki-gpt2-adam") == {}
    assert set(reference.author_curves("wikibooks-roberta-adam")) == {256, 1024, 2048, 4096, 8192}


@pytest.fixture
def tuned(tmp_path, spec):
    """Two fine-tunings of each of two models per kappa, and two runs from new weights."""
    paths = []
    for kappa in (1, 4):
        own = {**spec, "task": "wiki-articles", "experiment": "tuned", "kappa": kappa, "rule": "finetune"}
        for seed in range(4):
            parent = {"run": f"p.k{kappa}.s{seed // 2}", "spec_hash": "0" * 64}
            run = f"tuned.k{kappa}.s{seed}"
            rows = [(run, step, step * 1e-3, "test_accuracy", 0.1 * seed + 0.01 * step) for step in (0, 10, 20)]
            path = tmp_path / f"{run}.parquet"
            write_run(path, rows, {**own, "run": run, "seed": seed, "parent": parent}, seconds=1.0)
            paths.append(path)
    for seed in range(2):
        own = {**spec, "task": "wiki-articles", "experiment": "tuned", "rule": "scratch"}
        rows = [(f"tuned.scratch.s{seed}", step, step * 1e-3, "test_accuracy", 0.02 * seed) for step in (0, 10, 20)]
        path = tmp_path / f"scratch{seed}.parquet"
        write_run(path, rows, {**own, "run": f"tuned.scratch.s{seed}", "seed": seed}, seconds=1.0)
        paths.append(path)
    return tables.collect(paths)[0]


def test_fine_tunings_are_grouped_by_what_pre_trained_them(tuned):
    """Two fine-tunings of one model are one repeat: their mean."""
    table = tuned
    groups = tables.groups(table, "tuned", "finetune", "test_accuracy")
    assert groups.seeds == 2
    assert groups.values[4][:, 0].tolist() == pytest.approx([0.05, 0.25])
    row = evaluate_claims(table).iloc[0]
    assert (row["id"], row["n"]) == ("finetuning.tuned", 2)
    assert row["value"] == pytest.approx(0.0)
    worth = evaluate_claims(table).set_index("id").loc["pretraining.tuned"]
    assert worth["value"] == pytest.approx(0.35 - 0.01)  # (0.25 + 0.45) / 2 less the scratch runs'
    assert worth["verdict"] == "inconclusive"  # two models apart by 0.2
    better = table.assign(value=table["value"] + 2.0 * (table["rule"] == "finetune"))
    assert evaluate_claims(better).set_index("id").loc["pretraining.tuned", "verdict"] == "reproduced"
    lost = table.drop_duplicates("run").assign(metric="diverged", value=1.0)
    assert evaluate_claims(lost).set_index("id").loc["finetuning.tuned", "verdict"] == "not reproduced"


def legend_of(drawn):
    """Texts of the figure's legend, which must lie within the figure."""
    drawn.canvas.draw()
    left, right = drawn.legends[0].get_window_extent().intervalx
    assert 0 <= left < right <= drawn.bbox.width
    return [text.get_text() for text in drawn.legends[0].get_texts()]


def test_the_figure_of_fine_tuning_names_all_that_it_shows(tuned):
    drawn = draw_figure("finetune", tuned)
    assert drawn.get_suptitle().endswith("mean and 95% interval of 2 models")
    kappas = [rf"$\kappa = {kappa}$" for kappa in (1, 4)]
    assert legend_of(drawn) == [*kappas, "new weights", "one model", "3 points about the mean over $\\kappa$"]
    left, right = drawn.axes
    assert len(left.collections) == 3  # bands
    assert [text.get_text() for text in right.get_xticklabels()] == ["1", "4", "new"]
    assert len(right.containers) == 3  # points with their intervals
    assert [len(line.get_xdata()) for line in right.lines if line.get_marker() == "_"].count(2) >= 3
    plt.close(drawn)
    many = pd.concat([tuned, *(tuned[tuned["kappa"] == 4].assign(kappa=kappa) for kappa in (2, 8, 16, 32))])
    lost = many.drop_duplicates(["run", "kappa"]).assign(metric="diverged", value=1.0)
    drawn = draw_figure("finetune", pd.concat([many, lost]))
    assert sum("diverged" in text for text in legend_of(drawn)) == 7
    plt.close("all")


def test_one_model_per_batch_size_has_no_interval(tuned):
    single = tuned[tuned["seed"].isin([0, 1]) | (tuned["rule"] == "scratch")]
    drawn = draw_figure("finetune", single[single["rule"] != "scratch"])
    assert drawn.get_suptitle().endswith("one model each")
    assert legend_of(drawn)[-1:] == ["3 points about the mean over $\\kappa$"]
    assert "one model" not in legend_of(drawn)
    assert [text.get_text() for text in drawn.axes[1].get_xticklabels()] == ["1", "4"]
    plt.close(drawn)
    drawn = draw_figure("finetune", single)
    assert "new weights (2 runs)" in legend_of(drawn)
    plt.close(drawn)


def test_noise_leaves_fine_tunings_out(scale):
    table = scale()
    tuned = table[table["experiment"] != "ablation"].assign(experiment="tuned", rule="finetune")
    both = pd.concat([table, tuned], ignore_index=True)
    drawn = draw_figure("noise", both)
    assert len([panel for panel in drawn.axes if panel.get_title()]) == 1
    plt.close(drawn)


def test_svag_names_its_axis_below_the_lower_panels_alone(tmp_path, spec):
    metrics = {"train_loss": 6.0, "log_perplexity": 6.0, "squared_norm": 700.0}
    own = {**spec, "task": "wiki-gpt2", "experiment": "svag-lm"}
    table = tables.collect(write_runs(tmp_path, own, {("sqrt", 1): 0.0, ("svag", 2): 0.0}, metrics=metrics))[0]
    drawn = draw_figure("svag-lm", table)
    assert [panel.get_xlabel() for panel in drawn.axes] == [""] * 3 + ["epochs of the plain run"] * 3
    plt.close(drawn)


@pytest.mark.parametrize(("noise", "whole"), [(0.01, True), (0.8, False)])
def test_bands_on_a_logarithmic_axis_are_shown_whole_unless_they_are_absurdly_wide(tmp_path, spec, noise, whole):
    own = {**spec, "experiment": "noisy"}
    paths = write_runs(tmp_path, own, {("sqrt", 1): 0.0, ("sqrt", 4): 0.0}, seeds=2, noise=noise)
    drawn = draw_figure("scaling-noisy", tables.collect(paths)[0])
    panel = drawn.axes[0]
    bands = np.concatenate([band.get_paths()[0].vertices[:, 1] for band in panel.collections])
    means = np.concatenate([line.get_ydata() for line in panel.lines])
    low, high = panel.get_ylim()
    assert (low < bands.min() and bands.max() < high) == whole
    assert low > means.min() / 3
    assert high < means.max() * 3
    plt.close(drawn)
