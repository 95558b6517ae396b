"""Did it reproduce here? The tables of one's own runs against those of the repository, `results/reference`.

Runs of equal spec are bit-identical on one machine. Between machines rounding differs, and training amplifies that to
the level of the seed spread. So means over seeds are compared in units of the standard error of their difference. An
independent repeat has typical values of about 1, and bit-identical runs have 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from adasde.analysis import statistics, tables
from adasde.analysis.claims.base import TEST_FUNCTIONS, VERDICTS
from adasde.analysis.claims.evaluation import evaluate_claims, evaluate_scale
from adasde.analysis.figures.registry import save_figure
from adasde.common import InputError, text_table

FACTS = ("device", "threads", "adasde", "source", "python", "torch", "numpy")
# What runs.csv says of a run's spec: its hash, and what most often differs.
SPEC = (
    *("spec_hash", "workload", "rule", "kappa", "ell", "batch_size", "kind", "second_moment", "optimizer"),
    *("lr", "beta", "beta1", "beta2", "eps", "weight_decay", "samples", "steps"),
)
SHOWN = 5  # runs of another spec that are named
PLACES = {"here": "here", "reference": "in the reference"}
GAPS = ("rule", "relative", "svag", "rival", "finetuning")  # claims whose interval is that of an equivalence test
TYPICAL = 2.0  # root mean square above which an experiment has not been repeated; 1 is expected, more with few seeds


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; tables have a row per fact, experiment, claim or figure.

    ``scales`` are the names of both folders, the reference's first. ``runs`` has columns run, where (both, here or
    reference), differs (what differs in the spec, empty if nothing does); ``facts`` fact, reference, here;
    ``experiments`` experiment, runs, identical, typical, largest; ``verdicts`` id, reference, here (verdicts),
    value_reference, value_here, difference in units of its error, figure; ``figures`` figure, claims, same (number of
    verdicts), largest (of the differences).
    """

    scales: tuple[str, str]
    runs: pd.DataFrame
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
        """Names of the experiments that differ from the reference by more than the seed spread."""
        return self.experiments.loc[self.experiments["typical"] > TYPICAL, "experiment"].tolist()


def compare(here: Path, reference: Path) -> Comparison:
    """Compare the tables in the folder ``here`` with those in ``reference``. InputError if they share no experiment."""
    if not Path(reference).is_dir():
        raise InputError(f"reference = {reference}: no such folder; name it by --reference")
    mine, theirs = tables.both(here), tables.both(reference)
    rows, kinds = [], (("experiment", _experiment), ("simulation", _simulation))
    for own, other, (key, row) in zip(mine, theirs, kinds, strict=True):
        parts = dict(iter(own.groupby(key, sort=False)))
        rows += [row(name, parts[name], part) for name, part in other.groupby(key, sort=False) if name in parts]
    if not rows:
        raise InputError(f"{here}: shares no experiment with {reference}; name the reference of its scale")
    scales = [Path(folder).resolve().name for folder in (reference, here)]
    return Comparison(
        scales=(scales[0], scales[1]),
        runs=_specs(here, reference),
        facts=_facts(here, reference),
        experiments=pd.DataFrame(rows, columns=["experiment", "runs", "identical", "typical", "largest"]),
        verdicts=_verdicts(evaluate_scale(here), evaluate_scale(reference)),
    )


def summary(found: Comparison) -> str:
    """Return the comparison as text for a terminal."""
    changed = found.verdicts[found.verdicts["reference"] != found.verdicts["here"]]
    largest = "largest difference"
    parts = [
        _runs(found),
        _text(found.facts, ("", "reference", "here"), "{0.fact}|{0.reference}|{0.here}"),
        _text(
            found.experiments,
            ("experiment", "runs", "identical", "typical", f"{largest}, in standard errors"),
            "{0.experiment}|{0.runs}|{0.identical}|{0.typical:.2f}|{0.largest:.1f}",
        ),
        _text(
            found.figures,
            ("figure", "claims", "same verdict", f"{largest} of a claim, in its noise"),
            "{0.figure}|{0.claims}|{0.same}|{0.largest:.1f}",
        ),
    ]
    if len(changed):
        header = ("claim with another verdict", "reference", "here", "difference, in its noise")
        cells = "{0.id}|{0.reference} ({0.value_reference:.3g})|{0.here} ({0.value_here:.3g})|{0.difference:.2f}"
        parts.append(_text(changed, header, cells))
    total, opposite = len(found.verdicts), len(found.contradicted)
    last = f"{total - len(changed)} of {total} claims have the same verdict, {opposite} the opposite one"
    if found.strayed:
        last += f"; more than noise apart: {', '.join(found.strayed)}"
    return "\n\n".join([*parts, last])


def _runs(found):
    """Which scales are compared, and which runs have another spec or are on one side only."""
    own = found.runs
    other = own[own["differs"] != ""]
    counts = own["where"].value_counts()
    words = [f"{len(other)} of {counts.get('both', 0)} shared runs have another spec"]
    if len(other):
        fields = dict.fromkeys(field for differs in other["differs"] for field in differs.split(", "))
        named = [*other["run"][:SHOWN], *(["..."] if len(other) > SHOWN else [])]
        words[0] += f" ({', '.join(fields)}): {', '.join(named)}"
    words += [f"{counts[where]} runs are {place} only" for where, place in PLACES.items() if where in counts]
    return f"scale {found.scales[1]} against the reference of {found.scales[0]}: {'; '.join(words)}"


def _text(frame, header, cells):
    """A table as text, each row of ``frame`` in the format ``cells``."""
    return text_table([header, *(cells.format(row).split("|") for row in frame.itertuples())])


