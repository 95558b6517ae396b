"""Write the parts of the documentation that say numbers or list names: docs/generated, which is not committed.

Claims, figures and quoted numbers come from results/reference; names, options and costs from the package; tutorials are
run. `make docs` runs this before Sphinx.
"""

import contextlib
import inspect
import io
import json
import re
import sys
import warnings
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Annotated, Union, get_args, get_origin

import numpy as np
import pandas as pd
from tutorial_pages import write_pages

from adasde import cli
from adasde.analysis.cells import MARKS, ORDER, cells_of, map_table
from adasde.analysis.claims.base import VERDICTS
from adasde.analysis.claims.experiment import BASELINE, Experiment
from adasde.analysis.claims.forecasts import cell_verdicts, reach, right_by_one_end
from adasde.analysis.claims.null import null_test
from adasde.analysis.claims.report import FIELDS, fields, read_claims
from adasde.analysis.figures import captions
from adasde.analysis.figures.registry import figure_runs
from adasde.analysis.forecast import read_forecasts
from adasde.analysis.statistics import POWER
from adasde.analysis.summary import five_lines
from adasde.experiments import config, plan_cost
from adasde.experiments.documents import merged
from adasde.experiments.plan import plan
from adasde.scaling import lag
from adasde.scaling.rules import ScalingWarning
from adasde.workloads import metrics
from adasde.workloads.data.registry import DATASETS
from adasde.workloads.registry import WORKLOADS

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs/generated"
REFERENCE = ROOT / "results/reference"
PICTURE = r"!\[(.*)\]\((figures/reference/(\w+)/map\.png)\)"  # as README shows it
CAPTION, MAP, SCALE = re.search(PICTURE, (ROOT / "README.md").read_text()).groups()  # the pages show the same scale
BAR = "\\|"  # within a cell of a table
MODES = ("transport", "keep")  # of the second moment, in `rescale`

# Every public name of the package by topic; a name that is missing here is an error.
TOPICS = {
    "Hyperparameters and recipes": (
        "AdamHyperparameters", "RMSpropHyperparameters", "SGDHyperparameters", "Recipe", "Schedule", "scaled_steps",
    ),
    "Your training loop": (
        "rescale", "rescale_arguments", "branch", "BranchReport", "MicroBatchNoise", "NoiseMonitor", "trainer_callback",
        "lightning_callback", "BatchRamp", "InvariantAdam", "svag_loss", "minibatches_apart",
    ),
    "Errors and warnings": ("InputError", "ScalingWarning"),
}  # fmt: skip
# The public modules beside `adasde` itself.
PUBLIC = {
    "Theory": "adasde.sde",
    "Workloads": "adasde.workloads",
    "Metrics of a workload": "adasde.workloads.metrics",
}
# Public values, which have no docstring: type and meaning.
VALUES = {"WORKLOADS": ("dict[str, Entry]", "The registry: every workload's entry by its name.")}
# Options whose name and model say enough in the code.
MEANINGS = {
    "experiments": "experiments by name", "branches": "branches by name",
    "finetunings": "finetunings by name", "simulations": "simulations by name",
    "evaluate": "when test functions are measured", "study": "what is studied, as in the title",
    "optimizers": "adam, rmsprop or sgd, each with its hyperparameters or the constants of its SDE",
    "name": "the optimizer", "lr": "learning rate", "beta": "decay of the average of squared gradients",
    "beta1": "decay of the average of gradients", "beta2": "decay of the average of squared gradients",
    "eps": "number added to the denominator", "weight_decay": "weight decay",
}  # fmt: skip


def table(header, rows) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', BAR) for cell in line)} |\n" for line in lines)


def counted(rows) -> list[str]:
    """Return how many claims have each verdict."""
    return [str((rows["verdict"] == verdict).sum()) for verdict in VERDICTS]


