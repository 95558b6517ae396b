"""Pages of the evidence: figures, claims and quoted numbers, from the tables in results/reference."""

import re
from fractions import Fraction

import numpy as np
import pandas as pd
from tables import ROOT, table

from adasde.analysis.cells import MARKS, ORDER, cells_of
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
from adasde.experiments import plan_cost
from adasde.experiments.documents import merged
from adasde.experiments.plan import plan
from adasde.scaling import lag
from adasde.workloads.registry import WORKLOADS

REFERENCE = ROOT / "results/reference"
PICTURE = r"!\[(.*)\]\((figures/reference/(\w+)/map\.png)\)"  # as README shows it
CAPTION, MAP, SCALE = re.search(PICTURE, (ROOT / "README.md").read_text()).groups()  # the pages show the same scale
MODES = ("transport", "keep")  # of the second moment, in `rescale`

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


def counted(rows) -> list[str]:
    """Return how many claims have each verdict."""
    return [str((rows["verdict"] == verdict).sum()) for verdict in VERDICTS]


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
    """Return how many cells are forecast to hold, how many of them are undecided, and of these are near a tolerance.

    And the same of their claims, without the last.
    """
    inside = claims[(claims["claim"] == "rule") & (claims["forecast"] == "holds")]
    cells = cells_of(inside)
    left = cells[cells["verdict"] == "undecided"]
    return {
        "inside": len(cells),
        "inside_open": len(left),
        "inside_near": int(left["gap"].between(0.5, 2.0).sum()),
        "inside_claims": len(inside),
        "inside_claims_open": int((inside["verdict"] == "undecided").sum()),
    }


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


def _growth(trajectories, experiment) -> dict[float, float]:
    """Return how much the squared norm grows at every kappa above 1, relative to the baseline of the same seeds."""
    part = trajectories[trajectories["experiment"] == experiment]
    groups = Experiment(part, experiment).groups(BASELINE[0], "squared_norm")
    if 1 not in groups.values:
        return {}
    pairs = {kappa: groups.pairs(kappa, groups, 1) for kappa in groups.values if kappa != 1}
    means = {kappa: (runs.mean(axis=0), baseline.mean(axis=0)) for kappa, (runs, baseline) in pairs.items()}
    return {kappa: (mean[-1] - base[0]) / (base[-1] - base[0]) for kappa, (mean, base) in means.items()}


def norms() -> str:
    """Return how much more or less the squared norm grows at larger batches from scratch, where it is not judged."""
    trajectories = pd.read_parquet(REFERENCE / SCALE / "trajectories.parquet")
    names = trajectories.loc[trajectories["kind"] == "scratch", "experiment"].unique()
    found = {name: growth for name in names if (growth := _growth(trajectories, name))}
    kappas = sorted({kappa for growth in found.values() for kappa in growth})
    rows = [(name, *(f"{100 * (g[k] - 1):+.0f}%" if k in g else "" for k in kappas)) for name, g in found.items()]
    return table(("experiment", *(f"kappa {kappa:g}" for kappa in kappas)), rows)


def norm_drift() -> str:
    """Return in which weights the norm grows in the branches of overnight, and what a larger batch makes of it."""
    drift, tensors = (pd.read_csv(REFERENCE / f"norm-drift/{name}.csv") for name in ("drift", "tensors"))
    trajectories, rows, kappas = pd.read_parquet(REFERENCE / "overnight/trajectories.parquet"), [], (4, 16, 64)
    for name, part in drift.groupby("experiment", sort=False):
        forecast, found = part.set_index("kappa")["norm"], _growth(trajectories, name)
        largest = tensors[tensors["experiment"] == name].iloc[0]
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
