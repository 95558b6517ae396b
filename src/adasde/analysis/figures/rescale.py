"""``rescale``: what becomes of a branch if the second moment is carried over, kept as it is, or started afresh."""

import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis.claims.experiment import BASELINE, Experiment, Followed
from adasde.analysis.figures import gaps, style
from adasde.common import InputError

WAYS = {"transport": "carried over (the rule)", "keep": "kept as it is", "fresh": "started afresh (new optimizer)"}
WORDS = {"transport": "carried over", "keep": "kept", "fresh": "new optimizer"}
METRICS = ("train_loss", "squared_norm")
MOST = 3  # columns


def plot(trajectories: pd.DataFrame, subject: str) -> Figure:
    """Gaps of loss and norm; a column per kappa, or where several experiments show it, each at its middle kappa."""
    found = [Experiment(part, name) for name, part in trajectories.groupby("experiment", sort=False)]
    found = [one for one in found if one.seeds(*BASELINE)]
    if not found:
        raise InputError("figure = 'rescale': no experiment has runs of its baseline, sqrt at kappa 1")
    levels = {one.name: _levels(one) for one in found}
    if len(found) > 1:
        levels = {name: own[len(own) // 2 :][:1] for name, own in levels.items()}
    places = [(one, kappa) for one in found for kappa in levels[one.name]][:MOST]
    figure, axes = style.panels(2, len(places), (max(8.0, 3.3 * len(places)), 5.4), sharex="col")
    for column, (one, kappa) in zip(axes.T, places, strict=True):
        lines = []
        for place, way in enumerate(way for way in WAYS if kappa in one.levels(Followed("sqrt", way))):
            followed = Followed("sqrt", way)
            lost = gaps.remark(one, followed, kappa)
            look = style.RULE_STYLES["sqrt" if way == "transport" else way]
            lines.append((followed, kappa, look | {"label": WAYS[way] + lost, "zorder": 3 - 0.1 * place}))
        for panel, metric in zip(column, METRICS, strict=True):
            gaps.gap_panel(panel, one, metric, lines)
        column[0].set_xlabel("")
        size = one.groups(BASELINE[0], METRICS[0]).batch_size[1]
        title = rf"$\kappa = {kappa:g}$: batch {size} to {size * kappa:g}"
        column[0].set_title(title if len(found) == 1 else f"{one.name}\n{title}", fontsize="medium")
    seeds = style.repeats({one.seeds(Followed("sqrt"), kappa) for one, kappa in places})
    what = style.subject(trajectories.iloc[0]) if len(found) == 1 else "branches from one state each"
    style.headline(figure, _message(places), f"{what}; mean gaps to the baseline with {gaps.INTERVAL}, {seeds}")
    style.legend(figure, axes.flat, columns=4)
    return figure


def _levels(one):
    """The kappas at which the second moment was treated in several ways."""
    return sorted({level for way in ("keep", "fresh") for level in one.levels(Followed("sqrt", way))})


def _message(places):
    """In how many columns a mean gap leaves its tolerance, by what becomes of the second moment."""
    words = []
    for way, text in WORDS.items():
        shown = [(one, kappa) for one, kappa in places if kappa in one.levels(Followed("sqrt", way))]
        if shown:
            words.append(f"{text} {sum(_leaves(one, kappa, way) for one, kappa in shown)} of {len(shown)}")
    return f"Columns in which a mean gap leaves its tolerance: {', '.join(words)}"


def _leaves(one, kappa, way):
    """Whether the largest gap of loss or norm is beyond its tolerance; so are runs that diverged."""
    followed = Followed("sqrt", way)
    if one.diverged(followed, kappa) or one.missing(followed, kappa):
        return bool(one.diverged(followed, kappa))
    metrics = [metric for metric in METRICS if metric in one.metrics]
    return any(one.sample(followed, kappa, m).gap.largest > one.tolerance(m, kappa).value for m in metrics)