IMAGES, ARTICLES = "small networks on Fashion-MNIST", "a Wikipedia extract"
# What we know of the paper, what takes its place here, and the claims that test it: their kind and a part of their id.
PAPER = (
    ("Theorem: RMSprop's SDE is a weak approximation of order 1", "closed-form oracles", "order", "rmsprop$"),
    ("Theorem: Adam's SDE is a weak approximation of order 1", "closed-form oracles", "order", "adam"),
    ("Practice's variants of RMSprop have the same SDE (ours)", "a linear oracle", "order", "rmsprop-"),
    ("Theorem: SVAG approaches the SDE", "2,000 images, against the integrated SDE", "svag-to-sde", ""),
    ("Figure 18: RMSprop on CIFAR-10, accuracies within 3 %", IMAGES, "rule", "rmsprop.*accuracy"),
    ("RMSprop on CIFAR-10: losses, norm and lag", IMAGES, "rule", "rmsprop.*(?:loss|norm|lag)"),
    ("Adam on CIFAR-10, square-root rule", IMAGES, "rule", "(?:cnn|resnet)-(?:adam(?!w)|usual|eps)"),
    ("AdamW, also of a vision transformer (ours)", IMAGES, "rule", "adamw"),
    ("Adam on ImageNet, ResNet-50, square-root rule", "not tried", "", ""),
    ("GPT-2 on WikiText-103, square-root rule", f"a small GPT-2 on {ARTICLES}", "rule", "gpt2"),
    ("RoBERTa on Wiki+Books, square-root rule", f"a small RoBERTa on {ARTICLES}", "rule", "roberta"),
    ("RoBERTa fine-tuned on GLUE", "not tried at this scale", "finetuning", ""),
    ("SVAG on CIFAR-10, RMSprop and Adam", IMAGES, "svag", "cnn|resnet"),
    ("SVAG on language models (ours)", ARTICLES, "svag", "gpt2|roberta"),
    ("Section 4.1: noise must dominate; our forecast of where the rule ends", "all experiments", "forecast", ""),
    ("Other rules leave the baseline", "all experiments", "rival", ""),
)


