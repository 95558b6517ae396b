"""budget/: what a budget leaves of a campaign can be decided, and plans to no more than the budget."""

import csv
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from adasde.analysis.budget import cut, prices, summary
from adasde.analysis.budget.prices import power, priced, seeds_needed, tunings
from adasde.analysis.budget.proposal import Proposal, bought, in_order
from adasde.analysis.claims.spreads import Spread, _spread
from adasde.analysis.figures.registry import figure_runs
from adasde.analysis.statistics import POWER
from adasde.common import InputError
from adasde.experiments.config import config_of
from adasde.experiments.documents import merge, merged
from adasde.experiments.plan import plan
from adasde.experiments.plan_cost import hours_of
from adasde.experiments.specs import Finetune, Simulation, Training
from adasde.scaling.documents import read_document
from conftest import ROOT, changed

SMOKE, MINI, PAPER = (ROOT / f"workflow/config/{name}.yaml" for name in ("smoke", "mini", "paper"))

pytestmark = pytest.mark.filterwarnings("ignore::adasde.scaling.rules.ScalingWarning")


@pytest.fixture(autouse=True)
def known_spreads(monkeypatch):
    """Spreads that `make reference` does not renew."""
    with Path(__file__).with_name("spreads.csv").open(encoding="utf-8") as file:
        rows = [_spread(row) for row in csv.DictReader(file)]
    monkeypatch.setattr(prices, "read_spreads", lambda: rows)


def held(found):
    """What must be true of every cut: the plan of the overlay keeps to the budget, and its claims can be decided."""
    assert hours_of(found.plan, found.plan.runs, found.device)[found.unit][0] == found.planned <= found.hours
    device = f"-{found.device}" if found.device else ""
    assert found.plan.scale == f"{found.whole.scale}-{found.budget.replace('.', '-')}{device}"
    assert figure_runs(found.plan)
    seeds: dict[tuple, set] = {}
    for spec in found.plan.runs.values():
        if isinstance(spec, Training):
            level = float(spec.ell if spec.rule == "svag" else spec.kappa)
            seeds.setdefault((spec.experiment, spec.rule, level), set()).add(spec.seed)
    kept = {(c.experiment, c.rule, c.level): c for name in found.proposal.cells for c in found.proposal.kept(name)}
    baselines = {(name, "sqrt", 1.0) for name in (*found.proposal.cells, *found.proposal.parents)}
    assert set(seeds) == set(kept) | baselines
    for key, cell in kept.items():
        powers = cell.powers(len(seeds[key]))
        assert powers
        assert min(powers.values()) >= POWER
        assert len(seeds[key[0], "sqrt", 1.0]) == len(seeds[key])
    return kept


def everything(document):
    """Nothing kept yet, of all that there is."""
    config = config_of(document)
    return Proposal(priced(document, config, None), tunings(plan(document), config, None))


def aside(document):
    """Hours of what is kept as it is."""
    whole = plan(document)
    simulated = [run for run, spec in whole.runs.items() if isinstance(spec, Simulation)]
    return hours_of(whole, simulated)["core"][0]


def decided(proposal):
    return sum(cell.claims for name in proposal.cells for cell in proposal.kept(name))


# Power


@pytest.mark.parametrize(
    ("spread", "seeds", "paired"), [(0.3, 3, True), (1.0, 9, True), (1.0, 9, False), (0.6, 4, False)]
)
def test_power_is_that_of_two_one_sided_t_tests(spread, seeds, paired):
    random, freedom = np.random.default_rng(1), (1 if paired else 2) * (seeds - 1)
    means = random.normal(scale=spread / math.sqrt(seeds), size=100_000)
    errors = spread / math.sqrt(seeds) * np.sqrt(random.chisquare(freedom, size=len(means)) / freedom)
    if paired:
        expected = (np.abs(means) + stats.t.ppf(0.95, freedom) * errors < 1).mean()
        assert power(spread, seeds, paired) == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 2000))
    else:  # Welch's degrees of freedom are fewer where the two spreads differ by chance
        expected = (np.abs(means) + stats.t.ppf(0.95, freedom) * errors < 1).mean()
        assert expected - 0.1 < power(spread, seeds, paired) < expected + 0.05
    assert power(spread, seeds + 2, paired) >= power(spread, seeds, paired)


def test_seeds_are_the_least_that_decide():
    for spread, paired in ((0.2, True), (0.7, True), (0.7, False)):
        needed = seeds_needed((0.1, spread), paired)
        assert power(spread, needed, paired) >= POWER
        assert needed == 2 or power(spread, needed - 1, paired) < POWER
    assert seeds_needed((5.0,), True) is None
    assert seeds_needed((), True) is None


