"""``noise``: how far noise dominates the gradient along training, in the baselines."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, tables
from adasde.analysis.cells import row_name
from adasde.analysis.figures import style
from adasde.common import InputError

KINDS = {"scratch": "from scratch", "branch": "branches"}


def plot(trajectories: pd.DataFrame, subject: str) -> Figure:
    """B |grad f|^2 / tr Sigma of every baseline, from scratch and in branches; it is kappa times that at kappa."""
    measured = set(trajectories.loc[trajectories["metric"] == "noise_trace", "experiment"])
    if not measured:
        raise InputError("figure = 'noise': the runs hold no noise_trace; set evaluate.noise to 2 or more")
    sqrt = trajectories[(trajectories["rule"] == "sqrt") & (trajectories["kappa"] > 1)]
    kinds = [kind for kind in KINDS if kind in set(trajectories["kind"])]
    figure, (axes,) = style.panels(1, len(kinds), (2.4 + 3.4 * len(kinds), 5.4), sharey=True)
    kind_of = trajectories.drop_duplicates("experiment").set_index("experiment")["kind"]
    looks = style.looks_by_name(row_name(experiment) for experiment in kind_of.index if experiment in measured)
    seeds, last, key, shown = set(), [], {}, []
    for panel, kind in zip(axes, kinds, strict=True):
        own = [name for name in kind_of.index[kind_of == kind] if name in measured]
        for place, experiment in enumerate(own):
            ratios = _ratios(trajectories, experiment)
            if ratios is None:
                continue
            part, values = ratios
            mean, low, high = np.exp(statistics.mean_intervals({1: values})[1])
            look = looks[row_name(experiment)] | {"markersize": 5}
            aside = min(0.008, 0.08 / len(own)) * (place - (len(own) - 1) / 2)
            style.points(panel, part + aside, mean, low, high, **look)
            seeds.add(len(values))
            last.append(mean[-1])
            shown += [mean.min(), mean.max()]
            key[row_name(experiment)] = plt.Line2D([], [], **looks[row_name(experiment)])
        panel.set_title(KINDS[kind], fontweight="bold", loc="left")
        style.progress_axis(panel, 1.0, "part of the run")
        panel.set_xlim(-0.05, 1.05)
        panel.set_yscale("log")
        for kappa in [1, *sorted(sqrt.loc[sqrt["kind"] == kind, "kappa"].unique())]:
            panel.axhline(1 / kappa, color=style.kappa_colour(kappa), linestyle="--", linewidth=0.9)
    if not last:
        raise InputError("figure = 'noise': no baseline measured its noise up to its end")
    kappas = [1, *sorted(sqrt["kappa"].unique())]
    for kappa in kappas:
        handle = plt.Line2D([], [], color=style.kappa_colour(kappa), linestyle="--", linewidth=0.9)
        key[rf"signal = noise at $\kappa = {kappa:g}$"] = handle
    shown += [1 / kappa for kappa in kappas]
    axes[0].set_ylim(min(shown) / 3, 2 * max(shown))  # the intervals of few seeds may end at the frame
    axes[0].set_ylabel("signal over noise at the baseline's batch\n" + r"$B\,\|\nabla f\|^2 / \mathrm{tr}\,\Sigma$")
    style.legend(figure, key, columns=4)
    detail = f"geometric means and 95% intervals, {style.repeats(seeds)}; measured at the points"
    style.headline(figure, _message(np.array(last), max(kappas)), detail)
    return figure


def _message(last, kappa):
    """In how many baselines noise dominates at the end, and at the largest kappa."""
    start = f"Noise dominates in {int((last < 1).sum())} of {len(last)} baselines at the end of their runs"
    return start if kappa == 1 else f"{start}; in {int((kappa * last < 1).sum())} it still would at kappa {kappa:g}"


def _ratios(trajectories, experiment):
    """Parts of the run, and the logarithm of each baseline's signal over noise; None if one diverged.

    An estimate below a tenth of its error, from so few examples, counts as that tenth. The error is the difference
    between the unbiased estimate and the subset's own squared gradient: there are enough examples for the noise.
    """
    squares, traces, norms = (
        tables.groups(trajectories, experiment, "sqrt", metric)
        for metric in ("squared_gradient", "noise_trace", "gradient_norm")
    )
    if 1 not in squares.healthy:
        return None
    square, trace, norm = (groups.values[1] for groups in (squares, traces, norms))
    error = norm**2 - square
    return squares.epoch / squares.epoch[-1], np.log(squares.batch_size[1] * np.maximum(square, error / 10) / trace)
