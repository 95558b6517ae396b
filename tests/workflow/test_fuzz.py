"""Inputs at random, 2,000 in all: each is read, or refused in one line, within 5 seconds and 1 GB.

The random configs are those of test_faults.py. Digests are valid here, so that what is behind them is looked at.
"""

import copy
import json
import math
import random
import time
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adasde.analysis import tables
from adasde.analysis.figures.registry import _row, possible_figures
from adasde.common import InputError, canonical, digest, peak_memory
from adasde.experiments.artifacts import COLUMNS, KEY, provenance, read_results, rows_digest
from adasde.experiments.cost import work
from adasde.experiments.plan import plan
from adasde.experiments.specs import Trained, spec_of
from adasde.scaling.recipe_files import read_recipe
from adasde.training.branching import branch_off, read_state
from adasde.training.checkpoint import UnusableCheckpoint, read_checkpoint, write_checkpoint
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import ROOT, changed, save_run

pytestmark = pytest.mark.slow

SMOKE = plan(yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())).runs
TENSORS = (torch.zeros(0), torch.zeros(3), torch.full((2, 2), math.nan), torch.zeros(5, dtype=torch.uint8))
JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 7, 2**31, 10**30, 0.5, -2.0, 1e308, math.nan, math.inf]),
    st.sampled_from(["", "x", "adam", "sqrt", "é", "a\nb", "../a", "0" * 64, "x" * 500]),
    st.sampled_from([[], {}, [None], [[]], {"x": 1}, [0.5, 1], [1, 1], [3, 2, 1]]),
)
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "set", "delete", "add"]), JSON), max_size=3)
ODD = st.one_of(JSON, st.sampled_from(TENSORS))
ODD_CHANGES = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "set", "delete", "add"]), ODD), min_size=1, max_size=3
)