def plot(here: Path, reference: Path, folder: Path) -> Iterator[Path]:
    """Plot into ``folder`` the figures of both tables, the reference behind, and yield the files.

    These are the figures that show a claim, and the noise if it was measured.
    """
    both, shown = (tables.both(here), tables.both(reference)), []
    for trajectories, simulations in both:
        noise = {"noise"} if "noise_trace" in set(trajectories["metric"]) else set()
        shown.append(set(evaluate_claims(trajectories, simulations)["figure"]) - {""} | noise)
    for name in sorted(set.intersection(*shown)):
        path = Path(folder, f"{name}.png")
        save_figure(name, [path], *both[0], reference=both[1])
        yield path


def _specs(here, reference):
    """A row per run of either folder: where it is, and what differs in its spec."""
    there, mine = (tables.read_runs(folder).set_index("run") for folder in (reference, here))
    fields = [field for field in SPEC if field in there and field in mine]
    rows = []
    for run in dict.fromkeys([*there.index, *mine.index]):
        where = "both" if run in there.index and run in mine.index else "here" if run in mine.index else "reference"
        different = [
            field for field in fields if where == "both" and not _equal(there.at[run, field], mine.at[run, field])
        ]
        rows.append((run, where, ", ".join(field.replace("_", " ") for field in different)))
    return pd.DataFrame(rows, columns=["run", "where", "differs"])


def _equal(one, other):
    return one == other or (pd.isna(one) and pd.isna(other))


def _facts(here, reference):
    """Devices and versions of both."""
    columns = {"fact": FACTS}
    for place, folder in (("reference", reference), ("here", here)):
        runs = tables.read_runs(folder)
        columns[place] = [", ".join(sorted(set(map(str, runs.get(fact, ["unknown"]))))) for fact in FACTS]
    return pd.DataFrame(columns)


def _experiment(name, mine, theirs):
    """A row of the experiments: differences of all means over seeds, of every rule, level, time and test function."""
    differences = []
    metrics = [metric for metric in TEST_FUNCTIONS if metric in set(theirs["metric"])]
    followed = theirs[["rule", "second_moment"]].drop_duplicates().itertuples(index=False, name=None)
    for (rule, moment), metric in product(followed, metrics):
        try:
            there, found = (tables.groups(table, name, rule, metric, moment) for table in (theirs, mine))
        except InputError:  # what was measured there and not here, or diverged
            continue
        if len(there.time) == len(found.time) and np.allclose(there.time, found.time):
            levels = [level for level in there.healthy if level in found.healthy]
            both = {(level, n): groups.values[level] for n, groups in enumerate((there, found)) for level in levels}
            for a, b in ((both[level, 0], both[level, 1]) for level in levels):
                error = statistics.seed_spread(both) * np.sqrt(1 / len(a) + 1 / len(b))
                differences.append(statistics.in_deviations(b.mean(axis=0), a.mean(axis=0), error))
    return name, *_identical(mine, theirs, ["run", "step", "metric"]), *_sizes(differences)


def _simulation(name, mine, theirs):
    """A row of the experiments for a simulation: differences of all means over its batches of paths."""
    where = ["run", "process", "level", "time", "metric"]
    there, here = (table.groupby(where)["value"].agg(["mean", "var", "count"]) for table in (theirs, mine))
    joined = there.merge(here, on=where, suffixes=("_there", "_here"))
    error = np.sqrt(joined["var_there"] / joined["count_there"] + joined["var_here"] / joined["count_here"])
    differences = statistics.in_deviations(
        joined["mean_here"].to_numpy(), joined["mean_there"].to_numpy(), error.to_numpy()
    )
    return name, *_identical(mine, theirs, [*where, "batch"]), *_sizes([differences])


def _identical(mine, theirs, where):
    """Number of runs that both have, and of those whose every value is the same."""
    shared = set(mine["run"]) & set(theirs["run"])
    here, there = (table[table["run"].isin(shared)].set_index(where)["value"].sort_index() for table in (mine, theirs))
    same = here.reindex(there.index).eq(there) | (there.isna() & here.reindex(there.index).isna())
    lengths = [values.groupby(level="run").size() for values in (here, there)]
    return len(shared), int((same.groupby(level="run").all() & lengths[0].eq(lengths[1])).sum())


def _sizes(differences):
    """Root mean square and largest of the differences that are known; 0 where only the common start is."""
    values = np.concatenate([np.ravel(part) for part in differences] or [np.zeros(0)])
    values = np.abs(values[np.isfinite(values)])
    return (float(np.sqrt((values**2).mean())), float(values.max())) if len(values) else (np.nan, np.nan)


def _verdicts(here, reference):
    """A row per claim of either table, with the difference of its values in units of both intervals' error."""
    ids = list(dict.fromkeys([*reference["id"], *here["id"]]))
    there, mine = (table.set_index("id").reindex(ids) for table in (reference, here))
    kind = mine["claim"].fillna(there["claim"])
    errors = np.where(kind.isin(GAPS), 2 * 1.645, 2 * 1.96)  # of an interval of 90%, and of 95%
    half = [((side["high"] - side["low"]) / errors).where(kind != "forecast") for side in (there, mine)]
    difference = mine["value"] - there["value"]
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(difference == 0, 0.0, difference / np.hypot(*half))
    columns = {"reference": there["verdict"].fillna("absent"), "here": mine["verdict"].fillna("absent")}
    columns |= {"value_reference": there["value"], "value_here": mine["value"], "difference": difference}
    return pd.DataFrame(columns | {"figure": mine["figure"].fillna(there["figure"])}).reset_index()
