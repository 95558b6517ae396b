"""What the authors published, as data: their curves of the two language experiments, digitised."""

import csv
from importlib.resources import files

SOURCE = "digitised, to about 0.05, from the figures of the first author's blog post of 2024 on the paper"


def author_curves(experiment: str) -> dict[int, tuple[list[float], list[float]]]:
    """Return {batch size: (SDE times, validation log-perplexities in nats)}; empty where nothing was published.

    ``experiment`` is a task and an optimizer, such as ``wikitext103-gpt2-adam``.
    """
    curves = {}
    with files("adasde").joinpath("author_curves.csv").open() as file:
        for row in csv.DictReader(file):
            if row["experiment"] == experiment:
                times, values = curves.setdefault(int(row["batch_size"]), ([], []))
                times.append(float(row["continuous_time"]))
                values.append(float(row["validation_log_perplexity"]))
    return curves
