"""Language models of all batch sizes end at one log-perplexity."""

import pandas as pd

from adasde.analysis import tables
from adasde.analysis.claims.accuracy import spread
from adasde.analysis.claims.base import claim, measured, row, scales_batch

# The authors' own curves of GPT-2, batch sizes 512 to 8192, stop between 5.0 and 5.13; that of 512 at two thirds of the
# time. The four that reach its end lie within 0.03 there, digitised to 0.05.
TOLERANCE = 0.13


@claim
def final_perplexity(trajectories: pd.DataFrame, experiment: str) -> list[dict]:
    """Under the square-root rule, final validation log-perplexities are as close as in the authors' own curves."""
    if not (scales_batch(trajectories) and "log_perplexity" in measured(trajectories)):
        return []
    return [
        row(
            id=f"final-perplexity.{experiment}",
            place="language models",
            statement=f"final log-perplexities lie within {TOLERANCE:g} nats of each other over kappa",
            statistic="largest difference of mean final validation log-perplexity",
            threshold=TOLERANCE,
            reason="the authors' own GPT-2 curves stop that far apart",
            **spread(tables.groups(trajectories, experiment, "sqrt", "log_perplexity")),
        )
    ]