def test_a_workload_that_has_not_run_is_like_the_median_one(config):
    """Of its kind, by runs: the one that is far off, with 3 of 20 degrees of freedom, says nothing of the others."""
    spec = next(iter(plan(config).runs.values()))
    found = {"fashion-cnn": (0.1, 10), "fashion-resnet": (0.3, 7), "far-off": (9.0, 3)}
    rows = [Spread("mini", name, "vision", "scratch", "rule", "test_loss", *own) for name, own in found.items()]
    assert prices.spreads_of(spec, rows)[1] == {"test_loss": 0.1}  # its own
    assert prices.spreads_of(changed(spec, workload="cifar10-vgg16"), rows)[1] == {"test_loss": pytest.approx(0.2)}


# Cuts of the paper


@cache
def paper(budgeted):
    return cut(read_document(PAPER), budgeted)


@pytest.mark.parametrize("hours", [0.2, 100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_cut_of_the_paper_keeps_to_its_budget_and_decides_what_it_keeps(hours):
    document, found = read_document(PAPER), paper(f"{hours:g}gpuh")
    kept = held(found)
    left = config_of(merge(document, found.overlay)).experiments
    for (name, rule, level), cell in kept.items():
        content = left[name]
        assert level in (content.ell if rule == "svag" else content.rules[rule])
        assert {"train_loss", "lag"} & {metric for metric, _ in cell.spreads}
        whole = config_of(document).experiments[name]
        assert content.epochs / whole.epochs == pytest.approx(found.proposal.shares[name])
    # Snakemake lays it over as we do.
    from snakemake.utils import update_config

    theirs: dict = {}
    for laid in (document, found.overlay):
        update_config(theirs, laid)
    assert plan(theirs) == found.plan


def test_a_larger_budget_keeps_what_a_smaller_one_keeps():
    document = read_document(PAPER)
    start = everything(document)
    steps = list(in_order(start))
    for step in steps:
        less, more = step.before, step.after
        assert step.hours > 0
        for name in less.cells:
            assert set(less.cells[name]) <= set(more.cells[name])
            assert less.shares[name] <= more.shares[name]
            assert less.seeds(name) <= more.seeds(name)
        assert set(less.tuned) <= set(more.tuned)
        assert {start.tunings[name].pretrained for name in more.tuned} <= set(more.cells)
        assert decided(less) <= decided(more)
        assert (more.cells, more.shares, more.tuned) != (less.cells, less.shares, less.tuned)
    # At the end there is all of it.
    assert set(steps[-1].after.shares.values()) == {1.0}
    assert set(steps[-1].after.tuned) == set(document["finetunings"])
    assert decided(steps[-1].after) == sum(c.claims for own in start.priced.values() for c in own[1.0].cells)
    # Fine-tunings do not wait for everything else.
    assert len(next(step for step in steps if step.after.tuned).before.cells["roberta-adam"]) < 4
    for hours in (1, 30, 3000):
        kept, then = bought(start, hours)
        assert kept.hours <= hours < then.after.hours


def test_a_little_of_everything_comes_before_all_of_one():
    found = paper("100gpuh")
    kept = found.proposal
    assert len(kept.cells) >= 10
    assert {kept.shares["vgg16-adam"], kept.shares["imagenet-adam"]} == {1.0, 0.125}
    assert "roberta-adam" not in kept.cells
    assert found.overlay["experiments"]["roberta-adam"] is None
    assert all(value is None for value in found.overlay["finetunings"].values())
    assert "finetune" not in found.overlay["figures"]
    assert found.overlay["experiments"]["imagenet-adam"]["seeds"]["value"] > 1  # one seed decides nothing


@pytest.mark.parametrize("number", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_fine_tunings_are_bought_as_cells_are_and_have_rows_of_their_own(number):
    after = next(step.after for step in in_order(everything(read_document(PAPER))) if len(step.after.tuned) == number)
    found = paper(f"{after.hours + 1e-6:.9f}gpuh")
    kept, text = found.proposal, summary(found)
    held(found)
    assert kept.tuned == after.tuned
    assert {s.experiment for s in found.plan.runs.values() if isinstance(s, Finetune)} == set(kept.tuned)
    models = kept.models("roberta-adam")
    for name in kept.tuned:
        own = [run for run, spec in found.plan.runs.items() if spec.experiment == name]
        assert len(own) == 5 * models
        planned = hours_of(found.plan, own)["GPU"][0]
        assert planned * (1 - 1e-9) <= kept.tuning_hours(name) < 1.1 * planned
        assert re.search(rf"^{name} +{models} models of roberta-adam +5 +all +[0-9.e+]+ +unknown spread$", text, re.M)
    cut_too = "; epochs of 8" if kept.shares["roberta-adam"] < 1 else ""
    assert re.search(rf"^finetune +\d of 4 +{8 - number} of 8 experiments{cut_too}$", text, re.M)


def test_a_next_fine_tuning_is_named(config):
    start = everything(config)
    step = next(step for step in in_order(start) if step.after.tuned)
    found = cut(config, f"{step.before.hours + aside(config) + 1e-6:.9f}h")
    assert found.proposal.tuned == ()
    assert summary(found).splitlines()[-1].startswith("next: finetune-roberta of roberta-adam, for ")


@pytest.mark.parametrize(("part", "fits"), [(0.99, False), (1.01, True)])
def test_a_budget_that_pays_for_the_whole_says_so(part, fits):
    whole = plan(read_document(PAPER))
    lines = summary(paper(f"{part * hours_of(whole, whole.runs)['GPU'][0]:.6f}gpuh")).splitlines()
    decides = lines[0].rpartition(" ")[2]
    assert (f"the whole as it stands would fit; it decides {decides}" in lines) == fits


# The command


def test_the_command_writes_an_overlay_that_plans_to_the_budget(adasde, tmp_path):
    out = tmp_path / "overlay.yaml"
    done = adasde("plan", PAPER, "--budget", "30gpuh", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("paper-30gpuh: ")
    assert " of 30 GPU-hours decide " in lines[0]
    assert any(line.startswith("scaling-roberta-adam  ") and line.endswith("all of it") for line in lines)
    assert any(line.startswith("vgg16-adam ") and "test accuracy 0.9" in line for line in lines)
    assert lines[-2].startswith("next: ")
    assert len(lines) < 50
    laid = plan(merged([PAPER, out]))
    hours = hours_of(laid, laid.runs)["GPU"][0]
    assert f"{hours:.4g}" == lines[0].split()[1]
    assert hours <= 30
    text = out.read_text()
    assert text.startswith(f"# Made by `adasde plan {PAPER} --budget 30gpuh`")
    numbers = [value for own in yaml.safe_load(text)["experiments"].values() if own for value in own.values()]
    assert all(value.get("source", "ours") == "ours" for value in numbers)


def test_the_last_line_says_how_to_use_the_overlay(adasde, tmp_path):
    """Targets come before --configfile, after which Snakemake takes everything for a config."""
    (tmp_path / "my config.yaml").write_text(PAPER.read_text())
    done = adasde("plan", "my config.yaml", "--budget", "1gpuh", "--out", "over.yaml", cwd=tmp_path)
    command = "snakemake --cores all all --configfile 'my config.yaml' over.yaml"
    assert done.stdout.splitlines()[-1] == f"over.yaml: lay it over: {command}"
    assert (tmp_path / "over.yaml").read_text().startswith("# Made by `adasde plan 'my config.yaml' --budget 1gpuh`")


def test_the_command_in_an_overlay_is_one_comment(adasde, tmp_path):
    (tmp_path / "a\nscale: x.yaml").write_text(PAPER.read_text())
    assert adasde("plan", "a\nscale: x.yaml", "--budget", "1gpuh", "--out", "o.yaml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "o.yaml").read_text().splitlines()[1] == "scale: paper-1gpuh"


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        (["--budget", "2.50h"], "paper-2-5gpuh"),
        (["--budget", "02.5gpuh"], "paper-2-5gpuh"),
        (["--budget", "2.5gpuh", "--device", "a100"], "paper-2-5gpuh-a100"),
    ],
)
def test_a_scale_is_told_by_its_budget_and_device(options, scale, adasde, tmp_path):
    """One budget has one scale, however it is written; another device leaves other cells, which must not meet there."""
    assert adasde("plan", PAPER, *options, "--out", "o.yaml", cwd=tmp_path).returncode == 0
    head, text = (tmp_path / "o.yaml").read_text().split("\n", 1)
    assert head.startswith(f"# Made by `adasde plan {PAPER} --budget 2.5gpuh{' --device a100' * (len(options) > 2)}`")
    assert yaml.safe_load(text)["scale"] == scale


def test_a_budget_too_small_for_one_claim_names_the_least(adasde, tmp_path):
    done = adasde("plan", PAPER, "--budget", "0.01gpuh", "--out", tmp_path / "o.yaml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "budget = '0.01gpuh': too small to decide one claim; " in done.stderr
    assert done.stderr.rstrip().endswith("gpuh would do, for ablation-vgg16-adam.sqrt.k16 at 1/8 of its epochs")
    assert not (tmp_path / "o.yaml").exists()
    least = done.stderr.partition("claim; ")[2].partition("gpuh")[0]
    assert adasde("plan", PAPER, "--budget", f"{least}gpuh").returncode == 0
    assert adasde("plan", PAPER, "--budget", f"{0.9 * float(least):.6f}gpuh").returncode == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *((["--budget", text], "must be a number and a unit, h or gpuh, such as 100gpuh")
          for text in ("100", "gpuh", "100 gpuh", "1e2h", "nan", "100GPUH", "100tpuh", "", "١h", "9" * 400 + "h")),
        (["--budget", "-1h"], "budget = '-1h': must be a number and a unit"),
        (["--budget", "-1.5gpuh"], "budget = '-1.5gpuh': must be a number and a unit"),
        *((["--budget", text], "must be above 0, and 1,000,000 hours at most") for text in ("0h", "0.0h", "1000001h")),
        (["--budget", "3gpuh"], "smoke trains on cores; say 3h"),
        (["--budget", "3h", "--gpus", "2"], "gpus = 2: does not go with --budget"),
        (["--budget", "3h", "--figure", "map"], "figure = map: does not go with --budget"),
        (["--budget", "3h", "--json"], "not allowed with argument"),
        (["--out", "o.yaml"], "out: goes with --budget only"),
        (["--budget", "3h", "--out", "."], "out = .: cannot be written"),
        (["--budget", "3h", "--device", "tpu"], "device = 'tpu': must be one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_budget_is_one_line(options, words, adasde, tmp_path):
    done = adasde("plan", SMOKE, *options, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


# Cores, branches, simulations


def test_cuts_of_a_config_for_cores(config):
    counts = []
    for hours in (0.006, 0.01, 0.02, 0.03, 1):
        found = cut(config, f"{hours}h")
        kept = held(found)
        counts.append(len(kept))
        assert {run for run in found.whole.runs if run.startswith(("sde.", "weak-order."))} <= set(found.plan.runs)
        branch = {(rule, level) for name, rule, level in kept if name == "branch-cnn-adam"}
        assert branch in (set(), {("sqrt", 4.0), ("none", 4.0)})  # the rival sets the tolerance of the rule
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert (found.then, found.proposal.tuned) == (None, tuple(config["finetunings"]))
    assert set(found.overlay) == {"scale", "figures", "experiments", "branches"}
    text = summary(found)
    assert "cannot be decided: branch-cnn-adam, svag 2: needs more than 20 seeds" in text
    assert re.search(r"^map +7 of 8 +levels of branch-cnn-adam$", text, re.M)
    assert re.search(r"^nothing given up: scaling-fashion-cnn-adam, .*weak-order", text, re.M)
    assert cut(config, "0.01gpuh", "h100").unit == "GPU"  # a device replaces that of the config


def test_a_parent_is_kept_for_its_branches(config):
    """The parent has no cell of its own, and all its epochs, for a branch starts within them."""
    del config["finetunings"]
    config["simulations"] = {}
    config["experiments"] = {"fashion-cnn-adam": config["experiments"]["fashion-cnn-adam"]}
    config["experiments"]["fashion-cnn-adam"]["rules"] = {"sqrt": {"value": [1], "source": "ours"}}
    config["figures"] = ["branch-cnn-adam"]
    found = cut(config, "1h")
    assert found.proposal.parents == ["fashion-cnn-adam"]
    assert found.overlay["experiments"] == {
        "fashion-cnn-adam": {"seeds": {"value": 1, "source": "ours", "note": "2 in the whole"}}
    }
    assert {spec.experiment for spec in found.plan.runs.values()} == {"fashion-cnn-adam", "branch-cnn-adam"}
    assert "baseline, from which others branch" in summary(found)
    held(found)


def test_what_no_seeds_decide_is_refused_at_any_budget(config, monkeypatch):
    monkeypatch.setattr(prices, "read_spreads", lambda: [])
    with pytest.raises(InputError, match="no cell of smoke can be decided with 20 seeds at any budget"):
        cut(config, "100h")


@pytest.mark.slow
@pytest.mark.parametrize("path", [MINI, ROOT / "workflow/config/gpu.yaml"], ids=lambda path: path.stem)
def test_cuts_of_other_configs(path: Path):
    document = read_document(path)
    counts = [len(held(cut(document, f"{hours}h"))) for hours in (0.05, 0.2, 0.4, 10)]
    assert counts == sorted(counts)
