"""The overlay: a config that, laid over the whole one, leaves what is kept."""

from dataclasses import replace
from typing import Any

from adasde.analysis.budget.prices import content_of, epochs_at, given, place_of
from adasde.analysis.budget.proposal import Proposal
from adasde.analysis.figures.registry import figure_runs
from adasde.common import InputError
from adasde.experiments.config import Config
from adasde.experiments.jobs import Plan
from adasde.experiments.specs import AnySpec, Simulation, Training


def overlay_of(whole: Plan, config: Config, kept: Proposal, scale: str) -> dict[str, Any]:
    """Return the config that, laid over the other one, leaves what is kept."""
    overlay: dict[str, Any] = {"scale": scale, "figures": [], "experiments": {}}
    for section in ("experiments", "branches"):
        for name in getattr(config, section):
            own = _reduced(config, kept, name) if name in (*kept.cells, *kept.parents) else None
            if own != {}:
                overlay.setdefault(section, {})[name] = own
    if dropped := [name for name in config.finetunings if name not in kept.tuned]:
        overlay["finetunings"] = dict.fromkeys(dropped)
    left = {run: spec for run, spec in whole.runs.items() if _stays(spec, kept)}
    overlay["figures"] = [name for name in whole.figures if _shown(replace(whole, runs=left, figures=(name,)))]
    return overlay


def _reduced(config: Config, kept: Proposal, name: str) -> dict[str, Any]:
    """Return what differs from an experiment in the config."""
    content, cells = content_of(config, name), kept.kept(name)
    seeds, note = kept.seeds(name) if cells else 1, "cut to a budget"
    own: dict[str, Any] = {} if seeds == content.seeds else {"seeds": given(seeds, f"{content.seeds} in the whole")}
    if content.more_seeds:
        own["more_seeds"] = None  # a budget has one number for an experiment
    rules: dict[str, Any] = {}
    for rule, kappas in content.rules.items():
        left = [k for k in kappas if (rule, k) == ("sqrt", 1) or (rule, k) in {(c.rule, c.level) for c in cells}]
        if left != kappas:
            rules[rule] = given(left, note) if left else None
    if rules:
        own["rules"] = rules
    ells = [ell for ell in content.ell if ell == 1 or ("svag", ell) in {(c.rule, c.level) for c in cells}]
    if ells != content.ell:
        own["ell"] = given(ells, note)
    if kept.shares.get(name, 1) != 1:
        own["epochs"] = epochs_at(config, name, kept.shares[name])
    return own


def _stays(spec: AnySpec, kept: Proposal) -> bool:
    """Whether the overlay leaves a run, but for its number of seeds."""
    if isinstance(spec, Training):
        if spec.is_baseline:
            return spec.experiment in kept.cells or spec.experiment in kept.parents
        return place_of(spec) in {(cell.rule, cell.level) for cell in kept.kept(spec.experiment)}
    return isinstance(spec, Simulation) or spec.experiment in kept.tuned


def _shown(planned: Plan) -> bool:
    try:
        return bool(figure_runs(planned))
    except InputError:
        return False
