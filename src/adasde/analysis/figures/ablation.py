"""``ablation``: what each part of a scaling rule does, with an epsilon too small to matter and with one that does."""

import matplotlib.pyplot as plt
import numpy as np

from adasde.analysis import statistics, tables
from adasde.analysis.claims.closeness import closeness_metrics, geometric_mean, typical_distance
from adasde.analysis.figures import style
from adasde.analysis.figures.registry import COMPARED
from adasde.scaling.rules import ABLATIONS
from adasde.workloads.registry import workload_named


def draw(trajectories, subject):
    """Per optimizer (rows) and epsilon (columns): each rule's final train loss and distance from the baseline."""
    style.use()
    rules = trajectories.groupby("experiment", sort=False)["rule"].agg(set)
    parts = [name for name, followed in rules.items() if followed & set(ABLATIONS)]
    first = trajectories[(trajectories["rule"] == "sqrt") & (trajectories["kappa"] == 1)].groupby("experiment").first()
    task = first.loc[parts[0], "task"]
    wanted = [name for name in rules.index if rules[name] & {*ABLATIONS, *COMPARED} and first.loc[name, "task"] == task]
    rows = {}
    for name in sorted(wanted, key=lambda name: first.loc[name, "eps"]):
        rows.setdefault(first.loc[name, "optimizer"], []).append(name)
    width = 2 * max(map(len, rows.values()))
    size = (1.0 + 2.7 * width, 1.0 + 2.8 * len(rows))
    figure, axes = plt.subplots(len(rows), width, figsize=size, squeeze=False, layout="constrained")
    kappas = sorted(trajectories.loc[trajectories["rule"].isin({*ABLATIONS, *COMPARED}), "kappa"].unique())
    colours = style.batch_colours([1, *kappas])
    for line, (optimizer, names) in zip(axes, sorted(rows.items()), strict=True):
        for panel in line[2 * len(names) :]:
            panel.set_visible(False)
        for place, name in enumerate(names):
            runs = trajectories[trajectories["experiment"] == name]
            followed = [rule for rule in style.RULES if rule in rules[name]]
            loss, distance = line[2 * place : 2 * place + 2]
            _final(loss, runs, name, followed, kappas, colours)
            _distances(distance, runs, name, followed, kappas, colours)
            eps = f"{first.loc[name, 'eps']:.0e}".replace("e-0", "e-")
            loss.set_title(rf"{style.OPTIMIZERS[optimizer]}, $\epsilon$ = {eps}", fontweight="bold", loc="left")
            for panel in (loss, distance):
                panel.set_xticks(range(len(followed)), [style.RULES[rule] for rule in followed])
                plt.setp(panel.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    seeds = set(trajectories[trajectories["experiment"].isin(wanted)].groupby("experiment")["seed"].nunique())
    figure.suptitle(f"{workload_named(task).title}: parts of the rule left out, {style.sample(seeds)}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _final(panel, trajectories, experiment, rules, kappas, colours):
    root = tables.groups(trajectories, experiment, "sqrt", "train_loss")
    if 1 in root.healthy:
        low, high = statistics.interval(
            statistics.bootstrap_means({k: v[:, -1:] for k, v in root.healthy.items()})[1][:, 0]
        )
        panel.axhspan(low, high, color="0.88", zorder=0, label="baseline, 95% interval")
    for kappa in kappas:
        cells = []
        for rule in rules:
            groups = tables.groups(trajectories, experiment, rule, "train_loss")
            final = {k: values[:, -1:] for k, values in groups.healthy.items()}
            if kappa in final:
                cells.append(
                    (final[kappa].mean(), *statistics.interval(statistics.bootstrap_means(final)[kappa][:, 0]))
                )
            else:
                cells.append((np.nan,) * 3)
        _points(panel, cells, kappa, kappas, colours)
    panel.set_ylabel("final train loss (nats)")


def _distances(panel, trajectories, experiment, rules, kappas, colours):
    """Geometric mean of the test functions' typical distances, as in the claims of closeness."""
    metrics = closeness_metrics(trajectories, experiment)
    groups = {
        rule: [tables.groups(trajectories, experiment, rule, metric) for metric in metrics] for rule in {"sqrt", *rules}
    }
    for kappa in kappas:
        cells = []
        for rule in rules:
            pairs = list(zip(groups["sqrt"], groups[rule], strict=True))
            if all(1 in root.healthy and kappa in other.healthy for root, other in pairs):
                found = [typical_distance(root, root if rule == "sqrt" else o, kappa) for root, o in pairs]
                values, replicates = (geometric_mean(part) for part in zip(*found, strict=True))
                cells.append((values, *statistics.interval(replicates)))
            else:
                cells.append((np.nan,) * 3)
        _points(panel, cells, kappa, kappas, colours)
    panel.set_yscale("log")
    style.plain_log(panel)
    panel.set_ylabel("typical distance from baseline\n(seed deviations)")


def _points(panel, cells, kappa, kappas, colours):
    """One point per rule, (value, low, high), those of the kappas side by side."""
    values, low, high = np.array(cells).T
    x = np.arange(len(cells)) + 0.22 * (kappas.index(kappa) - (len(kappas) - 1) / 2)
    errors = np.maximum([values - low, high - values], 0.0)
    label = rf"$\kappa = {kappa:g}$"
    panel.errorbar(x, values, yerr=errors, linestyle="", marker="o", capsize=2, color=colours[kappa], label=label)
    panel.set_xlim(-0.5, len(cells) - 0.5)
