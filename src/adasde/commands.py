"""What each command of the command line does; every function takes the parsed options."""

import json
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from adasde.common import InputError, text_table
from adasde.experiments.config import read
from adasde.scaling import recipe
from adasde.scaling.hyperparameters import hyperparameters_named
from adasde.scaling.rules import ScalingWarning


def scale(options):
    """Print what becomes of a recipe when the batch size changes, by the square-root rule or another."""
    if options.optimizer == "recipe":
        old, name = recipe.from_document(read(options.file))
    else:
        old, name = _recipe(options), options.optimizer
    kappa = options.to / old.batch_size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ScalingWarning)
        new = old.scaled(kappa, options.rule)
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    if options.json:
        facts = {"optimizer": name, "rule": options.rule, "kappa": kappa}
        print(json.dumps({**facts, **new.parts(), "warnings": notes}, indent=1))
        return
    print(f"{name}, rule {options.rule}, kappa = {kappa:.6g}")
    print(recipe.comparison(old, new, options.rule))
    if old.steps is None:
        print("steps, warm-up and schedule: divide by kappa wherever they are counted in steps (unchanged in epochs)")
    for note in notes:
        print(f"warning: {note}")


def _recipe(options):
    values = {name: getattr(options, name) for name in ("lr", *options.betas, "eps", "weight_decay")}
    if options.optimizer == "adam":
        values["decoupled"] = options.decoupled
    rest = {name: getattr(options, name) for name in ("steps", "warmup_steps", "clip", "average")}
    return recipe.Recipe(hyperparameters_named(options.optimizer, **values), options.batch_size, **rest)


def plan(options):
    """Print what a config would cost, without running anything: per figure and as a whole, or every run."""
    from adasde.experiments import budget, cost

    plan, shown = _planned(options.config)
    if options.device is not None:
        cost.device_named(options.device)
    runs = budget.needed(plan, shown, options.figure) if options.figure else plan.runs
    if options.json:
        print(json.dumps([plan.runs[run] for run in runs], indent=1))
    elif options.runs:
        _print_runs([plan.runs[run] for run in runs], len(plan.figures))
    else:
        print(budget.report(plan, shown, options.figure, options.device, options.gpus))


def _print_runs(specs, figures):
    """Print one row per run, every number resolved."""
    from adasde.experiments import cost

    rows = [("run", "batch", "lr", "betas", "eps", "steps", "samples")]
    trained = [spec for spec in specs if "study" not in spec]
    total = 0
    for spec in trained:
        h, (steps, drawn, _) = spec["optimizer"], cost.work(spec)
        betas = ", ".join(f"{h[name]:.6g}" for name in ("beta1", "beta2", "beta") if name in h)
        total += drawn
        size = str(spec["batch_size"])
        rows.append((spec["run"], size, f"{h['lr']:.4g}", betas, f"{h['eps']:.3g}", str(steps), str(drawn)))
    print(text_table(rows))
    simulated = [(s["run"], s["study"], str(s["paths"]), str(s["batches"])) for s in specs if "study" in s]
    if simulated:
        print(text_table([("simulation", "study", "paths", "batches"), *simulated]))
    print(f"{len(trained)} runs, {total:,} training samples, {len(simulated)} simulations, {figures} figures")


def throughput(options):
    """Write how many examples per second finished runs took, from which `plan` tells what others will cost."""
    from adasde.analysis import tables

    tables.write_throughput(options.runs, options.out)


def data(options):
    """Fetch, verify and prepare a data set, unless that is done; print where it is."""
    from adasde.workloads.data.registry import dataset_named, prepare

    dataset = dataset_named(options.name)
    folder = prepare(options.name, options.data, options.packed)
    sizes = f"{dataset.train_size:,} training and {dataset.test_size:,} test {dataset.unit}"
    print(f"{folder}: {sizes}, verified; licence: {dataset.licence}")


