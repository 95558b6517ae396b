"""``breakdown``: where the square-root rule falls behind, predicted from the baseline's noise and observed."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb

from adasde.analysis import statistics
from adasde.analysis.figures import style
from adasde.analysis.lags import has_lags, measured_lags, simulated_lags
from adasde.common import InputError
from adasde.experiments.studies import ORACLES
from adasde.workloads.registry import workload_named

ACROSS = 3  # columns beside each other
# Parts of the run, at the measurements nearest to which the lag is drawn against kappa.
MOMENTS = {0.25: "about ¼ of the run", 0.5: "about ½ of it", 1.0: "its end"}


def draw(trajectories, simulations, subject):
    """Lag behind the baseline against kappa, top, and along training, bottom: lines predicted, points observed."""
    style.use()
    networks, oracles = _columns(trajectories), _oracles(simulations)
    columns = networks + oracles
    if not columns:
        raise InputError("figure = 'breakdown': no baseline at a constant learning rate recorded its speeds")
    across = min(len(columns), ACROSS)
    blocks = -(-len(columns) // across)
    size = (1.6 + 3.4 * across, 6.4 * blocks)
    figure, axes = plt.subplots(2 * blocks, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    pairs = axes.reshape(blocks, 2, across).swapaxes(1, 2).reshape(-1, 2)
    colours = style.batch_colours({1.0}.union(*(lags.predicted for _, lags in columns)))
    for (top, bottom), (title, lags) in zip(pairs, columns, strict=False):
        _against_kappa(top, lags)
        _against_time(bottom, lags, colours)
        top.set_title(title, fontweight="bold")
    for panel in pairs[len(columns) :].flat:
        panel.set_axis_off()
    axes[0, 0].set_ylim(-0.3, 1.02)
    for panel in axes[:, 0]:
        panel.set_ylabel("lag behind the baseline")
    _legend(axes[0, -1], dict(zip(MOMENTS.values(), _shades(), strict=True)))
    _legend(axes[1, -1], {rf"$\kappa = {kappa:g}$": colour for kappa, colour in colours.items() if kappa > 1})
    sizes = [
        f"{' or '.join(map(str, sorted({lags.seeds for _, lags in part})))} {what}"
        for part, what in ((networks, "seeds"), (oracles, "batches of paths"))
        if part
    ]
    figure.suptitle(f"Square-root rule: where the batch gets too large; means and 95% intervals ({', '.join(sizes)})")
    return figure


def _columns(trajectories):
    """What each column shows, (title, Lags): the experiments that compare the most batch sizes, or nearly so."""
    rows = trajectories[trajectories["rule"] == "sqrt"].groupby("experiment", sort=False)
    counts = {name: rows.get_group(name)["kappa"].nunique() for name in rows.groups if has_lags(trajectories, name)}
    columns = []
    for name, count in counts.items():
        if count > 0.7 * max(counts.values()):
            row = rows.get_group(name).iloc[0]
            title = f"{style.OPTIMIZERS[row['optimizer']]},\n{workload_named(row['task']).title}"
            columns.append((title, measured_lags(trajectories, name)))
    return columns


def _oracles(simulations):
    """Columns of the oracles, whose gradient and noise are known exactly."""
    rows = simulations[simulations["study"] == "breakdown"]
    columns = []
    for run, part in rows.groupby("run", sort=False):
        title = f"{style.OPTIMIZERS[part['optimizer'].iloc[0]]},\n{ORACLES[part['oracle'].iloc[0]].title}"
        columns.append((title, simulated_lags(simulations, run)))
    return columns


def _shades():
    return plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(MOMENTS)))


def _legend(panel, colours):
    """Name right of a panel the colours of all panels in its row and those below."""
    look = {"color": "0.4", "markersize": 4}
    handles = [plt.Line2D([], [], color=colour) for colour in colours.values()]
    handles += [plt.Line2D([], [], **look), plt.Line2D([], [], linestyle="", marker="o", **look)]
    panel.legend(handles, [*colours, "predicted", "observed"], loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _against_kappa(panel, lags):
    kappas = list(lags.predicted)
    for place, (part, colour) in enumerate(zip(MOMENTS, _shades(), strict=True)):
        point = int(np.argmin(np.abs(lags.time - part * lags.time[-1])))
        predicted = np.array([0.0, *(lags.predicted[k][point] for k in kappas)])
        low, high = _bounds([lags.drawn_predicted[k][:, point] for k in kappas])
        panel.fill_between([1, *kappas], [0, *low], [0, *high], color=colour, alpha=0.15, linewidth=0)
        panel.plot([1, *kappas], predicted, color=colour)
        aside = 2.0 ** (0.12 * (place - (len(MOMENTS) - 1) / 2))  # keeps the intervals of moments apart
        observed = np.array([lags.observed[k][point] for k in kappas])
        _points(panel, aside * np.array(kappas), observed, [lags.drawn_observed[k][:, point] for k in kappas], colour)
    panel.set_xscale("log", base=2)
    panel.set_xticks([1, *kappas], [f"{kappa:g}" for kappa in (1, *kappas)])
    panel.set_xlabel(r"batch multiplier $\kappa$ (moments side by side)")


def _against_time(panel, lags, colours):
    for place, kappa in enumerate(lags.predicted):
        low, high = _bounds(lags.drawn_predicted[kappa].T)
        panel.fill_between(lags.progress, low, high, color=colours[kappa], alpha=0.1, linewidth=0)
        panel.plot(lags.progress, lags.predicted[kappa], color=colours[kappa])
        aside = (
            0.008 * lags.progress[-1] * (place - (len(lags.predicted) - 1) / 2)
        )  # keeps the intervals of kappas apart
        _points(panel, lags.progress + aside, lags.observed[kappa], lags.drawn_observed[kappa].T, colours[kappa])
    panel.set_xlim(0, lags.progress[-1] * 1.04)
    panel.set_xlabel(f"{lags.unit} (batch sizes side by side)")


def _points(panel, x, values, drawn, colour):
    """Points with their intervals, where there is a value; the interval may be unknown."""
    low, high = _bounds(drawn)
    there = np.isfinite(values)
    errors = np.maximum([values - low, high - values], 0.0)[:, there]
    panel.errorbar(
        x[there], values[there], yerr=errors, linestyle="", marker="o", color=colour, ecolor=(*to_rgb(colour), 0.45)
    )


def _bounds(drawn):
    """95% intervals of replicates, one row per point; of those that have a value, unless most have none."""
    bounds = []
    for row in drawn:
        known = row[np.isfinite(row)]
        bounds.append(statistics.interval(known) if 2 * len(known) > len(row) else (np.nan, np.nan))
    return np.array(bounds).T
