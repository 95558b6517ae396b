"""Did it reproduce here? The tables of one's own runs against those of the repository's, `results/reference`.

Runs of equal spec are bit-identical on one machine; between machines rounding differs, and training amplifies that to
the level of seed noise. So means over seeds are compared in units of the standard error of their difference: typical
values about 1 are those of an independent repeat, and bit-identical runs have 0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims.evaluation import TRAJECTORY_METRICS, evaluate_claims
from adasde.analysis.claims.report import VERDICTS
from adasde.analysis.figures.registry import draw_figure
from adasde.common import InputError, text_table

FACTS = ("device", "threads", "adasde", "python", "torch", "numpy")
TYPICAL = 2.0  # root mean square above which an experiment has not been repeated; 1 is expected, more with few seeds


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; tables have a row per fact, experiment, claim or figure.

    ``facts`` has columns fact, reference, here; ``experiments`` experiment, runs, identical, typical, largest;
    ``verdicts`` id, reference, here (verdicts), value_reference, value_here, difference in units of its noise, figure;
    ``figures`` figure, claims, same (number of verdicts), largest (of the differences).
    """

    facts: pd.DataFrame
    experiments: pd.DataFrame
    verdicts: pd.DataFrame

    @property
    def figures(self) -> pd.DataFrame:
        """What the claims of each figure say."""
        shown = self.verdicts[self.verdicts["figure"] != ""]
        shown = shown.assign(same=shown["reference"] == shown["here"], size=shown["difference"].abs())
        grouped = shown.groupby("figure", sort=False)
        return grouped.agg(claims=("id", "size"), same=("same", "sum"), largest=("size", "max")).reset_index()

    @property
    def contradicted(self) -> list[str]:
        """Ids of the claims that are reproduced in one place and not reproduced in the other."""
        decided = self.verdicts[self.verdicts[["reference", "here"]].isin(VERDICTS[:2]).all(axis=1)]
        return decided.loc[decided["reference"] != decided["here"], "id"].tolist()

    @property
    def strayed(self) -> list[str]:
        """Names of the experiments that differ from the reference by more than noise."""
        return self.experiments.loc[self.experiments["typical"] > TYPICAL, "experiment"].tolist()


def compare(here, reference) -> Comparison:
    """Compare the tables in the folder ``here`` with those in ``reference``; InputError if they share no experiment."""
    if not Path(reference).is_dir():
        raise InputError(f"reference = {reference}: no such folder; name it by --reference")
    (mine, simulated), (theirs, also) = tables.both(here), tables.both(reference)
    names = [name for name in theirs["experiment"].unique() if name in set(mine["experiment"])]
    studies = [name for name in also["simulation"].unique() if name in set(simulated["simulation"])]
    if not names + studies:
        raise InputError(f"{here}: shares no experiment with {reference}; name the reference of its scale")
    rows = [_experiment(name, *(t[t["experiment"] == name] for t in (mine, theirs))) for name in names]
    rows += [_simulation(name, *(t[t["simulation"] == name] for t in (simulated, also))) for name in studies]
    return Comparison(
        facts=_facts(here, reference),
        experiments=pd.DataFrame(rows, columns=["experiment", "runs", "identical", "typical", "largest"]),
        verdicts=_verdicts(evaluate_claims(mine, simulated), evaluate_claims(theirs, also)),
    )


def summary(found: Comparison) -> str:
    """Return the comparison as text for a terminal."""
    parts = [text_table([("", "reference", "here"), *found.facts.itertuples(index=False, name=None)])]
    rows = [("experiment", "runs", "identical", "typical", "largest difference, in standard errors")]
    for row in found.experiments.itertuples():
        rows.append((row.experiment, str(row.runs), str(row.identical), f"{row.typical:.2f}", f"{row.largest:.1f}"))
    parts.append(text_table(rows))
    rows = [("figure", "claims", "same verdict", "largest difference of a claim, in its noise")]
    for row in found.figures.itertuples():
        rows.append((row.figure, str(row.claims), str(row.same), f"{row.largest:.1f}"))
    parts.append(text_table(rows))
    other = found.verdicts[found.verdicts["reference"] != found.verdicts["here"]]
    if len(other):
        rows = [("claim with another verdict", "reference", "here", "difference, in its noise")]
        for row in other.itertuples():
            values = (f"{row.reference} ({row.value_reference:.3g})", f"{row.here} ({row.value_here:.3g})")
            rows.append((row.id, *values, f"{row.difference:.2f}"))
        parts.append(text_table(rows))
    same = len(found.verdicts) - len(other)
    last = f"{same} of {len(found.verdicts)} claims have the same verdict, {len(found.contradicted)} the opposite one"
    if found.strayed:
        last += f"; more than noise apart: {', '.join(found.strayed)}"
    return "\n\n".join([*parts, last])


