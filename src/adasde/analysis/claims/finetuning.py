"""Fine-tuning sees no difference between models that were pre-trained at different batch sizes."""

from typing import Any

import numpy as np
import pandas as pd

from adasde.analysis import tables
from adasde.analysis.claims.base import ClaimRow, claim, row
from adasde.analysis.claims.tolerances import ACCURACY
from adasde.analysis.statistics import Sample

SCORES = ("matthews", "f1", "pearson", "test_accuracy")  # of fine-tuned models: the first that was measured


def score_of(trajectories: pd.DataFrame) -> str:
    """Name of the score by which a fine-tuning is judged."""
    found = set(trajectories["metric"])
    return next((metric for metric in SCORES if metric in found), SCORES[-1])


@claim
def finetuning(trajectories: pd.DataFrame, experiment: str) -> list[ClaimRow]:
    """The score after fine-tuning is a test function too, and is preserved like the others."""
    if "finetune" not in set(trajectories["rule"]):
        return []
    score = score_of(trajectories)
    tuned = tables.groups(trajectories, experiment, "finetune", score)
    first = min(tuned.values)
    rows = [_kept(tuned, first, kappa, score, experiment) for kappa in tuned.values if kappa != first]
    if "scratch" in set(trajectories["rule"]):
        new = tables.groups(trajectories, experiment, "scratch", score)
        rows.append(_worth(tuned, first, new, score, experiment))
    return rows


def _kept(tuned, first, kappa, score, experiment):
    """The score at the end is that of models that were pre-trained at the smallest batch, seed by seed."""
    final = {level: tuned.values[level][:, -1:] for level in (first, kappa)}
    pairs = [values[:, -1:] for values in tuned.pairs(kappa, tuned, first)]
    facts: dict[str, Any] = {"value": np.nan, "bounds": (np.nan, np.nan), "n": 0, "note": "no model in common"}
    if len(pairs[0]):
        sample = Sample.paired(*pairs)
        facts = {
            "value": sample.gap.largest,
            "bounds": (sample.gap.low, sample.gap.high),
            "n": sample.n,
            "power": sample.power(ACCURACY),
            "seeds_needed": sample.seeds_needed(ACCURACY),
            "note": ", ".join(f"k{level:g} {values.mean():.4f}" for level, values in final.items()),
        }
    return row(
        claim="finetuning",
        about=f"{experiment}.k{kappa:g}",
        place="fine-tuning",
        statement=f"{score} after fine-tuning from kappa {kappa:g} lies within {100 * ACCURACY:g} points of kappa "
        f"{first:g}",
        statistic=f"|mean difference of final {score}|",
        tolerance=ACCURACY,
        reason="3 points: the paper's figure 18",
        diverged=tuned.diverged.get(kappa, []) + tuned.diverged.get(first, []),
        **facts,
        **_where(experiment, score, kappa),
    )


def _worth(tuned, first, new, score, experiment):
    """Ours: the baseline's weights are worth more than new ones, or else fine-tuning could not tell kappas apart."""
    pretrained, fresh = tuned.values[first][:, -1:], new.values[1][:, -1:]
    gap = Sample((pretrained, fresh)).gap
    half = gap.high - gap.largest
    return row(
        claim="pretraining",
        about=experiment,
        place="fine-tuning",
        statement=f"{score} is higher from the baseline's pre-trained weights than from new ones",
        statistic=f"difference of mean final {score}",
        value=gap.mean[0],
        bounds=(gap.mean[0] - half, gap.mean[0] + half),
        n=min(len(pretrained), len(fresh)),
        tolerance=0.0,
        reason="pre-training must be worth something for fine-tuning to say anything of it",
        below=False,
        note=f"pre-trained {pretrained.mean():.4f}, new {fresh.mean():.4f}",
        diverged=tuned.diverged.get(first, []) + new.diverged_runs,
        **_where(experiment, score, np.nan),
    )


def _where(experiment, score, level):
    shared = {"experiment": experiment, "kind": "finetune", "rule": "finetune", "figure": "finetune"}
    return shared | {"metric": score, "level": level}
