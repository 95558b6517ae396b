"""``rules-<task>``: where each rule ends at each batch size, for every optimizer of a task."""

import matplotlib.pyplot as plt
import numpy as np

from .. import stats, tables
from ..errors import InputError
from ..tasks import task_named
from . import style

METRICS = ("train_loss", "test_accuracy", "squared_norm")


def draw(trajectories, task):
    """Final test functions against kappa, one line per rule: means and 95% intervals over seeds."""
    style.use()
    table = trajectories[trajectories["task"] == task]
    compared = table.groupby("experiment", sort=False)["rule"].nunique()
    experiments = list(compared[compared > 1].index)
    if not experiments:
        raise InputError(f"rules-{task}: no experiment of this task runs more than the square-root rule")
    figure, axes = plt.subplots(
        len(experiments),
        len(METRICS),
        figsize=(9.6, 0.8 + 2.6 * len(experiments)),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for row, experiment in zip(axes, experiments, strict=True):
        runs = table[table["experiment"] == experiment]
        rules = [rule for rule in style.RULES if rule in set(runs["rule"])]
        for panel, metric in zip(row, METRICS, strict=True):
            for place, rule in enumerate(rules):
                aside = 2.0 ** (0.1 * (place - (len(rules) - 1) / 2))  # keeps the intervals of rules apart
                _line(panel, tables.groups(trajectories, experiment, rule, metric), rule, metric, aside)
            panel.set_ylabel(style.LABELS[metric])
        row[-1].set_yscale("log")
        style.plain_log_axis(row[-1].yaxis)
        row[1].set_title(style.OPTIMIZERS[runs["optimizer"].iloc[0]], fontweight="bold")
    kappas = sorted(table["kappa"].unique())
    for panel in axes[-1]:
        panel.set_xscale("log", base=2)
        panel.set_xticks(kappas, [f"{k:g}" for k in kappas])
        panel.set_xlabel(r"batch multiplier $\kappa$")
    seeds = len(tables.groups(trajectories, experiments[0], "sqrt", METRICS[0]).values[1])
    figure.suptitle(
        f"{task_named(task).title}: end of training at equal samples, by rule (mean and 95% interval of {seeds} seeds)"
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _line(panel, groups, rule, metric, aside):
    unit = style.UNITS.get(metric, 1.0)
    baseline = unit * groups.values[1][:, -1].mean()
    kappas = [kappa for kappa in groups.kappas if kappa != 1 or rule == "sqrt"]
    values = [groups.values[kappa][:, -1:] for kappa in kappas]
    means = unit * np.array([v.mean() for v in values])
    low, high = (unit * bound[:, 0] for bound in stats.interval(stats.bootstrap_means(values), axis=1))
    look = style.RULE_STYLES[rule]
    if rule == "sqrt":
        panel.axhspan(low[0], high[0], color="0.88", zorder=0, label="baseline, 95% interval")
    else:
        panel.plot([1, aside * kappas[0]], [baseline, means[0]], **look | {"marker": None})
    errors = np.abs(np.array([low, high]) - means)
    panel.errorbar(aside * np.array(kappas), means, yerr=errors, capsize=2, label=style.RULES[rule], **look)
