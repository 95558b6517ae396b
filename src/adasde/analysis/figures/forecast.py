"""``forecast``: the lag that the baseline's noise forecasts for larger batches, and the lag that they have."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import stdtrit

from adasde.analysis import statistics
from adasde.analysis.figures import gaps, style
from adasde.analysis.lags import has_lags, measured_lags, paired_lags, simulated_lags
from adasde.analysis.statistics import TAIL, Sample
from adasde.analysis.tables import groups, whole_simulations
from adasde.common import InputError
from adasde.scaling.lag import TOLERATED

LIMITS = (-0.15, 1.02)
CASES = {"seeds": "trained", "batches of paths": "simulated"}


def plot(trajectories: pd.DataFrame, simulations: pd.DataFrame, subject: str) -> Figure:
    """One point per experiment, or oracle, and kappa: the lag at the end of the run, forecast and observed."""
    points = pd.DataFrame([*_networks(trajectories), *_oracles(simulations)])
    if points.empty:
        raise InputError("figure = 'forecast': no baseline at a constant learning rate recorded its speeds")
    looks = style.looks_of(zip(points["what"], points["optimizer"], strict=True))
    figure, ((panel,),) = style.panels(1, 1, (9.0, 5.2))
    for low, high in ((LIMITS[0], TOLERATED), (TOLERATED, LIMITS[1])):
        panel.fill_between([low, high], low, high, **style.TOLERATED)
    panel.plot(LIMITS, LIMITS, color="0.6", linewidth=0.8, linestyle=":")
    for line in (panel.axhline, panel.axvline):
        line(TOLERATED, color="0.4", linewidth=0.8)
    for point in points.itertuples():
        look = looks[point.what, point.optimizer] | {"color": style.kappa_colour(point.kappa), "markersize": 5.5}
        panel.plot([point.forecast] * 2, np.clip([point.low, point.high], *LIMITS), color=look["color"], alpha=0.5)
        panel.plot([point.forecast], [np.clip(point.observed, *LIMITS)], **look)
    panel.set(xlim=(0.0, LIMITS[1]), ylim=LIMITS)
    panel.set_xlabel("lag forecast for the end of the run (part of the time)")
    panel.set_ylabel("lag observed there (part of the time)")
    key = {style.kappa_label(k): _handle("o", style.kappa_colour(k)) for k in sorted(points["kappa"].unique())}
    for point in points.drop_duplicates(["what", "optimizer"]).itertuples():
        key[point.title] = _handle(color="0.3", **looks[point.what, point.optimizer])
    key["forecast and observed are equal"] = plt.Line2D([], [], color="0.6", linestyle=":")
    key["same side of 10%"] = plt.Rectangle((0, 0), 1, 1, facecolor=style.TOLERATED["color"])
    panel.legend(key.values(), key.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    same = (points["forecast"] <= TOLERATED) == (points["observed"] <= TOLERATED)
    counts = [f"{int(same[part.index].sum())} of {len(part)} {CASES[kind]}" for kind, part in points.groupby("repeats")]
    message = f"Forecast and observed lag are on the same side of 10% in {' and '.join(counts[::-1])} cases"
    style.headline(figure, message, f"bars: {gaps.INTERVAL}; {_sizes(points)}")
    return figure


def _handle(marker, color, **look):
    return plt.Line2D([], [], linestyle="", markersize=6, marker=marker, color=color, **look)


def _networks(trajectories):
    """Points of the experiments from scratch that have lags; the observed one pairs seeds."""
    for name, part in trajectories.groupby("experiment", sort=False):
        if not has_lags(part, name):
            continue
        lags, losses = measured_lags(part, name), groups(part, name, "sqrt", "train_loss")
        for kappa, curve in lags.predicted.items():
            values, reference = losses.pairs(kappa, losses, 1)
            if not len(values):
                continue
            gap = Sample((paired_lags(losses.time, reference, values)[:, -1:],)).gap
            half = stdtrit(gap.freedom, 1.0 - TAIL) * gap.error[0]
            row = part.iloc[0]
            yield {
                "what": row["workload"], "optimizer": row["optimizer"], "title": style.entry(row),
                "kappa": kappa, "forecast": curve[-1], "observed": gap.mean[0],
                "low": gap.mean[0] - half, "high": gap.mean[0] + half, "n": len(values), "repeats": "seeds",
            }  # fmt: skip


def _oracles(simulations):
    """Points of the oracles, whose gradient and noise are known exactly."""
    for run, part in simulations.groupby("run", sort=False):
        with whole_simulations():
            lags = simulated_lags(part, run)
        for kappa, curve in lags.predicted.items():
            drawn, row = lags.drawn_observed[kappa][:, -1], part.iloc[0]
            drawn = drawn[np.isfinite(drawn)]
            low, high = statistics.interval(drawn, 1 - 2 * TAIL) if len(drawn) else (np.nan, np.nan)
            yield {
                "what": row["oracle"], "optimizer": row["optimizer"], "title": f"{style.entry(row)} (simulated)",
                "kappa": kappa, "forecast": curve[-1], "observed": lags.observed[kappa][-1],
                "low": low, "high": high, "n": lags.seeds, "repeats": "batches of paths",
            }  # fmt: skip


def _sizes(points):
    """How many seeds and batches of paths there are."""
    return ", ".join(style.repeats(set(part["n"]), many=name) for name, part in points.groupby("repeats", sort=False))
