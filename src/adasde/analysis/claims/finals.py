"""Claims on where training ends: accuracies, log-perplexities, and what fine-tuning makes of a model."""

from itertools import combinations

import numpy as np

from adasde.analysis import statistics, tables
from adasde.analysis.claims.report import row
from adasde.scaling.rules import ROUNDING

# The paper's figure 18 holds final test accuracies to three percentage points of each other.
ACCURACY_TOLERANCE = 0.03

# The authors' own curves of GPT-2, batch sizes 512 to 8192, stop between 5.0 and 5.13; that of 512 at two thirds of the
# time. The four that reach its end lie within 0.03 there, digitised to 0.05.
PERPLEXITY_TOLERANCE = 0.13

SCORES = ("matthews", "f1", "pearson", "test_accuracy")  # of fine-tuned models, the first that a task has


def final_accuracy(trajectories, experiment) -> list[dict]:
    """The paper's figure 18: under the square-root rule, final test accuracies are within 3% of each other.

    The paper's baseline beta of 0.999 would fall below 0.5 at kappa 500, far beyond any batch size. Where runs of ours
    fall below, the statement is judged twice: without those kappas, as the paper makes it, and beyond, over all.
    """
    runs = trajectories[(trajectories["experiment"] == experiment) & (trajectories["rule"] == "sqrt")]
    below = runs["smallest_beta"] < 0.5 - ROUNDING if "smallest_beta" in runs else runs["kappa"].isna()
    extreme = set(runs.loc[below, "kappa"]) - {1}
    rows, within = [], trajectories[~trajectories["kappa"].isin(extreme)]
    if set(runs["kappa"]) - extreme != {1}:
        rows.append(_final_accuracy(within, experiment, "final-accuracy", ""))
    if extreme:
        also = f", at kappa {', '.join(f'{kappa:g}' for kappa in sorted(extreme))} (betas below 0.5) as well"
        rows.append(_final_accuracy(trajectories, experiment, "final-accuracy-beyond", also))
    return rows


def _final_accuracy(trajectories, experiment, name, also):
    return row(
        id=f"{name}.{experiment}",
        place="figure 18",
        statement=f"final test accuracies lie within {100 * ACCURACY_TOLERANCE:g}% of each other over kappa{also}",
        statistic="largest difference of mean final test accuracy",
        threshold=ACCURACY_TOLERANCE,
        **_spread(tables.groups(trajectories, experiment, "sqrt", "test_accuracy")),
    )


def final_perplexity(trajectories, experiment) -> dict:
    """Under the square-root rule, language models of all batch sizes end at one log-perplexity."""
    return row(
        id=f"final-perplexity.{experiment}",
        place="language models",
        statement=f"final log-perplexities lie within {PERPLEXITY_TOLERANCE:g} nats of each other over kappa",
        statistic="largest difference of mean final validation log-perplexity",
        threshold=PERPLEXITY_TOLERANCE,
        **_spread(tables.groups(trajectories, experiment, "sqrt", "log_perplexity")),
    )


def finetuning(trajectories, experiment, score) -> dict:
    """What fine-tuning makes of a pre-trained model is a test function too, and is preserved like the others."""
    return row(
        id=f"finetuning.{experiment}",
        place="fine-tuning",
        statement=f"{score} after fine-tuning lies within {100 * ACCURACY_TOLERANCE:g}% over pre-training's kappa",
        statistic=f"largest difference of mean final {score}",
        threshold=ACCURACY_TOLERANCE,
        **_spread(tables.groups(trajectories, experiment, "finetune", score)),
    )


def pretraining(trajectories, experiment, score) -> dict:
    """What makes fine-tuning a test function at all, ours: the baseline's weights are worth more than new ones."""
    tuned, new = (tables.groups(trajectories, experiment, rule, score) for rule in ("finetune", "scratch"))
    final = {**{kappa: values[:, -1:] for kappa, values in tuned.values.items()}, "new": new.values[1][:, -1:]}
    drawn, first = statistics.bootstrap_means(final), min(tuned.values)
    return row(
        id=f"pretraining.{experiment}",
        place="fine-tuning",
        statement=f"{score} is higher from the baseline's pre-trained weights than from new ones",
        statistic=f"difference of mean final {score}",
        value=final[first].mean() - final["new"].mean(),
        bounds=statistics.interval((drawn[first] - drawn["new"])[:, 0]),
        n=min(map(len, final.values())),
        threshold=0.0,
        below=False,
        note=f"pre-trained {final[first].mean():.4f}, new {final['new'].mean():.4f}",
        diverged=tuned.diverged_runs + new.diverged_runs,
    )


def _spread(groups):
    """What claims on final values share of their rows: the largest difference of means over the levels."""
    final = {level: values[:, -1:] for level, values in groups.healthy.items()}
    means = {level: values.mean() for level, values in final.items()}
    value, bounds = np.nan, (np.nan, np.nan)
    if means:
        scale, noise = statistics.bootstrap_noise(final)
        pairs = list(combinations(means, 2))
        gaps = np.array([means[b] - means[a] for a, b in pairs] or [0.0])
        errors = scale * np.concatenate([noise[b] - noise[a] for a, b in pairs] or [0.0 * scale], axis=1)
        value, bounds = np.abs(gaps).max(), statistics.largest(gaps, errors)
    return {
        "value": value,
        "bounds": bounds,
        "n": groups.seeds,
        "below": True,
        "note": ", ".join(f"k{level:g} {mean:.4f}" for level, mean in means.items()),
        "diverged": groups.diverged_runs,
    }
