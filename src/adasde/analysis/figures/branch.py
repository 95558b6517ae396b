"""``branch-<experiment>``: how far every batch size, and every other rule, leaves the baseline in a branch."""

import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis.cells import ORDER, forecast_limit, limit
from adasde.analysis.claims.experiment import BASELINE, Experiment, Followed
from adasde.analysis.figures import gaps, style
from adasde.analysis.figures.registry import MOMENTS


def plot(trajectories: pd.DataFrame, claims: pd.DataFrame, experiment: str) -> Figure:
    """Gaps along the branch: the square root at every kappa (top), other rules at their largest kappa (bottom)."""
    found, sqrt = Experiment(trajectories, experiment), Followed("sqrt")
    size = found.groups(BASELINE[0], found.metrics[0]).batch_size[1]
    rule = [(sqrt, kappa, _look(found, sqrt, kappa)) for kappa in found.levels(sqrt)]
    others = [Followed(rule) for rule in ORDER if rule not in {"sqrt", *MOMENTS} and found.levels(Followed(rule))]
    largest = max((found.levels(other)[-1] for other in others), default=0.0)
    beside = [(other, largest, _look(found, other)) for other in others if largest in found.levels(other)]
    rows = [lines for lines in (rule, beside) if lines]
    parts = [f"Square root: {limit(claims, 'rule', size)}" if rule else "", forecast_limit(claims, size)]
    message = "; ".join(part for part in parts if part)
    metrics = style.metrics_of(trajectories, message)
    size_ = (1.6 + 3.1 * len(metrics), 0.9 + 2.5 * len(rows))
    figure, axes = style.panels(len(rows), len(metrics), size_, sharex=True)
    for panels, lines in zip(axes, rows, strict=True):
        for panel, metric in zip(panels, metrics, strict=True):
            gaps.gap_panel(panel, found, metric, lines)
            if panel not in axes[-1]:
                panel.set_xlabel("")
        title = "square root" if lines is rule else rf"other rules at $\kappa = {largest:g}$"
        panels[0].set_title(title, loc="left", fontweight="bold")
        named = style.named(panels)
        panels[-1].legend(named.values(), named.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    what = f"{style.subject(trajectories.iloc[0])}, branches from one state, {gaps.seeds_of(found, rule + beside)}"
    style.headline(figure, message, f"{what}; mean gaps to the baseline, batch {size}, with {gaps.INTERVAL}")
    return figure


def _look(found, followed, kappa=None):
    lost = gaps.remark(found, followed, kappa or found.levels(followed)[-1])
    if kappa:
        return {"color": style.kappa_colour(kappa), "label": style.kappa_label(kappa) + lost}
    return style.RULE_STYLES[followed.rule] | {"label": style.RULES[followed.rule] + lost}
