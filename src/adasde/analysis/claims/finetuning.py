"""Fine-tuning sees no difference between models that were pre-trained at different batch sizes."""

import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims import accuracy
from adasde.analysis.claims.base import claim, row

SCORES = ("matthews", "f1", "pearson", "test_accuracy")  # of fine-tuned models: the first that was measured


def score_of(trajectories: pd.DataFrame) -> str:
    """Name of the score by which a fine-tuning is judged."""
    found = set(trajectories["metric"])
    return next((metric for metric in SCORES if metric in found), SCORES[-1])


@claim
def finetuning(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """The score after fine-tuning is a test function too, and is preserved like the others."""
    if "finetune" not in set(trajectories["rule"]):
        return []
    score = score_of(trajectories)
    tuned = tables.groups(trajectories, experiment, "finetune", score)
    kept = row(
        id=f"finetuning.{experiment}",
        place="fine-tuning",
        statement=f"{score} after fine-tuning lies within {100 * accuracy.TOLERANCE:g}% over pre-training's kappa",
        statistic=f"largest difference of mean final {score}",
        threshold=accuracy.TOLERANCE,
        reason="as final-accuracy",
        figure="finetune",
        **accuracy.spread(tuned),
    )
    return [kept, _worth(trajectories, experiment, score, tuned)] if "scratch" in set(trajectories["rule"]) else [kept]


def _worth(trajectories, experiment, score, tuned):
    """Ours: the baseline's weights are worth more than new ones, or else fine-tuning could not tell kappas apart."""
    new = tables.groups(trajectories, experiment, "scratch", score)
    final = {kappa: values[:, -1:] for kappa, values in tuned.values.items()} | {"new": new.values[1][:, -1:]}
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
        reason="pre-training must be worth something for fine-tuning to say anything of it",
        below=False,
        note=f"pre-trained {final[first].mean():.4f}, new {final['new'].mean():.4f}",
        diverged=tuned.diverged_runs + new.diverged_runs,
        figure="finetune",
    )
