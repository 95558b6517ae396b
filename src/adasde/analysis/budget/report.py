"""What a budget leaves of a campaign, in words: what is kept and with which power, what each figure gives up."""

import shlex
from collections.abc import Sequence

import yaml

from adasde.analysis.budget.campaign import Cut, hours_by_unit
from adasde.analysis.budget.prices import MOST, SHARES, place_of
from adasde.analysis.claims.base import WORDS
from adasde.analysis.figures.registry import figure_runs
from adasde.analysis.statistics import POWER
from adasde.common import one_line, text_table
from adasde.experiments.specs import Trained, Training


def overlay_text(found: Cut, configs: Sequence[str]) -> str:
    """Return the overlay as YAML, with the command that made it."""
    device = ["--device", found.device] if found.device else []
    command = one_line(shlex.join(["adasde", "plan", *configs, "--budget", found.budget, *device]))
    head = f"# Made by `{command}`, to lay over what it was made from.\n"
    return head + yaml.safe_dump(found.overlay, sort_keys=False, width=120, default_flow_style=None)


def summary(found: Cut) -> str:
    """Return what is kept and with which power, what each figure gives up, and what comes next."""
    kept, unit = found.proposal, found.unit
    cells = [cell for name in kept.cells for cell in kept.kept(name)]
    before = hours_by_unit(found.whole, found.device)[unit]
    own = [(cell, _seeds_in(found.whole, name)) for name in kept.priced for cell in kept.of(name).cells]
    whole = sum(cell.claims for cell, seeds in own if cell.seeds is not None and cell.seeds <= seeds)
    lost, nothing = _lost(found)
    lines = [
        f"{found.plan.scale}: {found.planned:.4g} of {found.hours:g} {unit}-hours decide "
        f"{sum(cell.claims for cell in cells)} claims in {len(cells)} cells; all of {found.whole.scale}, as it stands, "
        f"takes {before:,.4g} and decides {whole}",
        *([f"the whole as it stands would fit; it decides {whole}"] if before <= found.hours else []),
        f"decided: with a power of at least {POWER:g}, the probability of *reproduced* if the true gap is 0; where the "
        "rule breaks, gaps spread further",
        "",
        text_table(_kept_rows(found)),
        "",
        text_table([("figure", "cells", "gives up"), *lost]),
        *([f"nothing given up: {', '.join(nothing)}"] if nothing else []),
        "",
    ]
    for name in kept.priced:
        if hopeless := [cell for cell in kept.of(name).cells if cell.seeds is None]:
            why = f"needs more than {MOST} seeds" if hopeless[0].spreads else "no spread of its kind was measured"
            lines.append(f"cannot be decided: {name}, {_levels(hopeless)}: {why}")
    if found.then:
        lines.append(f"next: {found.then.words}, for {found.then.hours:.3g} {unit}-hours more")
    return "\n".join(lines)


def _kept_rows(found):
    """A row per experiment and fine-tuning that is kept."""
    kept = found.proposal
    yield "kept", "at", "seeds", "epochs", f"{found.unit}-hours", "power", "spread measured on"
    for name in (name for name in kept.priced if name in kept.cells):
        seeds, was, share = kept.seeds(name), _seeds_in(found.whole, name), SHARES[kept.shares[name]]
        powers: dict[str, dict[str, float]] = {}
        for cell in kept.kept(name):  # other rules have no lag
            powers.setdefault(cell.basis, {}).update(cell.powers(seeds))
        shown = (", ".join(f"{WORDS[m]} {p:.2f}" for m, p in each.items()) for each in powers.values())
        changed = f"{seeds}, not {was}" if seeds != was else str(seeds)
        hours = f"{kept.hours_of(name):.3g}"
        yield name, _levels(kept.kept(name)), changed, share, hours, "; ".join(shown), "; ".join(powers)
    for name in kept.parents:
        yield name, "baseline, from which others branch", "1", "all", f"{kept.of(name).hours((), 1):.3g}", "", ""
    for name in kept.tuned:
        own = kept.tunings[name]
        at = f"{kept.models(own.pretrained)} models of {own.pretrained}"
        yield name, at, str(own.seeds), "all", f"{kept.tuning_hours(name):.3g}", "unknown spread", ""


def _seeds_in(planned, name):
    return sum(isinstance(s, Training) and s.experiment == name and s.is_baseline for s in planned.runs.values())


def _levels(cells):
    """Levels by rule, such as "sqrt 2, 4; linear 16"."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        found.setdefault(cell.rule, []).append(cell.level)
    return "; ".join(f"{rule} {', '.join(f'{level:g}' for level in sorted(levels))}" for rule, levels in found.items())


def _names(cells):
    return ", ".join(dict.fromkeys(cell.experiment for cell in cells))


def _lost(found):
    """Rows of the figures that give something up: how many of its cells are kept, what goes; and the other figures."""
    whole, kept = found.whole, found.proposal
    own = {(cell.experiment, cell.rule, cell.level): cell for name in kept.priced for cell in kept.of(name).cells}
    left = {(cell.experiment, cell.rule, cell.level) for name in kept.cells for cell in kept.kept(name)}
    rows, nothing = [], []
    for figure, runs in figure_runs(whole).items():
        specs = [whole.runs[run] for run in runs]
        experiments = dict.fromkeys(s.experiment for s in specs if isinstance(s, Trained))
        made = [whole.runs[whole.parents.get(run, run)] for run in runs]  # what pre-trains stands for fine-tunings
        made = [spec for spec in made if isinstance(spec, Training) and not spec.is_baseline]
        keys = dict.fromkeys((spec.experiment, *place_of(spec)) for spec in made)
        lost = [own[key] for key in keys if key not in left]
        gone = [name for name in experiments if name not in (*kept.cells, *kept.parents, *kept.tuned)]
        words = [_levels(lost)] if lost else []
        if len(experiments) > 1 and (lost or gone):
            words = [f"{len(gone)} of {len(experiments)} experiments" if gone else f"levels of {_names(lost)}"]
        by = {name: kept.tunings[name].pretrained if name in kept.tunings else name for name in experiments}
        if shorter := [name for name in experiments if kept.shares.get(by[name], 1) != 1]:
            words.append("epochs" if len(experiments) == 1 else f"epochs of {len(shorter)}")
        if len(gone) == len(experiments) > 0:
            lost, words = [own[key] for key in keys], ["all of it"]
        if words:
            rows.append((figure, f"{len(keys) - len(lost)} of {len(keys)}" if keys else "", "; ".join(words)))
        else:
            nothing.append(figure)
    return rows, nothing
