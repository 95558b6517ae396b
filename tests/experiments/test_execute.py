"""execute.py: the runs of a cell, one after another; what is finished is not run again."""

import pytest

from adasde.common import InputError, Stopped
from adasde.experiments import execute
from adasde.experiments.artifacts import read_results
from adasde.experiments.execute import Job
from adasde.experiments.plan import plan
from conftest import changed


@pytest.fixture
def seeds(spec):
    """Three runs of 40 steps that differ in their seed."""
    short = changed(spec, samples=1280, evaluate=[640, 1280])
    return [changed(short, run=f"{short.cell}.s{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def job(data_root, tmp_path):
    """Make a job in a folder of its own."""
    return lambda specs, **options: Job(specs, out=tmp_path / "cell.parquet", root=data_root, **options)


def digests(path):
    return {result.spec.run: result.facts["rows_sha256"] for result in read_results(path)}


@pytest.fixture
def whole(seeds, data_root, tmp_path):
    """Digests of the three runs, each made by a job of its own."""
    found = {}
    for spec in seeds:
        Job([spec], out=tmp_path / "alone.parquet", root=data_root, overwrite=True).run()
        found |= digests(tmp_path / "alone.parquet")
    (tmp_path / "alone.parquet").unlink()
    return found


def test_a_cell_is_what_its_runs_are_alone(job, seeds, whole, tmp_path):
    new = job(seeds, checkpoint=tmp_path / "c").run()
    assert [result.spec for result in new] == seeds
    assert digests(tmp_path / "cell.parquet") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["cell.parquet"]
    assert job(seeds).run() == []  # nothing is left to do


def test_an_interrupted_cell_goes_on_with_the_run_that_was_stopped(job, seeds, whole, tmp_path, monkeypatch):
    """The second run is stopped in its middle: the first is not run again, the second goes on from its checkpoint."""
    train, begun = execute.train, []

    def stopped(spec, workload, checkpoint, every, report, weights, stop, start):
        begun.append(spec.run)
        return train(spec, workload, checkpoint, every, report, weights, lambda: spec.seed == 1, start)

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
def test_weights_of_a_cell_are_where_its_children_look(config, data_root, tmp_path):
    planned = plan(config)
    parents = planned.cells["roberta-adam.sqrt.k1"].specs
    children = planned.cells["finetune-roberta.k1"].specs
    place = {"root": data_root, "checkpoint": tmp_path / "c"}
    two = [*parents, changed(parents[0], run=f"{parents[0].cell}.s1", seed=1)]
    Job(two, out=tmp_path / "parents.parquet", weights=tmp_path / "weights", **place).run()
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {f"{spec.run}.safetensors" for spec in two}
    with pytest.raises(InputError, match="pretrained: the run starts from the weights of .*; name their folder by"):
        Job(children, out=tmp_path / "children.parquet", **place).run()
    Job(children, out=tmp_path / "children.parquet", pretrained=[tmp_path / "weights"], **place).run()
    (tmp_path / "weights" / f"{two[1].run}.safetensors").unlink()  # a run without its weights is not finished
    new = Job(two, out=tmp_path / "parents.parquet", weights=tmp_path / "weights", **place).run()
    assert [result.spec for result in new] == two[1:]
    with pytest.raises(InputError, match="starts from new weights; leave it out"):
        Job(parents, out=tmp_path / "x.parquet", pretrained=[tmp_path / "weights"], **place).run()
