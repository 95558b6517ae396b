"""What the authors published, as data: their curves of the two language experiments, digitised."""

import csv
from importlib.resources import files

SOURCE = "digitised, to about 0.05, from the figures of the first author's blog post of 2024 on the paper"

# Where their curves end: steps times the squared learning rate, whatever the schedule did with it.
HORIZONS = {"wikitext103-gpt2-adam": 0.0125, "wikibooks-roberta-adam": 0.052}


def author_curves(experiment: str) -> dict[int, tuple[list[float], list[float]]]:
    """Return {batch size: (parts of the run, validation log-perplexities in nats)}; empty if nothing was published.

    ``experiment`` is a task and an optimizer, such as ``wikitext103-gpt2-adam``.
    """
    curves = {}
    with files("adasde.analysis").joinpath("author_curves.csv").open() as file:
        for row in csv.DictReader(file):
            if row["experiment"] == experiment:
                parts, values = curves.setdefault(int(row["batch_size"]), ([], []))
                parts.append(float(row["continuous_time"]) / HORIZONS[experiment])
                values.append(float(row["validation_log_perplexity"]))
    return curves