def run(options):
    """Train one run and write its table; a checkpoint makes it resumable."""
    from adasde.common import check_writable
    from adasde.experiments import plan
    from adasde.experiments.artifacts import provenance, read_run, write_run

    spec = _json("spec", options.spec)
    warnings.simplefilter("ignore", ScalingWarning)  # the plan has warned
    plan.check(spec)
    if not 1 <= options.threads <= (os.cpu_count() or 1):
        raise InputError(f"threads = {options.threads}: this machine has 1 to {os.cpu_count()}")
    if not options.checkpoint_every >= 0:
        raise InputError(f"checkpoint-every = {options.checkpoint_every:g}: must be a number of seconds >= 0")
    check_writable("out", options.out)
    if options.checkpoint is not None:
        check_writable("checkpoint", options.checkpoint)
        if options.checkpoint.resolve() == options.out.resolve():
            raise InputError(f"checkpoint = {options.checkpoint}: is also the output; name another file")
    if options.weights is not None:
        check_writable("weights", options.weights)
        if options.weights.resolve() in {p.resolve() for p in (options.out, options.checkpoint) if p is not None}:
            raise InputError(f"weights = {options.weights}: is also the output or the checkpoint; name another file")
    if ("parent" in spec) != (options.pretrained is not None):
        raise InputError(
            f"pretrained: the run starts from the weights of {spec['parent']['run']}; name their file by --pretrained"
            if "parent" in spec
            else f"pretrained = {options.pretrained}: {spec['run']} starts from new weights; leave it out"
        )
    if options.out.exists() and read_run(options.out)[1]["spec"] != spec:
        raise InputError(f"out = {options.out}: holds the run of another spec; delete it, or name another file")

    import torch

    from adasde.training import distributed
    from adasde.training.loop import keep_memory, prepare_torch

    keep_memory()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # the averages of inactive units decay into numbers that are slow to add
    with distributed.process_group(spec) as device, _progress(spec["run"], distributed.rank() == 0) as report:
        prepare_torch(device, spec)
        columns, rows, facts = (_simulated if "study" in spec else _trained)(spec, options, device, report)
        if distributed.rank() > 0:
            return
        write_run(options.out, rows, spec, columns, **{**provenance(device), **facts})
    if options.checkpoint is not None:
        options.checkpoint.unlink(missing_ok=True)
    ended = next((f", diverged at time {r[2]:.4g}" for r in rows if r[3] == "diverged"), "")
    amount = f"{spec['batches']} batches" if "study" in spec else f"{rows[-1][1]} steps"
    print(f"{spec['run']}: {amount} in {facts['seconds']:.1f} s{ended}")


def _simulated(spec, options, device, report):
    from adasde.experiments.artifacts import SIMULATED
    from adasde.experiments.simulations import run_simulation

    return SIMULATED, *run_simulation(spec, options.data, options.checkpoint, report)


def _trained(spec, options, device, report):
    from adasde.experiments.artifacts import COLUMNS
    from adasde.training import signals
    from adasde.training.checkpoint import read_weights
    from adasde.training.loop import train
    from adasde.workloads.registry import load_workload

    pretrained = read_weights(options.pretrained, spec["parent"]["spec_hash"]) if "parent" in spec else None
    task = load_workload(spec["task"], options.data, pretrained, device)
    every, weights = options.checkpoint_every, options.weights
    with signals.stopping() as stop:
        return COLUMNS, *train(spec, task, options.checkpoint, every, report, weights, stop)


def collect(options):
    """Stack run files into trajectories.parquet and runs.csv."""
    from adasde.analysis import tables

    tables.write(options.out, *tables.collect(options.runs))


def figure(options):
    """Draw one figure, from the tables of a scale or from the files of the runs that it shows."""
    from adasde.analysis import tables
    from adasde.analysis.figures.registry import draw_figure, plot_named

    plot_named(options.name)
    for path in options.out:
        if path.suffix not in (".png", ".pdf"):
            raise InputError(f"out = {path}: must end in .png or .pdf")
    rows = tables.collect(options.runs)[:2] if options.runs else tables.both(options.tables)
    figure = draw_figure(options.name, *rows, options.reference and tables.both(options.reference))
    from adasde.analysis.figures import style

    style.save(figure, options.out)


