"""``rules-<task>``: where each rule ends at each batch size, for every optimizer of a task."""

import matplotlib.pyplot as plt
import numpy as np

from adasde.analysis import statistics, tables
from adasde.analysis.figures import style
from adasde.analysis.figures.registry import COMPARED
from adasde.workloads.registry import workload_named

METRICS = ("train_loss", "test_accuracy", "log_perplexity", "squared_norm")  # those that a task measures


def draw(trajectories, task):
    """Final test functions against kappa, one line per rule: means and 95% intervals over seeds."""
    style.use()
    table = trajectories[trajectories["task"] == task]
    followed = table.groupby("experiment", sort=False)["rule"].agg(set)
    experiments = [name for name, rules in followed.items() if rules & COMPARED]
    measured = set(table["metric"])
    metrics = [metric for metric in METRICS if metric in measured] or METRICS[:1]
    figure, axes = plt.subplots(
        len(experiments),
        len(metrics),
        figsize=(9.6, 0.8 + 2.6 * len(experiments)),
        squeeze=False,
        sharex=True,
        sharey="col",
        layout="constrained",
    )
    for row, experiment in zip(axes, experiments, strict=True):
        runs = table[table["experiment"] == experiment]
        rules = [rule for rule in style.RULES if rule in set(runs["rule"])]
        for panel, metric in zip(row, metrics, strict=True):
            for place, rule in enumerate(rules):
                aside = 2.0 ** (0.1 * (place - (len(rules) - 1) / 2))  # keeps the intervals of rules apart
                groups = tables.groups(trajectories, experiment, rule, metric)
                _line(panel, groups, rule, style.UNITS.get(metric, 1.0), aside)
            panel.set_ylabel(style.LABELS[metric])
        row[len(metrics) // 2].set_title(style.OPTIMIZERS[runs["optimizer"].iloc[0]], fontweight="bold")
    norms = [line.get_ydata() for panel in axes[:, -1] for line in panel.lines]
    style.log_axis(axes[0, -1], norms)
    kappas = sorted(table["kappa"].unique())
    for panel in axes[-1]:
        panel.set_xscale("log", base=2)
        panel.set_xticks(kappas, [f"{k:g}" for k in kappas])
        panel.set_xlabel(r"batch multiplier $\kappa$ (rules side by side)")
    figure.suptitle(f"{workload_named(task).title}: end of training at equal samples, {style.sample(groups.seeds)}")
    style.legend(figure, axes.flat, columns=6)
    return figure


def _line(panel, groups, rule, unit, aside):
    final = {kappa: unit * values[:, -1:] for kappa, values in groups.healthy.items() if kappa != 1 or rule == "sqrt"}
    drawn = statistics.bootstrap_means(final) if final else {}
    means = np.array([values.mean() for values in final.values()])
    bounds = np.array([statistics.interval(drawn[kappa][:, 0]) for kappa in final]).reshape(-1, 2)
    look = style.RULE_STYLES[rule]
    if rule == "sqrt" and 1 in final:
        low, high = bounds[list(final).index(1)]
        panel.axhspan(low, high, color="0.88", zorder=0, label="baseline, 95% interval")
    if rule != "sqrt" and final and 1 in groups.healthy:
        panel.plot(
            [1, aside * min(final)], [unit * groups.values[1][:, -1].mean(), means[0]], **look | {"marker": None}
        )
    label = style.RULES[rule] + style.divergence(groups.diverged)
    errors = np.abs(bounds - means[:, None]).T
    panel.errorbar(aside * np.array(list(final)), means, yerr=errors, capsize=2, label=label, **look)
