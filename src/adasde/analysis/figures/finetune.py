"""``finetune``: what fine-tuning makes of models that were pre-trained at several batch sizes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, tables
from adasde.analysis.claims.accuracy import TOLERANCE
from adasde.analysis.claims.finetuning import score_of
from adasde.analysis.figures import style
from adasde.workloads.registry import workload_named


def plot(trajectories: pd.DataFrame, subject: str) -> Figure:
    """Per fine-tuning, left: test accuracy along it, one curve per pre-training batch size; right: at its end.

    Dashed, and last: the same from new weights.
    """
    tuned = trajectories[trajectories["rule"] == "finetune"]
    experiments = list(tuned["experiment"].unique())
    figure, axes = style.panels(len(experiments), 2, (7.4, 1.1 + 2.9 * len(experiments)))
    colours, models = style.colours_of(tuned["kappa"].unique()), set()
    for (left, right), experiment in zip(axes, experiments, strict=True):
        runs = trajectories[trajectories["experiment"] == experiment]
        score = score_of(runs)
        groups = tables.groups(runs, experiment, "finetune", score)
        models.add(groups.seeds)
        for place, (kappa, curve) in enumerate(statistics.mean_intervals(groups.values).items()):
            label = style.kappa_label(kappa) + (", diverged" if kappa in groups.diverged else "")
            values, look = groups.values[kappa], {"label": label, "linestyle": "-"}
            _level((left, right), place, groups.epoch, values, curve, colours[kappa], look)
        ticks = [f"{kappa:g}" for kappa in groups.values]
        if (runs["rule"] == "scratch").any():
            _new_weights((left, right), tables.groups(runs, experiment, "scratch", score), groups)
            ticks.append("new")
        if groups.healthy:
            centre = 100.0 * np.mean([values[:, -1].mean() for values in groups.healthy.values()])
            half = 50.0 * TOLERANCE
            label = rf"{100 * TOLERANCE:g} points about the mean over $\kappa$"
            right.axhspan(centre - half, centre + half, color="0.9", zorder=0, label=label)
        right.set_xticks(range(len(ticks)), ticks)
        right.set_xlim(-0.4, len(ticks) - 0.4)
        right.set_xlabel(r"batch multiplier $\kappa$ of the pre-training")
        left.set_xlabel("epochs of fine-tuning")
        for panel in (left, right):
            panel.set_ylabel(style.LABELS.get(score, f"{score} (%)"))
        left.set_title(workload_named(runs["task"].iloc[0]).title, loc="left", fontweight="bold")
    words = style.sample(models, "one model each", "models")
    figure.suptitle(f"Fine-tuning by batch size of pre-training, {words}")
    style.legend(figure, axes.T.flat, columns=4)
    return figure


def _new_weights(panels, new, tuned):
    """Plot the level without pre-training, in the spread of all runs, as in the claim on what pre-training is worth."""
    values = new.values[1.0]
    curve = statistics.mean_intervals({**tuned.healthy, "new": values})["new"]
    label = "new weights" if new.seeds == tuned.seeds else f"new weights ({new.seeds} runs)"
    look = {"label": label + (", diverged" if new.diverged else ""), "linestyle": "--"}
    _level(panels, len(tuned.values), new.epoch, values, curve, "0.3", look)
    panels[1].axhline(100.0 * values[:, -1].mean(), color="0.3", linestyle="--", linewidth=0.8)


def _level(panels, place, epoch, values, curve, colour, look):
    """Plot one curve left, and right at its ``place`` its end and that of each model."""
    left, right = panels
    style.curve(left, epoch, *(100.0 * curve), colour, **look)
    style.points(right, [place], *(100.0 * curve[:, -1:]), color=colour, capsize=3)
    if len(values) > 1:
        ends = 100.0 * values[:, -1]
        right.plot(np.full(len(ends), place + 0.15), ends, "_", color="0.5", markersize=7, label="one model")
