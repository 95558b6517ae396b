"""`adasde branch`: from a checkpoint of ours, on examples that its run has not seen."""

import re

import pytest
import torch

from adasde.experiments.branches import _Unseen, branch_checkpoint
from adasde.training.checkpoint import read_checkpoint
from adasde.training.run import Run
from adasde.workloads.registry import load_workload
from conftest import changed

SEEN = 32 * 40  # examples of the run when it was interrupted


@pytest.fixture(scope="module")
def workload(data_root):
    return load_workload("fashion-cnn", data_root)


@pytest.fixture(params=["adam", "rmsprop"])
def checkpoint(request, small_spec, workload, tmp_path):
    """A checkpoint of a run on real data, after 40 steps."""
    optimizer = {"name": "rmsprop", "variant": "authors", "lr": 7e-4, "beta": 0.99, "eps": 1e-8, "weight_decay": 0.0}
    own = {"optimizer": optimizer} if request.param == "rmsprop" else {}
    spec = changed(small_spec, samples=SEEN * 2, evaluate=[SEEN, SEEN * 2], **own)
    with torch.random.fork_rng():
        run = Run(spec, workload)
        run.measure()
        run.advance(40)
        run.save(tmp_path / "checkpoint")
    return spec, tmp_path / "checkpoint"


def test_no_example_of_the_run_is_seen_again(small_spec, workload, checkpoint):
    spec, path = checkpoint
    unseen = set(_Unseen(workload, spec, SEEN, workload.size).places.tolist())
    with torch.random.fork_rng():
        run = Run(spec, workload)
        (indices, *_) = run.sampler.draw(SEEN)
        run.restore(path)
        (following, *_) = run.sampler.draw(32)
    assert unseen.isdisjoint(indices.tolist())
    assert len(unseen) == workload.size - len(indices.unique())
    assert not unseen.isdisjoint(following.tolist())


@pytest.mark.slow
def test_a_checkpoint_is_branched_and_left_alone(checkpoint, workload, data_root, adasde, tmp_path):
    spec, path = checkpoint
    before, state = path.read_bytes(), read_checkpoint(path)
    assert state["step"] == 40
    done = adasde(
        *("branch", path, "--kappas", 4, "--tolerance", 1, "--repeats", 2, "--data", data_root),
        *("--plot", tmp_path / "branch.png"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Yes, up to batch 128")
    assert path.read_bytes() == before
    assert (tmp_path / "branch.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--kappas", "4", "0.3"), "kappa = 0.3: batch size 32 would become 9.6"),
        (("--kappas", "1"), "kappas = .*: must hold one above 1"),
        (("--kappas", "nan"), "kappas = nan: must be a finite number > 0"),
        (("--kappas", "16"), "beta1"),
        (("--tolerance", "0"), "tolerance = 0: must be a finite number > 0"),
        (("--repeats", "1"), "repeats = 1: must be a whole number >= 2"),
        (("--betas", "odd"), "betas"),
    ],
)
def test_what_is_asked_is_checked_before_any_work(option, words, adasde, small_spec, task, tmp_path):
    """There are no data here, so none are read."""
    optimizer = {**small_spec.document["optimizer"], "beta1": 0.9}
    with torch.random.fork_rng():
        run = Run(changed(small_spec, optimizer=optimizer), task)
        run.save(tmp_path / "checkpoint")
    done = adasde("branch", tmp_path / "checkpoint", *option, "--data", tmp_path / "nowhere")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.search(words, done.stderr), done.stderr


def test_what_cannot_be_branched_is_refused_in_a_line(adasde, small_spec, workload, data_root, tmp_path):
    svag = changed(small_spec, rule="svag", ell=2)
    with torch.random.fork_rng():
        run = Run(svag, workload)
        run.save(tmp_path / "svag")
    (tmp_path / "other").write_text("something else")
    for name, words in (("svag", "branches start from a plain training run"), ("other", "holds something else")):
        done = adasde("branch", tmp_path / name, "--data", data_root)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_report_is_that_of_the_library(checkpoint, data_root):
    _, path = checkpoint
    report = branch_checkpoint(path, data_root, kappas=[64], tolerance=5.0, repeats=2, betas="half-life", examples=9000)
    assert list(report.forecasts) == [64]
    assert report.samples[-1] == 4 * 64 * 32
