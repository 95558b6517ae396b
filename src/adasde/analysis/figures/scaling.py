"""``scaling-<experiment>``: every batch size under the square-root rule, and its gap to the baseline, on one clock."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import reference
from adasde.analysis.cells import forecast_limit, limit
from adasde.analysis.claims.experiment import BASELINE, Experiment, Followed
from adasde.analysis.figures import gaps, style


def plot(trajectories: pd.DataFrame, claims: pd.DataFrame, experiment: str) -> Figure:
    """One curve per batch size, named by it and its kappa."""
    found = Experiment(trajectories, experiment)
    sizes = found.groups(BASELINE[0], found.metrics[0]).batch_size

    def label(kappa):
        return rf"$B = {sizes[kappa]}$" + (" (baseline)" if kappa == 1 else rf" ($\kappa = {kappa:g}$)")

    parts = [f"Square root: {limit(claims, 'rule', sizes[1])}", forecast_limit(claims, sizes[1])]
    message = "; ".join(part for part in parts if part)
    figure = compare(found, "sqrt", style.kappa_colour, label, message)
    if "log_perplexity" in found.metrics:
        panel = figure.axes[style.metrics_of(trajectories).index("log_perplexity")]
        _published(panel, f"{trajectories['workload'].iloc[0]}-{trajectories['optimizer'].iloc[0]}", found, sizes)
    style.legend(figure, figure.axes, columns=4)
    return figure


def compare(
    found: Experiment, rule: str, colour: Callable[[float], Any], label: Callable[[float], str], message: str
) -> Figure:
    """Plot the mean test functions over seeds (top), and their gaps to level 1 (bottom).

    A level is a kappa or an ell, as in tables.Groups, and ``label(level)`` its legend entry.
    """
    metrics = style.metrics_of(found.trajectories, message)
    followed = Followed(rule)
    figure, axes = style.panels(2, len(metrics), (3.2 * len(metrics), 5.6), sharex=True)
    lines = [(*BASELINE, {"color": colour(1), "label": label(1)})]
    for level in found.levels(followed):
        name = label(level) + gaps.remark(found, followed, level)
        lines.append((followed, level, {"color": colour(level), "label": name}))
    for (top, bottom), metric in zip(axes.T, metrics, strict=True):
        gaps.curve_panel(top, found, metric, lines)
        if metric == "squared_norm" and rule == "sqrt" and found.has_lags:
            gaps.lag_panel(bottom, found, lines[1:])  # from scratch, the norm is not judged and the lag is
        else:
            gaps.gap_panel(bottom, found, metric, lines[1:])
        if metric in {"train_loss", "test_loss"}:
            style.log_axis(top, [line.get_ydata() for line in top.lines])
    what = f"{style.subject(found.trajectories.iloc[0])}, {gaps.seeds_of(found, lines)}"
    style.headline(figure, message, f"{what}; top: means; bottom: mean gaps to the baseline with {gaps.INTERVAL}")
    return figure


def _published(panel, name, found, sizes):
    """Plot the authors' own curves of the experiment ``name`` behind ours, if there are any."""
    published, end = reference.author_curves(name), found.groups(BASELINE[0], "log_perplexity").epoch[-1]
    kappas = {size: kappa for kappa, size in sizes.items()}
    for size, (part, value) in published.items():
        colour = style.kappa_colour(kappas[size]) if size in kappas else "0.7"
        panel.plot(end * np.array(part), value, color=colour, linewidth=3.0, alpha=0.3, zorder=0)
    if published:
        panel.plot([], [], color="0.6", linewidth=3.0, alpha=0.5, label="the authors'")
