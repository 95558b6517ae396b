"""``finetune``: what fine-tuning makes of models that were pre-trained at several batch sizes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adasde.analysis import statistics, tables
from adasde.analysis.claims.finetuning import score_of
from adasde.analysis.claims.tolerances import ACCURACY
from adasde.analysis.figures import style
from adasde.workloads.registry import workload_named


def plot(trajectories: pd.DataFrame, subject: str) -> Figure:
    """Per fine-tuning: the score at its end by the kappa of the pre-training, and last from new weights."""
    parts = dict(iter(trajectories.groupby("experiment", sort=False)))
    figure, axes = style.panels(1, len(parts), (2.6 + 3.2 * len(parts), 3.9))
    models, gaps = set(), []
    for panel, (experiment, runs) in zip(axes[0], parts.items(), strict=True):
        score = score_of(runs)
        tuned = tables.groups(runs, experiment, "finetune", score)
        ends = {level: 100.0 * values[:, -1:] for level, values in tuned.values.items()}
        names = [f"{level:g}" + ("\ndiverged" if level in tuned.diverged else "") for level in ends]
        colours = [style.kappa_colour(level) for level in ends]
        if (runs["rule"] == "scratch").any():
            new = tables.groups(runs, experiment, "scratch", score)
            ends["new"] = 100.0 * new.values[1.0][:, -1:]
            names.append("new\nweights" + ("\ndiverged" if new.diverged else ""))
            colours.append("0.55")
        centre = np.mean(ends[min(tuned.values)])
        half = 100.0 * ACCURACY
        panel.axhspan(centre - half, centre + half, **style.TOLERATED, label=f"{half:g} points about kappa 1's mean")
        for place, (bounds, colour) in enumerate(zip(statistics.mean_intervals(ends).values(), colours, strict=True)):
            style.points(panel, [place], *bounds, color=colour, capsize=3, markersize=5)
        for place, values in enumerate(ends.values()):
            panel.plot(np.full(len(values), place + 0.18), values[:, 0], "_", color="0.5", label="one model or run")
        panel.set_xticks(range(len(names)), names)
        panel.set_xlim(-0.5, len(names) - 0.5)
        panel.set_xlabel(r"batch multiplier $\kappa$ of the pre-training")
        panel.set_ylabel(style.LABELS.get(score, f"{score} (%)"))
        panel.set_title(workload_named(runs["workload"].iloc[0]).title, loc="left", fontweight="bold")
        models.add(tuned.seeds)
        gaps += [abs(ends[level].mean() - centre) for level in tuned.healthy]
    largest = f"{max(gaps):.1f}" if gaps else "unknown"
    message = f"Fine-tuned scores of other kappas are at most {largest} points from kappa 1's"
    style.headline(figure, message, f"means and 95% intervals, {style.repeats(models, 'model', 'models')} per kappa")
    style.legend(figure, axes.flat)
    return figure