def predict(options):
    """Predict from one finished run how far the square-root rule makes larger batches fall behind it."""
    from adasde.analysis.lags import lags_of_run
    from adasde.experiments.artifacts import read_run
    from adasde.scaling import lag

    rows, metadata = read_run(options.run)
    spec = metadata["spec"]
    if "study" in spec or spec.get("ell", 1) != 1:
        kind = "a simulation" if "study" in spec else f"SVAG at ell = {spec['ell']:g}"
        raise InputError(f"{options.run}: holds {kind}; a prediction needs a plain training run")
    lags = lags_of_run(rows, options.run)
    betas = [value for name, value in spec["optimizer"].items() if name.startswith("beta") and value > 0]
    limit = round(1.0 / (1.0 - min(betas)), 6) if betas else None
    table = [
        {"kappa": kappa, "batch_size": spec["batch_size"] * kappa, "lag_at_end": curve[-1], "largest_lag": curve.max()}
        for kappa, curve in lags.items()
    ]
    safe = lag.safe_kappa(lags)
    if options.json:
        facts = {
            "run": spec["run"],
            "tolerated_lag": lag.TOLERATED,
            "safe_kappa": safe,
            "rule_needs_kappa_below": limit,
        }
        print(json.dumps({**facts, "lags": table}, indent=1))
        return
    print(f"{spec['run']}: predicted lag, as a share of the samples seen, if the square-root rule scales this run")
    cells = [
        (f"{r['kappa']:g}", f"{r['batch_size']:g}", f"{100 * r['lag_at_end']:.1f}%", f"{100 * r['largest_lag']:.1f}%")
        for r in table
    ]
    print(text_table([("kappa", "batch size", "at the end", "largest"), *cells]))
    reach = "at least " if safe == max(lags) else ""
    print(
        f"largest kappa with a predicted lag under {100 * lag.TOLERATED:g}% at the end: {reach}{safe:.3g} "
        "(linear in log kappa between the rows" + (f"; the rule itself needs kappa < {limit:g})" if limit else ")")
    )
    if spec["schedule"]:
        print("warning: the run's learning rate is not constant, as the prediction presumes")


def claims(options):
    """Judge every claim that the tables can speak to; print and, if asked, write the verdicts."""
    from adasde.analysis import tables
    from adasde.analysis.claims.evaluation import evaluate_claims
    from adasde.analysis.claims.report import claims_summary, renew_claims, write_claims

    table = evaluate_claims(*tables.both(options.tables))
    if options.out is not None:
        write_claims(table, options.out)
    if options.readme is not None:
        renew_claims(table, options.readme)
    print(claims_summary(table))


def compare(options):
    """Compare the tables of finished runs with the repository's own; exit 1 if a claim has the opposite verdict."""
    from adasde.analysis import comparison

    reference = options.reference or Path("results/reference", options.tables.resolve().name)
    found = comparison.compare(options.tables, reference)
    print(comparison.summary(found))
    if options.figures:
        for path in comparison.draw(options.tables, reference, options.figures):
            print(path)
    return 1 if found.contradicted else 0


def check(options):
    """Say for every run of a config whether its table is there, whole and of the planned spec; exit 1 if not."""
    from adasde.experiments.artifacts import read_run

    plan, _ = _planned(options.config)
    results = options.results or Path("results", plan.scale)
    problems = 0
    for run, spec in plan.runs.items():
        path = results / "runs" / f"{run}.parquet"
        try:
            _, metadata = read_run(path)
            problem = None if metadata["spec"] == spec else f"{path}: made from another spec"
        except InputError as error:
            problem = str(error)
        if problem:
            problems += 1
            print(problem)
    print(f"{len(plan.runs) - problems} of {len(plan.runs)} runs are there, whole and as planned")
    return 1 if problems else 0


def _planned(paths):
    """Plan of the config in files that are merged, and the runs of each figure; warnings go to stderr, once each."""
    from adasde.analysis.figures.registry import figure_runs
    from adasde.experiments.config import merged
    from adasde.experiments.plan import plan

    config = merged(paths)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ScalingWarning)
        planned = plan(config)
        shown = figure_runs(planned)
    for note in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"adasde: warning: {note}", file=sys.stderr)
    return planned, shown


def _json(name, value):
    if value.startswith("@"):
        value = Path(value[1:]).read_text(errors="replace")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not JSON ({error})") from error


@contextmanager
def _progress(run: str, shown: bool = True):
    """Yield a function report(step, steps) that moves a bar on a terminal, and None elsewhere: logs stay quiet."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as moving:
        bar = moving.add_task(run, total=None)
        yield lambda step, steps: moving.update(bar, completed=step, total=steps)
