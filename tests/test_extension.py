"""Something new, as docs/extending.md says: a block of a config, a function that plots, a claim."""

import sys
import types

import pandas as pd
import pytest
import yaml

from adasde import cli
from adasde.analysis import statistics, tables
from adasde.analysis.claims.base import CLAIMS, claim, row
from adasde.analysis.figures.registry import PLOTS, Plot, figure_runs
from adasde.experiments.artifacts import provenance
from adasde.experiments.plan import plan
from adasde.training.loop import train
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import save_run

BLOCK = """
experiments:
  longer-memory:  # does the rule hold with a longer average of squared gradients?
    workload: fashion-cnn
    optimizer:
      name: rmsprop
      variant: {value: authors, source: ours}
      lr: {value: 1.0e-3, source: ours}
      beta: {value: 0.999, source: ours}
      eps: {value: 1.0e-8, source: ours}
    batch_size: {value: 32, source: ours}
    epochs: {value: 0.0107, source: ours}
    sampling: {value: replacement, source: ours}
    rules:
      sqrt: {value: [1, 2], source: ours}
    seeds: {value: 2, source: ours}
    evaluate: {count: 3, every: 128}
figures:
  - seeds-longer-memory
"""


def plot_seeds(trajectories, experiment):
    """Every seed's train loss, the new kind of plot."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots()
    groups = tables.groups(trajectories, experiment, "sqrt", "train_loss")
    for values in groups.values.values():
        panel.plot(groups.epoch, values.T)
    panel.set_xlabel("epochs")
    return figure


def learns(trajectories, experiment):
    """The new claim: the loss of the baseline falls."""
    if experiment != "longer-memory":
        return []
    groups = tables.groups(trajectories, experiment, "sqrt", "train_loss")
    fall = groups.values[1][:, -1:] - groups.values[1][:, :1]
    drawn = statistics.bootstrap_means({1: fall})[1][:, 0]
    return [
        row(
            claim="learns",
            about=experiment,
            place="ours",
            statement="the train loss falls",
            statistic="train loss at the end less that at the start",
            value=fall.mean(),
            bounds=statistics.interval(drawn),
            n=len(fall),
            tolerance=0.0,
            reason="nothing was learned at 0",
            diverged=groups.diverged_runs,
            experiment=experiment,
        )
    ]


@pytest.fixture
def extended(monkeypatch):
    """The plot and the claim where they belong: one entry of the registry each."""
    module = types.ModuleType("plots_of_ours")
    module.plot = plot_seeds
    monkeypatch.setitem(sys.modules, "plots_of_ours", module)
    monkeypatch.setitem(PLOTS, "seeds", Plot("plots_of_ours", "experiment"))
    claim(learns)
    yield
    CLAIMS.remove(learns)


def test_an_experiment_is_added(extended, config, tensors, tmp_path, capsys):
    block = yaml.safe_load(BLOCK)
    config["experiments"] |= block["experiments"]
    config["figures"] = block["figures"]
    planned = plan(config)
    runs = figure_runs(planned)["seeds-longer-memory"]
    assert len(runs) == 4

    workload = ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)
    for run in runs:
        rows, facts = train(planned.runs[run], workload)
        save_run(tmp_path / f"{run}.parquet", rows, planned.runs[run], **facts, **provenance())
    files = [str(tmp_path / f"{run}.parquet") for run in runs]

    assert cli.main(["figure", "seeds-longer-memory", "--runs", *files, "--out", str(tmp_path / "seeds.png")]) == 0
    assert (tmp_path / "seeds.png").stat().st_size > 5000
    assert cli.main(["collect", *files, "--out", str(tmp_path)]) == 0
    assert cli.main(["claims", str(tmp_path), "--out", str(tmp_path / "claims.csv")]) == 0
    found = pd.read_csv(tmp_path / "claims.csv").set_index("id").loc["learns.longer-memory"]
    assert (found["verdict"], found["reason"], found["n"]) == ("reproduced", "nothing was learned at 0", 2)
    assert "learns.longer-memory" in capsys.readouterr().out
