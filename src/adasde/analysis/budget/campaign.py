"""A campaign, cut to a budget."""

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from adasde.analysis.budget.overlay import overlay_of
from adasde.analysis.budget.prices import MOST, priced, tunings
from adasde.analysis.budget.proposal import Proposal, Step, bought
from adasde.common import InputError
from adasde.experiments.config import config_of
from adasde.experiments.cost import DEVICES, cost_of
from adasde.experiments.documents import merge
from adasde.experiments.jobs import Plan
from adasde.experiments.plan import plan
from adasde.experiments.plan_cost import hours_of
from adasde.experiments.specs import Simulation, Trained
from adasde.scaling.rules import ScalingWarning

LIMIT = 1e6  # hours
UNITS = {"GPU": "gpuh", "core": "h"}


@dataclass(frozen=True)
class Cut:
    """A campaign and what a budget leaves of it: the overlay, both plans, and why the rest is given up.

    ``budget`` has one form, however it was written.
    """

    budget: str
    hours: float
    unit: str
    whole: Plan
    plan: Plan
    overlay: dict[str, Any]
    proposal: Proposal
    then: Step | None  # the next step, which was too dear
    device: str | None

    @property
    def planned(self) -> float:
        """Hours that the planner gives for the overlay laid over the config."""
        return hours_by_unit(self.plan, self.device)[self.unit]


def cut(document: Any, budget: str, device: str | None = None) -> Cut:
    """Return what a budget leaves of a config.

    Args:
        document: The config, as YAML holds it.
        budget: Hours of devices: ``100gpuh`` of GPUs, ``5h`` of what trains the config's networks.
        device: Device to train on, by default the config's.

    Raises:
        InputError: If the budget is no such text, if it is one of GPUs and the config trains on cores, or if it is too
            small for one cell that can be decided; the message names the least that would do, and for which cell.
    """
    hours, gpus = budget_of(budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingWarning)
        whole, config = plan(document), config_of(document)
        trained = next(spec for spec in whole.runs.values() if isinstance(spec, Trained))
        unit = DEVICES[cost_of(trained, device).device].unit
        if gpus and unit != "GPU":
            raise InputError(f"budget = {budget!r}: {whole.scale} trains on cores; say {hours:g}h")
        simulated = [run for run, spec in whole.runs.items() if isinstance(spec, Simulation)]
        aside = hours_of(whole, simulated, device).get(unit, (0.0, 0.0))[0]
        start = Proposal(priced(document, config, device), tunings(whole, config, device))
        kept, then = bought(start, hours - aside)
        if not kept.cells:
            raise InputError(_too_small(budget, whole.scale, then, aside, unit))
        budget = f"{_plain(hours)}{UNITS[unit]}"
        parts = (whole.scale, budget.replace(".", "-"), device)
        overlay = overlay_of(whole, config, kept, "-".join(part for part in parts if part))
        left = plan(merge(document, overlay))
        return Cut(budget, hours, unit, whole, left, overlay, kept, then, device)


def budget_of(text: str) -> tuple[float, bool]:
    """Return the hours of a budget such as ``100gpuh`` or ``5h``, and whether they are those of GPUs by name."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|gpuh)", text)
    if not found:
        raise InputError(f"budget = {text!r}: must be a number and a unit, h or gpuh, such as 100gpuh")
    hours = float(found[1])
    if not 0 < hours <= LIMIT:
        raise InputError(f"budget = {text!r}: must be above 0, and {LIMIT:,.0f} hours at most")
    return hours, found[2] == "gpuh"


def hours_by_unit(planned: Plan, device: str | None) -> dict[str, float]:
    """Device-hours of a plan, for GPUs and cores apart."""
    return {unit: hours for unit, (hours, _) in hours_of(planned, planned.runs, device).items()}


def _too_small(budget: str, scale: str, first: Step | None, aside: float, unit: str) -> str:
    """The line that refuses a budget."""
    if first is None:
        return f"budget = {budget!r}: no cell of {scale} can be decided with {MOST} seeds at any budget"
    least = f"{_up(first.hours + aside)}{UNITS[unit]}"
    return f"budget = {budget!r}: too small to decide one claim; {least} would do, for {first.words}"


def _up(hours: float) -> str:
    """Hours with two digits, rounded up."""
    step = 10.0 ** (np.floor(np.log10(hours)) - 1)
    return _plain(np.ceil(hours / step) * step)


def _plain(hours: float) -> str:
    """Hours as `budget_of` takes them, without zeros that say nothing."""
    return f"{hours:.9f}".rstrip("0").rstrip(".")
