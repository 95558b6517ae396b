"""``breakdown``: where the square-root rule falls behind, predicted from the baseline's noise and observed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from adasde.analysis import statistics
from adasde.analysis.figures import style
from adasde.analysis.lags import has_lags, measured_lags, simulated_lags
from adasde.common import InputError

# Parts of the run, at the measurements nearest to which the lag is drawn against kappa.
TIMES = {0.25: "about ¼ of the run", 0.5: "about ½ of it", 1.0: "its end"}


def plot(trajectories: pd.DataFrame, simulations: pd.DataFrame, subject: str) -> Figure:
    """Lag behind the baseline against kappa, top, and along training, bottom: lines predicted, points observed."""
    networks, oracles = _networks(trajectories), _oracles(simulations)
    columns = networks + oracles
    if not columns:
        raise InputError("figure = 'breakdown': no baseline at a constant learning rate recorded its speeds")
    figure, pairs, across = style.pairs(len(columns), (3.4, 6.4), (1.6, 0.0), sharey=True)
    colours = style.colours_of({1.0}.union(*(lags.predicted for _, lags in columns)))
    shades = style.colours_of(TIMES)
    for (top, bottom), (title, lags) in zip(pairs, columns, strict=True):
        _against_kappa(top, lags, shades)
        _against_time(bottom, lags, colours)
        top.set_title(title, fontweight="bold")
    pairs[0, 0].set_ylim(-0.3, 1.02)
    for panel in pairs[::across].flat:
        panel.set_ylabel("lag behind the baseline")
    _legend(pairs[across - 1, 0], {TIMES[part]: shade for part, shade in shades.items()})
    _legend(pairs[across - 1, 1], {style.kappa_label(kappa): c for kappa, c in colours.items() if kappa > 1})
    sizes = [
        f"{' or '.join(map(str, sorted({lags.seeds for _, lags in part})))} {what}"
        for part, what in ((networks, "seeds"), (oracles, "batches of paths"))
        if part
    ]
    figure.suptitle(f"Square-root rule: where the batch gets too large; means and 95% intervals ({', '.join(sizes)})")
    return figure


def _networks(trajectories):
    """The columns of networks, (title, Lags): the experiments that compare the most batch sizes, or nearly so."""
    parts = dict(iter(trajectories[trajectories["rule"] == "sqrt"].groupby("experiment", sort=False)))
    counts = {name: part["kappa"].nunique() for name, part in parts.items() if has_lags(part, name)}
    names = [name for name, count in counts.items() if count > 0.7 * max(counts.values())]
    return [(style.subject(parts[name].iloc[0], ",\n"), measured_lags(parts[name], name)) for name in names]


def _oracles(simulations):
    """The columns of oracles, whose gradient and noise are known exactly."""
    runs = simulations.groupby("run", sort=False)
    return [(style.subject(part.iloc[0], ",\n"), simulated_lags(part, run)) for run, part in runs]


def _legend(panel, colours):
    """Name right of a panel the colours of all panels in its row and those below."""
    look = {"color": "0.4", "markersize": 4}
    handles = [plt.Line2D([], [], color=colour) for colour in colours.values()]
    handles += [plt.Line2D([], [], **look), plt.Line2D([], [], linestyle="", marker="o", **look)]
    panel.legend(handles, [*colours, "predicted", "observed"], loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _against_kappa(panel, lags, shades):
    kappas = list(lags.predicted)
    for place, (part, colour) in enumerate(shades.items()):
        point = int(np.argmin(np.abs(lags.time - part * lags.time[-1])))
        predicted, observed = (np.array([of[k][point] for k in kappas]) for of in (lags.predicted, lags.observed))
        low, high = _bounds([lags.drawn_predicted[k][:, point] for k in kappas])
        curves = ([0.0, *curve] for curve in (predicted, low, high))
        style.curve(panel, [1, *kappas], *curves, colour, alpha=0.15, marker=None)
        aside = 2.0 ** (0.12 * (place - (len(TIMES) - 1) / 2))  # keeps the intervals of times apart
        _points(panel, aside * np.array(kappas), observed, [lags.drawn_observed[k][:, point] for k in kappas], colour)
    style.kappa_axis(panel, [1, *kappas], r"batch multiplier $\kappa$ (moments side by side)")


def _against_time(panel, lags, colours):
    for place, kappa in enumerate(lags.predicted):
        bounds = _bounds(lags.drawn_predicted[kappa].T)
        look = {"alpha": 0.1, "marker": None}
        style.curve(panel, lags.progress, lags.predicted[kappa], *bounds, colours[kappa], **look)
        # Keeps the intervals of kappas apart.
        aside = 0.008 * lags.progress[-1] * (place - (len(lags.predicted) - 1) / 2)
        _points(panel, lags.progress + aside, lags.observed[kappa], lags.drawn_observed[kappa].T, colours[kappa])
    panel.set_xlim(0, lags.progress[-1] * 1.04)
    panel.set_xlabel(f"{lags.unit} (batch sizes side by side)")


def _points(panel, x, values, drawn, colour):
    """Plot points with their intervals, where there is a value; the interval may be unknown."""
    low, high = _bounds(drawn)
    there, look = np.isfinite(values), {"color": colour, "ecolor": (*to_rgb(colour), 0.45), "linestyle": ""}
    style.points(panel, x[there], values[there], low[there], high[there], capsize=None, **look)


def _bounds(drawn):
    """95% intervals of replicates, one row per point; of those that have a value, unless most have none."""
    bounds = []
    for row in drawn:
        known = row[np.isfinite(row)]
        bounds.append(statistics.interval(known) if 2 * len(known) > len(row) else (np.nan, np.nan))
    return np.array(bounds).T