def draw(here, reference, folder):
    """Draw into ``folder`` the figures of both tables, the reference behind; yield the files."""
    from adasde.analysis.figures import style

    both = tables.both(here), tables.both(reference)
    names = sorted(set.intersection(*(_shown(*part) for part in both)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        path = Path(folder, f"{name}.png")
        style.save(draw_figure(name, *both[0], reference=both[1]), [path])
        yield path


def _shown(trajectories, simulations):
    """Figures that say something: those that show a claim, and the noise where it was measured."""
    figures = set(evaluate_claims(trajectories, simulations)["figure"]) - {""}
    return figures | ({"noise"} if "noise_trace" in set(trajectories["metric"]) else set())


def _facts(here, reference):
    runs = [_runs(folder) for folder in (reference, here)]
    values = [[", ".join(sorted(set(map(str, table.get(fact, ["unknown"]))))) for table in runs] for fact in FACTS]
    return pd.DataFrame([(fact, *pair) for fact, pair in zip(FACTS, values, strict=True)])


def _runs(folder):
    path = Path(folder, "runs.csv")
    if not path.exists():
        raise InputError(f"{path}: no such file; Snakemake makes it from the runs, by `adasde collect`")
    return pd.read_csv(path)


def _experiment(name, mine, theirs):
    """A row of the experiments: differences of all means over seeds, of every rule, level, time and test function."""
    shared = set(mine["run"]) & set(theirs["run"])
    differences = []
    for rule in theirs["rule"].unique():
        for metric in [metric for metric in TRAJECTORY_METRICS if metric in set(theirs["metric"])]:
            try:
                there, found = (tables.groups(table, name, rule, metric) for table in (theirs, mine))
            except InputError:  # what was measured there and not here, or diverged
                continue
            if len(there.time) != len(found.time) or not np.allclose(there.time, found.time):
                continue
            levels = [level for level in there.healthy if level in found.healthy]
            both = {(level, n): groups.values[level] for n, groups in enumerate((there, found)) for level in levels}
            if both:
                differences += [_errors(both, level) for level in levels]
    return (name, len(shared), _identical(mine, theirs, shared, ["run", "step", "metric"]), *_sizes(differences))


def _errors(both, level):
    """Difference of the two means of a level in units of its standard error, (points,)."""
    there, here = both[level, 0], both[level, 1]
    error = statistics.seed_noise(both) * np.sqrt(1 / len(there) + 1 / len(here))
    return statistics.in_noise(here.mean(axis=0), there.mean(axis=0), error)


def _simulation(name, mine, theirs):
    """A row of the experiments for a simulation: differences of all means over its batches of paths."""
    where = ["run", "process", "level", "time", "metric"]
    there, here = (table.groupby(where)["value"].agg(["mean", "var", "count"]) for table in (theirs, mine))
    joined = there.merge(here, on=where, suffixes=("_there", "_here"))
    error = np.sqrt(joined["var_there"] / joined["count_there"] + joined["var_here"] / joined["count_here"])
    differences = statistics.in_noise(joined["mean_here"].to_numpy(), joined["mean_there"].to_numpy(), error.to_numpy())
    shared = set(mine["run"]) & set(theirs["run"])
    return (name, len(shared), _identical(mine, theirs, shared, [*where, "batch"]), *_sizes([differences]))


def _identical(mine, theirs, shared, where):
    """Number of runs whose every value is the same."""
    here, there = (table[table["run"].isin(shared)].set_index(where)["value"].sort_index() for table in (mine, theirs))
    same = here.reindex(there.index).eq(there) | (there.isna() & here.reindex(there.index).isna())
    lengths = [values.groupby(level="run").size() for values in (here, there)]
    return int((same.groupby(level="run").all() & lengths[0].eq(lengths[1])).sum())


def _sizes(differences):
    """Root mean square and largest of the differences that are known; 0 where only the common start is."""
    values = np.concatenate([np.ravel(part) for part in differences] or [np.zeros(0)])
    values = np.abs(values[np.isfinite(values)])
    return (float(np.sqrt((values**2).mean())), float(values.max())) if len(values) else (np.nan, np.nan)


def _verdicts(here, reference):
    """A row per claim of either table, with the difference of its values in units of both intervals' noise."""
    columns = ["id", "verdict", "value", "low", "high"]
    joined = reference[columns].merge(here[columns], how="outer", on="id", suffixes=("_reference", "_here"))
    order = dict.fromkeys([*reference["id"], *here["id"]])
    joined["figure"] = joined["id"].map(
        dict(zip(*pd.concat([reference, here])[["id", "figure"]].to_numpy().T, strict=True))
    )
    joined = joined.set_index("id").loc[list(order)]
    joined[["verdict_reference", "verdict_here"]] = joined[["verdict_reference", "verdict_here"]].fillna("absent")
    half = [(joined[f"high_{place}"] - joined[f"low_{place}"]) / 2 / 1.96 for place in ("reference", "here")]
    difference = joined["value_here"] - joined["value_reference"]
    with np.errstate(divide="ignore", invalid="ignore"):
        joined["difference"] = np.where(difference == 0, 0.0, difference / np.hypot(*half))
    joined = joined.rename(columns={"verdict_reference": "reference", "verdict_here": "here"}).reset_index()
    return joined[["id", "reference", "here", "value_reference", "value_here", "difference", "figure"]]