def fuzz(count):
    """The settings of a test with so many inputs, always the same ones."""
    return settings(
        max_examples=count, deadline=5000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


def places(node, path=()):
    """All paths below a node of nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    return [found for key, child in items for found in [(*path, key), *places(child, (*path, key))]]


def mutated(document, changes):
    """A copy with values replaced, deleted or added at places that the numbers choose."""
    document = as_lists(document)
    for number, how, value in changes:
        found = places(document)
        shallow = [path for path in found if len(path) <= 2]
        if not found:
            return document
        found = shallow if number % 2 else found
        *above, key = found[number % len(found)]
        parent = document
        for step in above:
            parent = parent[step]
        if how == "delete":
            del parent[key]
        elif how == "add" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(value))
        elif how == "add":
            parent[f"{key}x"] = copy.deepcopy(value)
        else:
            parent[key] = copy.deepcopy(value)
    return document


def as_lists(node):
    """A copy that can be changed everywhere; tensors are shared."""
    if isinstance(node, dict):
        return {key: as_lists(value) for key, value in node.items()}
    return [as_lists(value) for value in node] if isinstance(node, list | tuple) else node


@pytest.fixture
def outcomes(broken):
    """Counts of what came of the inputs, and a function that tries one: it may raise nothing but a line."""
    found, memory = Counter(), peak_memory()

    def attempt(read):
        try:
            outcome = read() or "read"
        except UnusableCheckpoint as error:
            outcome = "begun anew"
            assert_a_line(error)
        except InputError as error:
            outcome = "refused"
            assert_a_line(error)
        found[outcome] += 1

    yield attempt, found
    assert peak_memory() - memory < 1e9


def assert_a_line(error):
    assert "\n" not in str(error)
    assert 0 < len(str(error)) < 1000


def told(found):
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items()))


def test_specs(outcomes, broken):
    attempt, found = outcomes
    documents = [spec.document for spec in SMOKE.values()]

    def read(document):
        spec = spec_of(document)
        assert spec_of(json.loads(spec.canonical)) == spec
        if isinstance(spec, Trained):
            work(spec)

    @fuzz(400)
    @given(st.integers(0, len(documents) - 1), CHANGES)
    def specs(number, changes):
        attempt(lambda: read(mutated(documents[number], changes)))

    specs()
    assert found["refused"] > 200 < sum(found.values())
    broken("random input", "random spec", sum(found.values()), told(found))


def test_recipes(outcomes, broken, tmp_path):
    attempt, found = outcomes
    own = {"optimizer": "adamw", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1, "batch_size": 256}
    own |= {"steps": 1000, "warmup_steps": 20, "milestones": [500, 750]}
    deepspeed = {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8}}}
    deepspeed |= {"train_batch_size": 64, "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 100}}}
    hugging = {"learning_rate": 1e-3, "adam_beta1": 0.9, "adam_beta2": 0.99, "per_device_train_batch_size": 8}
    hugging |= {"max_steps": 100, "lr_scheduler_type": "linear", "warmup_ratio": 0.1, "optim": "adamw_torch"}
    axolotl = {"base_model": "x", "micro_batch_size": 2, "gradient_accumulation_steps": 4, "learning_rate": "1e-3"}
    axolotl |= {"optimizer": "adamw_torch", "lr_scheduler": "cosine"}
    path = tmp_path / "recipe"

    def read(text):
        path.write_text(text, encoding="utf-8")
        recipe = read_recipe(path)
        new = recipe.recipe.scaled(2.0)
        recipe.written(new, "accumulation")

    @fuzz(400)
    @given(st.sampled_from([own, deepspeed, hugging, axolotl]), CHANGES, st.booleans(), st.integers(0, 10**6))
    def recipes(recipe, changes, as_json, cut):
        document = mutated(recipe, changes)
        text = json.dumps(document, indent=1) if as_json else yaml.safe_dump(document, sort_keys=False)
        attempt(lambda: read(text if cut % 3 else text[: cut % (len(text) + 1)]))

    recipes()
    assert found["refused"] > 100 < found["read"] + 100
    broken("random input", "random recipe", sum(found.values()), told(found))


def test_run_files(outcomes, broken, tmp_path):
    """Other facts, spec or rows, each with its digest."""
    attempt, found = outcomes
    spec = next(iter(SMOKE.values()))
    path, rows = tmp_path / "run.parquet", [(spec.run, n, n * 1e-5, "train_loss", 2.3 - 0.1 * n) for n in range(4)]
    save_run(path, rows, spec, **provenance(), seconds=1.0, peak_bytes=7)
    whole = pq.read_table(path)
    facts = json.loads(whole.schema.metadata[KEY])

    def read(document, table):
        for own in document if isinstance(document, list) else ():
            if isinstance(own, dict):
                own.pop("sha256", None)
                own["sha256"] = digest(canonical(own))
        pq.write_table(table.replace_schema_metadata({KEY: json.dumps(document).encode()}), path)
        read_results(path)
        tables.collect([path])

    @fuzz(300)
    @given(CHANGES)
    def files(changes):
        attempt(lambda: read(mutated(facts, changes), whole))

    @fuzz(100)
    @given(ODD_CHANGES)
    def tables_(changes):
        cells = [row for row in mutated(rows, changes) if isinstance(row, list) and len(row) == len(COLUMNS)]
        try:
            table = pa.table([pa.array([row[n] for row in cells]) for n in range(len(COLUMNS))], COLUMNS)
            own = {**facts[0], "rows": len(cells), "rows_sha256": rows_digest(cells)}
        except (pa.ArrowException, TypeError, OverflowError):  # nothing that a table could hold
            return
        attempt(lambda: read([own], table))

    files()
    tables_()
    assert found["refused"] > 200
    broken("random input", "random table of a run, under valid digests", sum(found.values()), told(found))


def part_of(whole, draw):
    """Some runs of two experiments: without some seeds, kappas, the baseline or any runs."""
    found = whole[whole["experiment"].isin(draw.sample(sorted(whole["experiment"].unique()), 2))]
    baseline = (found["rule"] == "sqrt") & (found["kappa"] == 1) & (found["ell"] == 1)
    runs, seeds, kappas = (sorted(found[name].unique()) for name in ("run", "seed", "kappa"))
    return draw.choice([
        found[~found["run"].isin(draw.sample(runs, len(runs) // 2))],
        found[~found["seed"].isin(draw.sample(seeds, len(seeds) // 2))],
        found[~found["kappa"].isin(draw.sample(kappas, len(kappas) // 2))],
        found[~baseline],
        found[baseline == (found["seed"] == seeds[0])],
    ])  # fmt: skip


def test_parts_of_results(adasde, broken, tmp_path):
    """Claims, their summary, the comparison and a figure: of what is there, or one line."""
    reference, draw, found = ROOT / "results/reference/mini", random.Random(1), Counter()
    (whole, simulations), runs = tables.both(reference), tables.read_runs(reference)
    for number in range(6):
        part = part_of(whole, draw)
        chosen = simulations[simulations["run"].isin(draw.sample(sorted(simulations["run"].unique()), number % 2))]
        theirs = whole[whole["experiment"].isin(part["experiment"])]
        for folder, table in (("mine", part), ("theirs", theirs)):
            own = runs[runs["run"].isin({*table["run"], *chosen["run"]})]
            tables.write(tmp_path / folder, table.reset_index(drop=True), chosen.reset_index(drop=True), own)
        columns = ["experiment", "kind", "rule", "kappa", "ell", "second_moment"]
        rows = [_row(*values) for values in part[columns].drop_duplicates().itertuples(index=False, name=None)]
        figures = sorted(possible_figures(rows, set(chosen["study"])))
        commands = [("claims", "mine"), ("compare", "mine", "--reference", "theirs")]
        commands += [
            ("figure", name, "--tables", "mine", "--out", "x.png")
            for name in draw.sample(figures, min(1, len(figures)))
        ]
        for command in commands:
            done = adasde(*command, cwd=tmp_path)
            if done.returncode == 2:
                (line,) = (line for line in done.stderr.splitlines() if line.startswith("adasde: error: "))
                assert len(line) < 1000
            assert "Warning" not in done.stderr
            found["one line" if done.returncode == 2 else "what is there"] += 1
    assert found["what is there"] > found["one line"] > 0
    broken("random input", "random part of the results", sum(found.values()), told(found))


@pytest.fixture
def saved(tensors, small_spec, tmp_path):
    """A run on synthetic images that has been saved in its middle, and the states in the file."""
    workload = ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)
    train(small_spec, workload, until=(320, tmp_path / "saved"))
    return small_spec, workload, read_checkpoint(tmp_path / "saved")


def test_checkpoints(outcomes, broken, saved, tmp_path):
    attempt, found = outcomes
    spec, workload, state = saved
    path = tmp_path / "checkpoint"

    def go_on(document):
        write_checkpoint(path, spec.canonical, document)
        run = Run(spec, workload)
        run.restore(path)
        run.advance(1)
        run.measure()

    @fuzz(200)
    @given(ODD_CHANGES)
    def checkpoints(changes):
        attempt(lambda: go_on(mutated(state, changes)))

    with torch.random.fork_rng():
        checkpoints()
    assert found["begun anew"] > 100
    broken("random input", "random checkpoint, under a valid digest", sum(found.values()), told(found))


def test_states(outcomes, broken, saved, tmp_path):
    attempt, found = outcomes
    spec, workload, state = saved
    path = tmp_path / "state"
    parent = {"run": spec.run, "spec_hash": spec.hash, "samples": 320}
    child = changed(spec, experiment="branch", samples=320, evaluate=[320], parent=parent)

    def start(document, other):
        write_checkpoint(path, other, document)
        run = Run(child, workload)
        branch_off(run, spec, read_state(path))
        run.advance(1)

    @fuzz(200)
    @given(ODD_CHANGES, st.sampled_from([spec.canonical, spec.canonical, spec.canonical, child.canonical, "{}", "x"]))
    def states(changes, other):
        attempt(lambda: start(mutated(state, changes), other))

    with torch.random.fork_rng():
        states()
    assert found["refused"] > 50
    broken("random input", "random state of a parent, under a valid digest", sum(found.values()), told(found))


def test_the_tests_above_are_quick_enough_to_see_a_hang():
    """`deadline` is in force: an input that takes longer than it fails."""
    with pytest.raises(Exception, match="deadline"):

        @settings(max_examples=1, deadline=50, derandomize=True, database=None)
        @given(st.none())
        def slow(_):
            time.sleep(0.2)

        slow()