def places(claims) -> str:
    """Return every theorem, figure and section of the paper that we know, with our figures and verdicts."""
    rows = []
    for words, where, kind, within in PAPER:
        part = claims[(claims["claim"] == kind) & claims["id"].str.contains(f"(?:{within})")]
        names = list(dict.fromkeys(name for name in part["figure"] if name))
        figures = ", ".join(f"[{name}](generated/figures.md#{name})" for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        rows.append((words, where, f"{figures}{more}", *(counted(part) if len(part) else ("",) * 3)))
    return table(("in the paper", "here, on", "figures", *VERDICTS), rows)


def null() -> str:
    """Return how often each verdict comes out where nothing differs, over the experiments with seeds enough."""
    trajectories, found = pd.read_parquet(REFERENCE / SCALE / "trajectories.parquet"), []
    for experiment, part in trajectories.groupby("experiment", sort=False):
        seeds = part.loc[(part["rule"] == "sqrt") & (part["kappa"] == 1) & (part["ell"] == 1), "seed"].nunique()
        if seeds >= 8 and part["kind"].iloc[0] != "finetune":
            kind = "from scratch" if part["kind"].iloc[0] == "scratch" else "branches"
            found.append(null_test(part, experiment, seeds // 2).assign(kind=kind, experiments=1))
    if not found:
        return "No experiment of this scale has eight seeds of its baseline, which the test needs.\n"
    sums = pd.concat(found).groupby(["kind", "metric"], sort=False).sum().sort_index(level="kind", sort_remaining=False)
    rows = [
        (*names, *counts) for names, counts in zip(sums.index, sums[["experiments", *VERDICTS]].values, strict=True)
    ]
    return table(("kind", "test function", "experiments", *VERDICTS), rows)


def judged(claims) -> str:
    """Return claims one by one."""
    rows = [(f"`{claim.id}`<br>{claim.note}", *fields(claim)) for claim in claims.itertuples()]
    return table(("claim", *FIELDS), rows)


def figures_page(claims) -> str:
    """Return the page of all reference figures with their captions and the claims that each shows."""
    parts = [
        f"# Figures and claims\n\nEvery figure of the scale `{SCALE}` as the repository keeps it, with the claims that "
        f"it shows. The settings are the baseline's; `workflow/config/{SCALE}.yaml` has a source for each number. "
        "[Results](../results.md) says how to read a verdict.\n"
    ]
    planned = plan(merged([ROOT / f"workflow/config/{SCALE}.yaml"]))
    runs = figure_runs(planned)
    names = sorted(path.stem for path in (ROOT / f"figures/reference/{SCALE}").glob("*.png"))
    order = list(dict.fromkeys(["map", *claims["figure"], *names]))
    for name in sorted(names, key=order.index):
        parts.append(f"({name})=\n## {name}\n\n![{name}](../../figures/reference/{SCALE}/{name}.png)\n")
        parts += [f"{paragraph}\n" for paragraph in captions.caption(name)[1]]
        settings = captions.setting(planned, runs[name])
        parts.append("".join(f"- **{subject}**: {words}\n" for subject, words in settings.items()))
        shown = claims[claims["figure"] == name]
        parts.append(judged(shown) if len(shown) else "No claim is judged by this figure.\n")
        parts.append(
            f"Rebuild it alone: `snakemake -c2 figures/{SCALE}/{name}.png --configfile workflow/config/{SCALE}.yaml`\n"
        )
    rest = claims[claims["figure"] == ""]
    if len(rest):
        parts.append(f"## Claims without a figure\n\n{judged(rest)}")
    return "\n".join(parts)


def forecasts(claims) -> str:
    """Return up to which kappa the rule was forecast to hold, and what was found."""
    made, rows = read_forecasts(REFERENCE / SCALE), []
    cells = cell_verdicts(claims)
    for experiment, part in cells[cells["forecast"] != ""].groupby("experiment", sort=False):
        holds, fails = reach(part)
        shown = f"{holds:g}" if holds > 1 else "", f"{fails:g}" if fails < float("inf") else ""
        rows.append((experiment, f"{made[experiment].safe_kappa:.3g}", *shown))
    return table(("experiment", "forecast to hold up to kappa", "shown to hold up to", "shown to fail at"), rows)


def numbers(claims) -> dict[str, str]:
    """Return the numbers that the pages quote, by name."""
    facts = pd.read_csv(REFERENCE / SCALE / "runs.csv")
    svag, rule = (claims[claims["claim"] == kind] for kind in ("svag", "rule"))
    weak, well = svag["power"] < POWER, rule[(rule["kind"] == "scratch") & (rule["verdict"] == "reproduced")]
    paper = plan(merged([ROOT / "workflow/config/paper.yaml"]))
    return {
        "scale": SCALE,
        "runs": f"{len(facts):,}",
        "device": facts["device"].mode()[0],
        "versions": f"torch {facts['torch'].mode()[0]}, numpy {facts['numpy'].mode()[0]}",
        "hours": f"{plan_cost.hours_of(paper, paper.runs, 'h100')['GPU'][0]:,.0f}",
        **{name: str(count) for name, count in _undecided(claims).items()},
        "svag_claims": str(len(svag)),
        "svag_weak": str(int(weak.sum())),
        "scratch_well": str(len(well)),
        "scratch_late": str(int((well["from_tenth"] > well["tolerance"]).sum())),
    }


def _undecided(claims) -> dict[str, int]:
    """Return how many cells are forecast to hold, how many of them are undecided, and of these are near a tolerance."""
    cells = cells_of(claims[(claims["claim"] == "rule") & (claims["forecast"] == "holds")])
    left = cells[cells["verdict"] == "undecided"]
    return {"inside": len(cells), "inside_open": len(left), "inside_near": int(left["gap"].between(0.5, 2.0).sum())}


def scores(claims) -> str:
    """Return in how many decided cells the forecast was right, and others in its place, by kind of experiment."""
    made, rows = read_forecasts(REFERENCE / SCALE), []
    parts = {
        "all": claims,
        "from scratch": claims[claims["kind"] == "scratch"],
        "branches": claims[claims["kind"] == "branch"],
        "all, without the lag": claims[claims["metric"] != "lag"],
    }
    for words, part in parts.items():
        cells = cell_verdicts(part)
        decided = cells[(cells["forecast"] != "") & (cells["verdict"] != "undecided")]
        well = (decided["verdict"] == "reproduced").to_numpy()
        instant = [made[c.experiment].instant_lag(c.level) <= lag.TOLERATED for c in decided.itertuples()]
        right = ((decided["forecast"] == "holds").to_numpy() == well).sum(), (np.array(instant, bool) == well).sum()
        rows.append((words, len(decided), *right, right_by_one_end(decided) if len(decided) else 0))
    header = ("cells", "decided", "forecast right", "gradient at one time", "one kappa, chosen afterwards")
    return table(header, rows)


def relatives(claims) -> str:
    """Return the gaps of rules that are meant to do the same as the square root, beside its own."""
    cells = cells_of(claims[claims["claim"].isin(["rule", "relative"])])
    cells = cells[cells["experiment"].isin(cells.loc[cells["claim"] == "relative", "experiment"])]
    cells = cells[cells["level"].isin(cells.loc[cells["claim"] == "relative", "level"])]
    shown = {
        (cell.experiment, cell.level, cell.rule): f"{cell.gap:.2g} {MARKS[cell.verdict]}" for cell in cells.itertuples()
    }
    rules = [rule for rule in ORDER if rule in set(cells["rule"])]
    places = [(level, rule) for level in sorted(cells["level"].unique()) for rule in rules]
    rows = [(name, *(shown.get((name, *place), "") for place in places)) for name in dict.fromkeys(cells["experiment"])]
    return table(("experiment", *(f"{rule}, kappa {level:g}" for level, rule in places)), rows)


def norms() -> str:
    """Return how much more or less the squared norm grows at larger batches from scratch, where it is not judged."""
    trajectories, rows, levels = pd.read_parquet(REFERENCE / SCALE / "trajectories.parquet"), [], set()
    for name, part in trajectories[trajectories["kind"] == "scratch"].groupby("experiment", sort=False):
        found = Experiment(part, name)
        groups = found.groups(BASELINE[0], "squared_norm")
        means = {kappa: values.mean(axis=0) for kappa, values in groups.values.items()}
        if 1 in means and len(means) > 1:
            baseline = means.pop(1)
            growth = baseline[-1] - baseline[0]
            rows.append((name, {kappa: (mean[-1] - baseline[-1]) / growth for kappa, mean in means.items()}))
            levels |= means.keys()
    columns = sorted(levels)
    shown = [(name, *(f"{100 * gaps[k]:+.0f}%" if k in gaps else "" for k in columns)) for name, gaps in rows]
    return table(("experiment", *(f"kappa {kappa:g}" for kappa in columns)), shown)


def norm_drift() -> str:
    """Return in which weights the norm grows in the branches of overnight, and what a larger batch makes of it."""
    drift, tensors = (pd.read_csv(REFERENCE / f"norm-drift/{name}.csv") for name in ("drift", "tensors"))
    trajectories, rows, kappas = pd.read_parquet(REFERENCE / "overnight/trajectories.parquet"), [], (4, 16, 64)
    for name, part in drift.groupby("experiment", sort=False):
        values = (
            Experiment(trajectories[trajectories["experiment"] == name], name)
            .groups(BASELINE[0], "squared_norm")
            .values
        )
        grown = {kappa: runs.mean(axis=0) for kappa, runs in values.items()}
        forecast = part.set_index("kappa")["norm"]
        largest = tensors[tensors["experiment"] == name].iloc[0]
        found = {kappa: (grown[kappa][-1] - grown[1][0]) / (grown[1][-1] - grown[1][0]) for kappa in kappas}
        shown = (f"{forecast[kappa]:.2f}, {found[kappa]:.2f}" for kappa in kappas)
        rows.append((name, f"`{largest.tensor}`, {largest.share:.0%}", f"{largest.signal_over_noise:.2g}", *shown))
    header = ("experiment", "largest part of the drift", "signal over noise there")
    return table((*header, *(f"kappa {kappa}" for kappa in kappas)), rows)


def gpu() -> str:
    """Return the speeds that were measured on a GPU."""
    steps = pd.read_csv(REFERENCE / "gpu/steps.csv")
    steps["engine"] = steps.get("engine", "eager")  # without the column, all was eager
    device = f"One {steps['device'][0]}, torch {steps['torch'][0]}."
    rows = [
        (
            WORKLOADS[s.workload].title, s.precision, s.engine, s.batch_size, s.ell, f"{s.examples_per_second:,.0f}",
            f"{s.share_of_peak:.2f}", "" if pd.isna(s.step_over_bare) else f"{s.step_over_bare:.2f}",
            f"{s.peak_gigabytes:.1f} GB",
        )
        for s in steps.itertuples()
    ]  # fmt: skip
    header = (
        "workload",
        "precision",
        "engine",
        "batch",
        "ell",
        "examples/s",
        "share of peak",
        "step / bare step",
        "memory",
    )
    return f"{device}\n\n{table(header, rows)}"


def models() -> str:
    """Return the map of the models that a config names, and what its claims say in all."""
    claims = read_claims(REFERENCE / "models/claims.csv")
    lines = "".join(f"- {line}\n" for line in (*five_lines(claims)[1:3], five_lines(claims)[4]))
    return f"![The map of the scale models](../figures/reference/models/map.png)\n\n{lines}"


def quarter() -> str:
    """Return the final accuracies of the quarter-length runs on a GPU."""
    rows = []
    found = pd.read_csv(REFERENCE / "gpu-quarter/claims.csv")
    for claim in found[found["id"].str.startswith("final-accuracy.")].itertuples():
        ends = {int(kappa): float(end) for kappa, end in re.findall(r"k(\d+) (\d\.\d+)", claim.note)}
        rows.append((claim.id.partition(".")[2], *(f"{100 * end:.1f}%" for end in ends.values()), claim.verdict))
    return table(("experiment", *(f"batch {128 * kappa}" for kappa in ends), "final-accuracy"), rows)


def measured() -> str:
    """Return the test functions, from the glossary in the docstring of `adasde.workloads.metrics`."""
    entries = re.findall(r"^  ([a-z][\w<>]*(?:, \w+)*)\s+(.*(?:\n {6,}.*)*)", metrics.__doc__, re.M)
    rows = [(", ".join(f"`{name}`" for name in names.split(", ")), " ".join(words.split())) for names, words in entries]
    return table(("metric", "what it is"), rows)


def carried() -> str:
    """Return the length of the first step after a change of batch: on a CNN, and at frozen weights by optimizer."""
    cnn = pd.read_csv(REFERENCE / "rescale/cnn.csv")
    rows = [
        (f"{old} to {new}", f"{right:.1f}", f"{transport:.1f}", f"{keep:.1f}")
        for old, new, right, transport, keep in cnn[["from", "to", "right", *MODES]].itertuples(index=False)
    ]
    parts = [table(("batch", "right length / lr", "v carried over", "v kept"), rows)]
    frozen = pd.read_csv(REFERENCE / "rescale/frozen.csv").pivot(
        index="optimizer", columns=["kappa", "signal_over_noise"], values=list(MODES)
    )
    cells = [(kappa, signal) for kappa in (16.0, 4.0, 0.0625) for signal in (0.01, 1.0)]
    header = ("optimizer", *(f"kappa {Fraction(kappa)}, signal {signal:g}" for kappa, signal in cells))
    rows = [
        (
            name,
            *(f"{row['transport', kappa, signal]:.2f} ({row['keep', kappa, signal]:.2f})" for kappa, signal in cells),
        )
        for name, row in frozen.iterrows()
    ]
    return "\n".join([*parts, table(header, rows)])


def ramps() -> str:
    """Return the losses of runs that lower the rate and of runs that raise the batch."""
    rows = [
        (row.seed, row.decay_steps, f"{row.decay_test_loss:.4f}", row.ramp_steps, f"{row.ramp_test_loss:.4f}")
        for row in pd.read_csv(REFERENCE / "rescale/ramp.csv").itertuples()
    ]
    return table(("seed", "steps, rate halved", "test loss", "steps, batch doubled", "test loss"), rows)


def invariant() -> str:
    """Return the gaps in train loss of the square root and of invariant Adam to the base batch."""
    found = pd.read_csv(REFERENCE / "rescale/invariant.csv")
    wide = found.pivot(index=["lr", "kappa", "rule"], columns="examples", values=["gap", "standard_error"])
    times = [n for n in found["examples"].unique() if n][1::2]
    rows = [
        (f"{lr:g}", kappa, f"`{rule}`", *(f"{row['gap', n]:+.3f} ± {row['standard_error', n]:.3f}" for n in times))
        for (lr, kappa, rule), row in wide.iterrows()
    ]
    return table(("lr", "kappa", "rule", *(f"{n:,} examples" for n in times)), rows)


def workloads() -> str:
    """Return the workloads, as the registry knows them."""
    rows = [
        (f"`{name}`", entry.title, f"`{entry.data}`", f"{entry.train_size:,}", f"{entry.profile.parameters:,}")
        for name, entry in WORKLOADS.items()
    ]
    return table(("workload", "what it is", "data set", "training examples", "trained weights"), rows)


def datasets() -> str:
    """Return the data sets, as the registry knows them."""
    rows = [
        (f"`{name}`", f"{d.train_size:,} {d.unit}", f"{d.test_size:,}", f"{d.download_bytes / 1e6:,.4g} MB", d.licence)
        for name, d in DATASETS.items()
    ]
    return table(("data set", "training", "test", "download", "licence"), rows)


def options() -> str:
    """Return the page of all options of a config, from the models that check it."""
    models = {
        "A config": config.Config, "An experiment": config.Experiment, "A branch": config.Branching,
        "A finetuning": config.Finetuning, "A workload by its model": config.ModelChoice,
        "optimizer: adam": config.Adam, "optimizer: rmsprop": config.RMSprop, "schedule": config.Schedule,
        "evaluate": config.Evaluate, "A simulation of the weak order": config.WeakOrder,
        "A simulation of SVAG's convergence": config.Convergence, "A simulation of the breakdown": config.Breakdown,
    }  # fmt: skip
    parts = [
        "# Config options\n\nKeys marked with * take a value with its source, `{value: 32, source: ours, note: why}`. "
        "The source is `paper`, `authors' code`, `authors' blog`, `secondary` or `ours`; the note is optional.\n"
    ]
    for title, model in models.items():
        rows = []
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else _short(field.default)
            rows.append((f"`{name}`{'*' * _sourced(field.annotation)}", default, field.description or MEANINGS[name]))
        parts.append(f"## {title}\n\n{inspect.getdoc(model)}\n\n{table(('key', 'default', 'meaning'), rows)}")
    return "\n".join(parts)


def _sourced(annotation) -> bool:
    """Whether a key takes a value with its source; one that may be left out is a union with None."""
    if get_origin(annotation) in (Annotated, Union):
        return any(map(_sourced, get_args(annotation)))
    return isinstance(annotation, type) and issubclass(annotation, config.Sourced)


def _short(default) -> str:
    return "" if default is None or not isinstance(default, str | int | float | list) else f"`{default}`"


def printed(*arguments: str) -> str:
    """Return what a command of `adasde` prints."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            status = cli.main(list(arguments))
    except SystemExit as stop:  # after --help
        status = stop.code
    if status:
        sys.exit(f"docs/generate.py: adasde {' '.join(arguments)}: failed")
    return text.getvalue()


def directive(module, name: str) -> str:
    """Return the lines that have autodoc describe a public object."""
    found, place = getattr(module, name), f"{module.__name__}.{name}"
    if not callable(found):
        kind, meaning = VALUES[name]
        return f".. py:data:: {name}\n   :type: {kind}\n\n   {meaning}"
    if inspect.isclass(found) and not issubclass(found, Exception):
        # With what it inherits from bases of ours, not from torch's or Python's.
        foreign = [base.__name__ for base in found.__mro__ if not base.__module__.startswith("adasde")]
        return f".. autoclass:: {place}\n   :members:\n   :inherited-members: {', '.join(foreign)}"
    return f".. auto{'exception' if inspect.isclass(found) else 'function'}:: {place}"


def api() -> str:
    """Return the page that describes every public object from its docstring."""
    import adasde

    missing = set(adasde.__all__) - {name for names in TOPICS.values() for name in names}
    if missing:
        sys.exit(f"docs/generate.py: no topic for {', '.join(sorted(missing))}")
    sections = {title: (adasde, names) for title, names in TOPICS.items()}
    callbacks = import_module("adasde.scaling.callbacks")
    sections["What the callbacks are: adasde.scaling.callbacks"] = (callbacks, ["NoiseCallback"])
    for title, name in PUBLIC.items():
        module = import_module(name)
        sections[f"{title}: {name}"] = (module, module.__all__)
    parts = ["# API reference\n"]
    for title, (module, names) in sections.items():
        body = "\n\n".join(directive(module, name) for name in names)
        parts.append(f"## {title}\n\n```{{eval-rst}}\n.. currentmodule:: {module.__name__}\n\n{body}\n```\n")
    return "\n".join(parts)


def main():
    """Write every generated part."""
    warnings.simplefilter("ignore", ScalingWarning)  # kappa 64 is there to show where the rule breaks
    OUT.mkdir(exist_ok=True)
    claims = read_claims(REFERENCE / SCALE / "claims.csv")
    files = {
        "numbers.json": json.dumps(numbers(claims), indent=1),
        "part-lines.md": "".join(f"{number}. {line}\n" for number, line in enumerate(five_lines(claims), start=1)),
        "part-picture.md": f"![{CAPTION}](../{MAP})\n",
        "part-map.md": map_table(claims),
        "part-forecasts.md": forecasts(claims),
        "part-scores.md": scores(claims),
        "part-norms.md": norms(),
        "part-relatives.md": relatives(claims),
        "part-norm-drift.md": norm_drift(),
        "part-null.md": null(),
        "part-places.md": places(claims),
        "figures.md": figures_page(claims),
        "part-gpu.md": gpu(),
        "part-models.md": models(),
        "part-quarter.md": quarter(),
        "part-carried.md": carried(),
        "part-ramp.md": ramps(),
        "part-invariant.md": invariant(),
        "part-metrics.md": measured(),
        "part-workloads.md": workloads(),
        "part-datasets.md": datasets(),
        "part-commands.txt": printed("--help"),
        "part-plan.txt": printed("plan", str(ROOT / "workflow/config/paper.yaml"), "--device", "h100"),
        "part-budget.txt": printed("plan", str(ROOT / "workflow/config/paper.yaml"), "--budget", "100gpuh"),
        "api.md": api(),
        "options.md": options(),
    }
    for name, text in files.items():
        (OUT / name).write_text(text)
    write_pages(OUT / "tutorials")


if __name__ == "__main__":
    main()
