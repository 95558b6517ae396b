"""``finetune``: what fine-tuning makes of models that were pre-trained at several batch sizes."""

import matplotlib.pyplot as plt
import numpy as np

from .. import stats, tables
from ..finals import ACCURACY_TOLERANCE, SCORES
from ..tasks import task_named
from . import style


def draw(trajectories, subject):
    """Per fine-tuning, left: test accuracy along it, one curve per pre-training batch size; right: at its end.

    Dashed: the same from new weights.
    """
    style.use()
    experiments = list(trajectories.loc[trajectories["rule"] == "finetune", "experiment"].unique())
    size = (7.4, 0.9 + 2.9 * len(experiments))
    figure, axes = plt.subplots(len(experiments), 2, figsize=size, squeeze=False, layout="constrained")
    for (left, right), experiment in zip(axes, experiments, strict=True):
        measured = set(trajectories.loc[trajectories["experiment"] == experiment, "metric"])
        score = next((metric for metric in SCORES if metric in measured), SCORES[-1])
        groups = tables.groups(trajectories, experiment, "finetune", score)
        colours = style.batch_colours(groups.values)
        drawn = stats.bootstrap_means(groups.healthy)
        for place, (kappa, values) in enumerate(groups.values.items()):
            low, high = stats.interval(drawn[kappa]) if kappa in drawn else (np.full(values.shape[1], np.nan),) * 2
            mean, low, high = (100.0 * curve for curve in (values.mean(axis=0), low, high))
            label = rf"$\kappa = {kappa:g}$" + (", diverged" if kappa in groups.diverged else "")
            style.curve(left, groups.epoch, mean, low, high, colours[kappa], label)
            bars = np.maximum([[mean[-1] - low[-1]], [high[-1] - mean[-1]]], 0.0)
            right.errorbar([place], mean[-1:], yerr=bars, color=colours[kappa], marker="o", capsize=3)
            right.plot(np.full(len(values), place + 0.15), 100.0 * values[:, -1], "_", color="0.5", markersize=7)
        if (trajectories.loc[trajectories["experiment"] == experiment, "rule"] == "scratch").any():
            new = tables.groups(trajectories, experiment, "scratch", score).values[1.0]
            left.plot(groups.epoch, 100.0 * new.mean(axis=0), color="0.3", linestyle="--", label="new weights")
            right.axhline(100.0 * new[:, -1].mean(), color="0.3", linestyle="--", linewidth=1)
        centre = 100.0 * np.mean([values[:, -1].mean() for values in groups.values.values()])
        half = 50.0 * ACCURACY_TOLERANCE
        right.axhspan(centre - half, centre + half, color="0.9", zorder=0)
        right.set_xticks(range(len(groups.values)), [f"{kappa:g}" for kappa in groups.values])
        right.set_xlabel(r"batch multiplier $\kappa$ of the pre-training")
        left.set_xlabel("epochs of fine-tuning")
        for panel in (left, right):
            panel.set_ylabel(style.LABELS.get(score, f"{score} (%)"))
        task = trajectories.loc[trajectories["experiment"] == experiment, "task"].iloc[0]
        left.set_title(task_named(task).title, loc="left", fontweight="bold")
    figure.suptitle(
        f"Fine-tuning after pre-training at several batch sizes, mean and 95% interval of {groups.seeds} models"
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
