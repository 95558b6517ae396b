"""``ablation``: what each part of a scaling rule does, with an epsilon too small to matter and with one that does."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, tables
from adasde.analysis.claims.closeness import closeness_metrics, geometric_mean, typical_distance
from adasde.analysis.figures import style
from adasde.analysis.figures.registry import COMPARED
from adasde.scaling.hyperparameters import OPTIMIZERS
from adasde.scaling.rules import ABLATIONS
from adasde.workloads.registry import workload_named

UNKNOWN = (np.nan,) * 3


def plot(trajectories: pd.DataFrame, subject: str) -> Figure:
    """Per optimizer (rows) and epsilon (columns): each rule's final train loss and distance from the baseline."""
    parts = dict(iter(trajectories.groupby("experiment", sort=False)))
    first = {name: part[(part["rule"] == "sqrt") & (part["kappa"] == 1)].iloc[0] for name, part in parts.items()}
    rows = {}
    for name in sorted(parts, key=lambda name: first[name]["eps"]):
        rows.setdefault(first[name]["optimizer"], []).append(name)
    width = 2 * max(map(len, rows.values()))
    figure, axes = style.panels(len(rows), width, (1.0 + 2.7 * width, 1.0 + 2.8 * len(rows)))
    kappas = sorted(trajectories.loc[trajectories["rule"].isin({*ABLATIONS, *COMPARED}), "kappa"].unique())
    colours = style.colours_of([1, *kappas])
    for line, (optimizer, names) in zip(axes, sorted(rows.items()), strict=True):
        for panel in line[2 * len(names) :]:
            panel.set_visible(False)
        for loss, distance, name in zip(line[::2], line[1::2], names, strict=False):
            rules = [rule for rule in style.RULES if rule in set(parts[name]["rule"])]
            _final(loss, parts[name], name, rules, kappas, colours)
            _distances(distance, parts[name], name, rules, kappas, colours)
            eps = f"{first[name]['eps']:.0e}".replace("e-0", "e-")
            loss.set_title(rf"{OPTIMIZERS[optimizer].title}, $\epsilon$ = {eps}", fontweight="bold", loc="left")
            for panel in (loss, distance):
                panel.set_xticks(range(len(rules)), [style.RULES[rule] for rule in rules])
                plt.setp(panel.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    seeds = {part["seed"].nunique() for part in parts.values()}
    title = workload_named(trajectories["task"].iloc[0]).title
    figure.suptitle(f"{title}: parts of the rule left out, {style.sample(seeds)}")
    style.legend(figure, axes[0, :1])
    return figure


def _final(panel, trajectories, experiment, rules, kappas, colours):
    """Plot the train loss at the end."""
    ends = {}
    for rule in {"sqrt": None} | dict.fromkeys(rules):
        healthy = tables.groups(trajectories, experiment, rule, "train_loss").healthy
        ends[rule] = statistics.mean_intervals({kappa: values[:, -1:] for kappa, values in healthy.items()})
    if 1 in ends["sqrt"]:
        panel.axhspan(*ends["sqrt"][1][1:, 0], **style.BAND, label=style.BASELINE)
    for kappa in kappas:
        cells = [ends[rule][kappa][:, 0] if kappa in ends[rule] else UNKNOWN for rule in rules]
        _points(panel, cells, kappa, kappas, colours)
    panel.set_ylabel("final train loss (nats)")


def _distances(panel, trajectories, experiment, rules, kappas, colours):
    """Plot the geometric mean of the test functions' typical distances, as in the claims of closeness."""
    metrics = closeness_metrics(trajectories)
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
                cells.append(UNKNOWN)
        _points(panel, cells, kappa, kappas, colours)
    style.log_axis(panel)
    panel.set_ylabel("typical distance from baseline\n(seed deviations)")


def _points(panel, cells, kappa, kappas, colours):
    """Plot one point per rule, (value, low, high), those of the kappas side by side."""
    x = np.arange(len(cells)) + 0.22 * (kappas.index(kappa) - (len(kappas) - 1) / 2)
    style.points(panel, x, *np.array(cells).T, linestyle="", color=colours[kappa], label=style.kappa_label(kappa))
    panel.set_xlim(-0.5, len(cells) - 0.5)
