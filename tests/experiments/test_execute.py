"""execute.py: the runs of a job, one after another, and states; what is finished is not run again."""

import errno
import math

import pytest

from adasde.common import InputError, Stopped
from adasde.experiments import execute
from adasde.experiments.artifacts import read_results
from adasde.experiments.execute import Job, save_state
from adasde.experiments.plan import plan
from adasde.training.checkpoint import read_checkpoint
from adasde.training.run import Run
from conftest import changed, same_state


@pytest.fixture
def seeds(spec):
    """Three runs of 40 steps that differ in their seed."""
    short = changed(spec, samples=1280, evaluate=[640, 1280])
    return [changed(short, run=f"{short.cell}.s{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def job(synthetic, tmp_path):
    """Make a job in a folder of its own."""
    return lambda specs, **options: Job(specs, out=tmp_path / "cell.parquet", root=tmp_path, **options)


def digests(path):
    return {result.spec.run: result.facts["rows_sha256"] for result in read_results(path)}


@pytest.fixture
def whole(seeds, alone):
    """Digests of the three runs."""
    return alone(*seeds)


@pytest.fixture
def alone(synthetic, tmp_path):
    """Return the digests of runs, each made by a job of its own."""

    def made(*specs, **options):
        found, path = {}, tmp_path / "alone.parquet"
        for spec in specs:
            Job([spec], out=path, root=tmp_path, overwrite=True, **options).run()
            found |= digests(path)
        path.unlink()
        return found

    return made


def test_a_cell_is_what_its_runs_are_alone(job, seeds, whole, tmp_path):
    new = job(seeds, checkpoint=tmp_path / "c").run()
    assert [result.spec for result in new] == seeds
    assert digests(tmp_path / "cell.parquet") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["cell.parquet"]
    assert job(seeds).run() == []  # nothing is left to do


def test_an_interrupted_cell_goes_on_with_the_run_that_was_stopped(job, seeds, whole, tmp_path, monkeypatch):
    """The second run is stopped in its middle: the first is not run again, the second goes on from its checkpoint."""
    train, begun = execute.train, []

    def stopped(spec, *arguments, **options):
        begun.append(spec.run)
        return train(spec, *arguments, **{**options, "stopping": lambda: spec.seed == 1})

    monkeypatch.setattr("adasde.training.loop.CHUNK", 320)
    monkeypatch.setattr(execute, "train", stopped)
    with pytest.raises(Stopped, match="asked to stop at step 10"):
        job(seeds, checkpoint=tmp_path / "c").run()
    assert begun == [spec.run for spec in seeds[:2]]
    assert {path.name for path in tmp_path.iterdir()} == {"c", "c.finished"}
    monkeypatch.setattr(execute, "train", train)
    new = job(seeds, checkpoint=tmp_path / "c").run()
    assert [result.spec for result in new] == seeds[1:]
    assert digests(tmp_path / "cell.parquet") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["cell.parquet"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_at_the_end_loses_no_run(number, job, seeds, steps, tmp_path, monkeypatch):
    """What cannot write its table goes on from where it was."""
    write = execute.write_results

    def full(path, results):
        if path.name == "cell.parquet":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, results)

    monkeypatch.setattr(execute, "write_results", full)
    monkeypatch.setattr("adasde.training.loop.CHUNK", 320)
    with pytest.raises(OSError, match="No space"):
        job(seeds[:number], checkpoint=tmp_path / "c", every=0).run()
    assert sum(steps) == 40 * number
    monkeypatch.setattr(execute, "write_results", write)
    job(seeds[:number], checkpoint=tmp_path / "c").run()
    assert sum(steps) == 40 * number
    assert [path.name for path in tmp_path.iterdir()] == ["cell.parquet"]
    (tmp_path / "c").write_text("mine")
    job(seeds[:number], checkpoint=tmp_path / "c").run()  # nothing is left to do
    assert (tmp_path / "c").read_text() == "mine"


def test_another_seed_runs_only_itself(job, seeds, whole, tmp_path):
    job(seeds[:2]).run()
    new = job(seeds, overwrite=True).run()
    assert [result.spec for result in new] == seeds[2:]
    assert digests(tmp_path / "cell.parquet") == whole
    with pytest.raises(InputError, match="holds the run of another spec; delete it, or name another file"):
        job(seeds[:2]).run()
    assert job(seeds[:2], overwrite=True).run() == []
    assert list(digests(tmp_path / "cell.parquet")) == [spec.run for spec in seeds[:2]]


def test_weights_that_nobody_wants_any_more_are_dropped(job, seeds, whole, tmp_path):
    """An interrupted job had to keep weights; the job that goes on need not."""
    (tmp_path / "c.finished").mkdir()
    (tmp_path / "c.finished" / f"{seeds[0].run}.safetensors").write_bytes(b"weights")
    job(seeds, checkpoint=tmp_path / "c").run()
    assert digests(tmp_path / "cell.parquet") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["cell.parquet"]


@pytest.mark.slow
def test_weights_of_a_cell_are_where_its_children_look(config, data_root, tmp_path, monkeypatch, caplog):
    planned = plan(config)
    parents = planned.jobs["roberta-adam.sqrt.k1"].specs
    children = planned.jobs["finetune-roberta.k1"].specs
    place = {"root": data_root, "checkpoint": tmp_path / "c"}
    two = [*parents, changed(parents[0], run=f"{parents[0].cell}.s1", seed=1)]
    Job(two, out=tmp_path / "parents.parquet", weights=tmp_path / "weights", **place).run()
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {f"{spec.run}.safetensors" for spec in two}
    with pytest.raises(InputError, match="pretrained: the run starts from the weights of .*; name their folder by"):
        Job(children, out=tmp_path / "children.parquet", **place).run()
    Job(children, out=tmp_path / "children.parquet", pretrained=[tmp_path / "weights"], **place).run()
    assert not caplog.records
    monkeypatch.setattr(execute, "source_digest", lambda: "0" * 16)
    Job(children, out=tmp_path / "again.parquet", pretrained=[tmp_path / "weights"], **place).run()
    assert {f"{parents[0].run}.safetensors: made by different code" in line for line in caplog.messages} == {True}
    monkeypatch.undo()
    (tmp_path / "weights" / f"{two[1].run}.safetensors").unlink()  # a run without its weights is not finished
    new = Job(two, out=tmp_path / "parents.parquet", weights=tmp_path / "weights", **place).run()
    assert [result.spec for result in new] == two[1:]
    with pytest.raises(InputError, match="starts from new weights; leave it out"):
        Job(parents, out=tmp_path / "x.parquet", pretrained=[tmp_path / "weights"], **place).run()


# States, and the runs that branch

PARENT = "fashion-cnn-adam.sqrt.k1.s0"


@pytest.fixture
def planned(config):
    """A parent of 40 steps, from whose state after 12 steps others branch."""
    parent, branch = config["experiments"]["fashion-cnn-adam"], config["branches"]["branch-cnn-adam"]
    parent["epochs"]["value"], parent["evaluate"] = 0.0214, {"count": 2, "every": 640, "noise": 2}
    parent["rules"] = {"sqrt": {"value": [1], "source": "ours"}}
    branch["at"]["value"], branch["epochs"]["value"] = 0.0065, 0.0086
    branch["evaluate"] = {"count": 2, "every": 256, "noise": 2}
    config["figures"] = ["noise"]
    found = plan(config)
    assert list(found.states) == [f"{PARENT}.384"]
    return found.runs


@pytest.fixture
def saved(planned, synthetic, tmp_path):
    """Save the parent's state after so many samples, and return the file."""

    def make(samples=384, **options):
        save_state(planned[PARENT], samples, tmp_path / f"{samples}.state", tmp_path, **options)
        return tmp_path / f"{samples}.state"

    return make


@pytest.fixture
def steps(monkeypatch):
    """Numbers of steps that runs have taken at once."""
    taken, advance = [], Run.advance
    monkeypatch.setattr(Run, "advance", lambda run, count: (taken.append(count), advance(run, count)))
    return taken


def test_a_run_goes_on_from_its_last_state(planned, saved, job, alone, steps, tmp_path):
    """It takes the steps that are left, and ends as without; so does a state that is made from an earlier one."""
    seeds = [planned[PARENT], planned["fashion-cnn-adam.sqrt.k1.s1"]]
    whole = alone(*seeds)
    late = saved(640)
    late.rename(tmp_path / "at once")
    early = saved()
    steps.clear()
    late = saved(640, before=early)
    assert sum(steps) == 20 - 12
    assert same_state(late, tmp_path / "at once")
    steps.clear()
    job(seeds, states=[early, late], checkpoint=tmp_path / "c").run()
    assert sum(steps) == 40 - 20 + 40
    assert digests(tmp_path / "cell.parquet") == whole
    assert {path.name for path in tmp_path.iterdir()} == {"cell.parquet", "at once", "384.state", "640.state"}


def test_a_state_that_was_interrupted_goes_on_from_its_checkpoint(saved, steps, tmp_path, monkeypatch):
    saved().rename(tmp_path / "whole")
    steps.clear()
    train = execute.train
    monkeypatch.setattr("adasde.training.loop.CHUNK", 128)
    monkeypatch.setattr(execute, "train", lambda *a, **options: train(*a, **options | {"stopping": lambda: True}))
    with pytest.raises(Stopped, match="asked to stop at step 4"):
        saved(checkpoint=tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"c", "whole"}
    monkeypatch.setattr(execute, "train", train)
    assert same_state(saved(checkpoint=tmp_path / "c"), tmp_path / "whole")
    assert steps == [4, 4, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"384.state", "whole"}


def test_start_metrics_are_shared_and_noise_is_not_mixed_in(planned, saved, job, alone, synthetic, tmp_path):
    """The start of branches without noise is measured once, that with noise by each. The state holds its run's."""
    state = saved()
    parents = [planned[PARENT], planned["fashion-cnn-adam.sqrt.k1.s1"]]
    branches = [
        planned[f"branch-cnn-adam.{name}"]
        for name in ("sqrt.k1.s0", "sqrt.k1.s1", "sqrt.k4.s0", "none.k4.s0", "sqrt.k4.keep.s0", "svag.l2.s0")
    ]
    whole = alone(*parents) | alone(*branches, states=[state])
    measured, measure = [], synthetic.measure

    def counted(*given, **named):
        metrics = measure(*given, **named)
        measured.append("noise_trace" in metrics)
        return metrics

    synthetic.measure = counted
    results = job([*parents, *branches], states=[state]).run()
    assert digests(tmp_path / "cell.parquet") == whole
    # Beside the start, every run is evaluated twice; the noise of the four baselines is measured at the end.
    assert len(measured) == 4 + 2 * 8
    assert sum(measured) == 3 + 4
    for result in results:
        noisy = {step for _, step, _, metric, _ in result.rows if metric == "noise_trace"}
        assert noisy == ({0, result.spec.steps} if result.spec.is_baseline else set())
    starts = {
        result.spec.run: {row[3:] for row in result.rows if row[1] == 0 and row[3] in ("train_loss", "squared_norm")}
        for result in results
    }
    assert len({frozenset(start) for start in starts.values()}) == 2
    assert starts[PARENT] != starts["branch-cnn-adam.sqrt.k1.s0"]


@pytest.mark.parametrize("sampling", ["replacement", "epoch"])
def test_an_interrupted_branch_goes_on_with_the_examples_that_are_left(
    sampling, planned, saved, job, tmp_path, monkeypatch
):
    """Also where the checkpoint is damaged: then it starts from the parent's state again."""
    parent = changed(planned[PARENT], sampling=sampling)
    save_state(parent, 384, tmp_path / "state", tmp_path)
    spec = planned["branch-cnn-adam.sqrt.k1.s0"]
    spec = changed(
        spec,
        sampling=sampling,
        samples=192,
        evaluate=[96, 192],
        parent={**spec.document["parent"], "spec_hash": parent.hash},
    )
    options = {"states": [tmp_path / "state"], "checkpoint": tmp_path / "c"}
    job([spec], **options).run()
    whole = digests(tmp_path / "cell.parquet")
    train = execute.train
    for damaged in (False, True):
        (tmp_path / "cell.parquet").unlink()
        monkeypatch.setattr("adasde.training.loop.CHUNK", 64)
        monkeypatch.setattr(execute, "train", lambda *a, **b: train(*a, **{**b, "stopping": lambda: True}))
        with pytest.raises(Stopped, match="asked to stop at step 4"):
            job([spec], **options).run()
        monkeypatch.setattr(execute, "train", train)
        if damaged:
            content = (tmp_path / "c").read_bytes()
            (tmp_path / "c").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        job([spec], **options).run()
        assert digests(tmp_path / "cell.parquet") == whole


def test_states_that_are_missing_or_of_no_use_are_refused(planned, saved, job, tmp_path):
    branch = planned["branch-cnn-adam.sqrt.k4.s1"]
    wanted = f"states: {branch.run} branches from {PARENT} after 384 samples; name the file of that state by --states"
    with pytest.raises(InputError, match=wanted):
        job([branch]).run()
    with pytest.raises(InputError, match=wanted):
        job([branch], states=[saved(640)]).run()
    with pytest.raises(InputError, match="nowhere: no such file"):
        job([branch], states=[tmp_path / "nowhere"]).run()
    with pytest.raises(InputError, match=f"640.state: {PARENT} after 640 samples, and no run here .*; leave it out"):
        job([branch], states=[saved(), saved(640)]).run()
    with pytest.raises(InputError, match=f"384.state: {PARENT} after 384 samples, and no run here .*; leave it out"):
        job([changed(planned[PARENT], seed=5)], states=[saved()]).run()
    assert not (tmp_path / "cell.parquet").exists()


def test_a_state_of_other_code_is_named_once(planned, saved, job, tmp_path, monkeypatch, caplog):
    """Most changes of code change no result, so the branches run; but it is said."""
    state, branches = saved(), [planned[f"branch-cnn-adam.sqrt.k4.s{seed}"] for seed in (0, 1)]
    monkeypatch.setattr(execute, "source_digest", lambda: "0" * 16)
    job(branches, states=[state]).run()
    assert [record.getMessage() for record in caplog.records] == [
        f"{state}: made by different code; `adasde check CONFIG --delete` deletes such files"
    ]


@pytest.mark.parametrize("samples", [0, 400, 1312])
def test_a_state_that_a_run_cannot_have_is_refused(samples, saved, tmp_path):
    """At the start, between two steps, and after the end at 1280."""
    with pytest.raises(InputError, match=f"samples = {samples}: .* is after whole steps of 32, up to its end at 1280"):
        saved(samples)
    assert list(tmp_path.iterdir()) == []
    assert read_checkpoint(saved(1280))["step"] == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "384.state"}, "checkpoint = .*: is also the output; name another file"),
        ({"every": -1}, "checkpoint-every = -1: must be a number of seconds >= 0"),
        ({"every": math.nan}, "checkpoint-every = nan: must be a number of seconds >= 0"),
    ],
)
def test_a_state_is_saved_as_runs_are(options, message, planned, saved, job, tmp_path):
    options = {name: tmp_path / value if name == "checkpoint" else value for name, value in options.items()}
    with pytest.raises(InputError, match=message):
        saved(**options)
    if "checkpoint" in options:
        options["checkpoint"] = tmp_path / "cell.parquet"
    with pytest.raises(InputError, match=message):
        job([planned[PARENT]], **options).run()
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_has_no_weights(config, job, tmp_path):
    simulation = plan(config).runs["weak-order.quadratic.rmsprop"]
    with pytest.raises(InputError, match="weights = .*: a simulation has none; leave it out"):
        job([simulation], weights=tmp_path / "weights").run()


def test_a_state_is_made_from_an_earlier_one_of_the_same_run(planned, saved, tmp_path):
    early = saved()
    with pytest.raises(InputError, match="checkpoint of another spec .seed = 0 there and 5 here."):
        save_state(changed(planned[PARENT], seed=5), 640, tmp_path / "x", tmp_path, before=early)
    late = saved(640)
    with pytest.raises(InputError, match="640.state: a state after 640 samples; one before 384 is wanted"):
        saved(before=late)
    with pytest.raises(InputError, match="nowhere: no such file"):
        saved(before=tmp_path / "nowhere")
