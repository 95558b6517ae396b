"""``finetune``: what fine-tuning makes of models that were pre-trained at several batch sizes."""

import matplotlib.pyplot as plt
import numpy as np

from adasde.analysis import statistics, tables
from adasde.analysis.claims.finals import ACCURACY_TOLERANCE, SCORES
from adasde.analysis.figures import style
from adasde.workloads.registry import workload_named


def draw(trajectories, subject):
    """Per fine-tuning, left: test accuracy along it, one curve per pre-training batch size; right: at its end.

    Dashed, and last: the same from new weights.
    """
    style.use()
    tuned = trajectories[trajectories["rule"] == "finetune"]
    experiments = list(tuned["experiment"].unique())
    size = (7.4, 1.1 + 2.9 * len(experiments))
    figure, axes = plt.subplots(len(experiments), 2, figsize=size, squeeze=False, layout="constrained")
    colours, models = style.batch_colours(tuned["kappa"].unique()), set()
    for (left, right), experiment in zip(axes, experiments, strict=True):
        runs = trajectories[trajectories["experiment"] == experiment]
        score = next((metric for metric in SCORES if metric in set(runs["metric"])), SCORES[-1])
        groups = tables.groups(trajectories, experiment, "finetune", score)
        models.add(groups.seeds)
        drawn = statistics.bootstrap_means(groups.healthy)
        for place, (kappa, values) in enumerate(groups.values.items()):
            label = rf"$\kappa = {kappa:g}$" + (", diverged" if kappa in groups.diverged else "")
            _level((left, right), place, groups.epoch, values, drawn.get(kappa), colours[kappa], label)
        ticks = [f"{kappa:g}" for kappa in groups.values]
        if (runs["rule"] == "scratch").any():
            _new_weights((left, right), trajectories, experiment, score, groups)
            ticks.append("new")
        if groups.healthy:
            centre = 100.0 * np.mean([values[:, -1].mean() for values in groups.healthy.values()])
            half = 50.0 * ACCURACY_TOLERANCE
            label = rf"{100 * ACCURACY_TOLERANCE:g} points about the mean over $\kappa$"
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
    style.legend(figure, axes.T.flat)
    return figure


def _new_weights(panels, trajectories, experiment, score, tuned):
    """The level without pre-training, in the noise of all runs, as the claim on what pre-training is worth has it."""
    new = tables.groups(trajectories, experiment, "scratch", score)
    drawn = statistics.bootstrap_means(tuned.healthy | {"new": new.values[1.0]}) if new.healthy else {}
    label = "new weights" if new.seeds == tuned.seeds else f"new weights ({new.seeds} runs)"
    label += ", diverged" if new.diverged else ""
    _level(panels, len(tuned.values), new.epoch, new.values[1.0], drawn.get("new"), "0.3", label, "--")
    panels[1].axhline(100.0 * new.values[1.0][:, -1].mean(), color="0.3", linestyle="--", linewidth=0.8)


def _level(panels, place, epoch, values, drawn, colour, label, line="-"):
    """One curve left, and right at its ``place`` its end and that of each model; without ``drawn`` no interval."""
    left, right = panels
    bounds = np.full((2, len(epoch)), np.nan) if drawn is None else statistics.interval(drawn)
    mean, low, high = 100.0 * np.stack([values.mean(axis=0), *bounds])
    style.curve(left, epoch, mean, low, high, colour, label, line)
    bars = np.maximum([[mean[-1] - low[-1]], [high[-1] - mean[-1]]], 0.0)
    right.errorbar([place], mean[-1:], yerr=bars, color=colour, marker="o", capsize=3)
    if len(values) > 1:
        ends = 100.0 * values[:, -1]
        right.plot(np.full(len(ends), place + 0.15), ends, "_", color="0.5", markersize=7, label="one model")
