"""Branches: runs that start from the state of another in mid-training."""

import shutil

import pytest
import torch

from adasde.common import InputError
from adasde.experiments.artifacts import rows_digest
from adasde.experiments.specs import spec_of
from adasde.training.branching import branch_off, read_state
from adasde.training.loop import train
from adasde.training.run import Run
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import changed

SEEN = 640  # samples of the parent at the branch point: 20 steps
RMSPROP = {"name": "rmsprop", "lr": 1e-3, "beta": 0.98, "eps": 1e-8, "weight_decay": 1e-4}
ADAM = {
    "name": "adam", "variant": "paper", "lr": 1e-3, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.0,
    "decoupled": False,
}  # fmt: skip
OPTIMIZERS = {
    "adam": ADAM,
    "adamw": ADAM | {"weight_decay": 0.1, "decoupled": True},
    **{variant: RMSPROP | {"variant": variant} for variant in ("paper", "authors", "torch")},
}


@pytest.fixture
def task(tensors):
    return ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)


@pytest.fixture(params=OPTIMIZERS)
def parent(request, small_spec):
    return changed(small_spec, schedule={}, optimizer=OPTIMIZERS[request.param], samples=960, evaluate=[320, 960])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of states by the hash of their run, each made once."""
    return tmp_path_factory.mktemp("states"), {}


@pytest.fixture
def state(parent, task, files, tmp_path):
    folder, made = files
    if parent.hash not in made:
        made[parent.hash] = folder / parent.hash
        train(parent, task, until=(SEEN, made[parent.hash]))
    shutil.copy(made[parent.hash], tmp_path / "state")
    return read_state(tmp_path / "state")


def branch_of(parent, size=32, kappa=1, rule="sqrt", ell=1, **options):
    """Spec of a branch with ``size`` examples per step of its baseline."""
    base = parent.optimizer.hyperparameters.scaled(size / parent.batch_size)
    own = base.scaled(kappa, rule) if ell == 1 else base.svag(ell)
    optimizer = parent.document["optimizer"] | {
        name: getattr(own, name) for name in vars(own) if name in parent.document["optimizer"]
    }
    kept = {key: value for key, value in parent.document.items() if key not in ("schedule", "noise")}
    return spec_of({
        **kept, "run": "branch", "rule": rule if ell == 1 else "svag", "kappa": kappa, "ell": ell, "schedule": {},
        "optimizer": optimizer, "batch_size": size * kappa, "samples": 640, "evaluate": [640],
        "parent": {"run": parent.run, "spec_hash": parent.hash, "samples": SEEN}, **options,
    })  # fmt: skip


def begun(spec, parent, state, task):
    run = Run(spec, task)
    branch_off(run, parent, state)
    return run


def moments(run):
    """First and second moments and counts of steps, by name, all parameters in one."""
    optimizer = run.optimizer.as_torch() if hasattr(run.optimizer, "as_torch") else run.optimizer
    found = {}
    for p in run.trained:
        for name, value in optimizer.state[p].items():
            found.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float64).flatten())
    return {name: torch.cat(values) for name, values in found.items()}


def second(run):
    """The second moment, its bias corrected where the optimizer does that."""
    found = moments(run)
    if "exp_avg_sq" not in found:
        return next(found[name] for name in ("square_avg", "v") if name in found)
    h = run.hyperparameters
    beta2, steps = getattr(h, "beta2", getattr(h, "beta", None)), found["step"][0]
    return found["exp_avg_sq"] / (1 - beta2**steps) if steps else found["exp_avg_sq"]


def test_at_the_parent_s_batch_a_branch_is_where_its_parent_was(parent, state, task, tmp_path):
    """And from there on it sees other examples than the parent."""
    resumed, run = Run(parent, task), begun(branch_of(parent), parent, state, task)
    resumed.restore(tmp_path / "state")
    assert all(torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), state["model"].values(), strict=True))
    theirs, own = moments(resumed), moments(run)
    assert theirs.keys() == own.keys()
    for name in own:
        torch.testing.assert_close(own[name], theirs[name], rtol=1e-6, atol=0)
    assert not torch.equal(run.sampler.draw(100)[0], resumed.sampler.draw(100)[0])


@pytest.mark.parametrize("parent", ["paper", "authors", "torch"], indirect=True)
@pytest.mark.parametrize(("size", "kappa", "ell"), [(8, 1, 1), (16, 4, 1), (16, 1, 2)])
def test_rmsprop_s_second_moment_is_that_of_the_batch(parent, state, task, size, kappa, ell):
    """v has the noise of a minibatch: v / kappa after a change of batch, v ell^2 under SVAG."""
    whole = second(begun(branch_of(parent), parent, state, task))
    change = size * kappa / 32 / ell**2
    own = second(begun(branch_of(parent, size, kappa, ell=ell), parent, state, task))
    torch.testing.assert_close(own, whole / change, rtol=1e-5, atol=0)


def test_second_moments_that_are_kept_and_fresh(parent, state, task):
    base = moments(begun(branch_of(parent, 16), parent, state, task))
    kept = moments(begun(branch_of(parent, 16, 4, second_moment="keep"), parent, state, task))
    name = next(name for name in ("exp_avg_sq", "square_avg", "v") if name in base)
    torch.testing.assert_close(kept[name], base[name], rtol=1e-6, atol=0)
    fresh = moments(begun(branch_of(parent, 16, 4, second_moment="fresh"), parent, state, task))
    assert not any(values.any() for values in fresh.values())


def test_invariant_adam_takes_the_baseline_s_state(small_spec, task, tmp_path):
    parent = changed(small_spec, schedule={}, optimizer=ADAM)
    train(parent, task, until=(SEEN, tmp_path / "state"))
    state = read_state(tmp_path / "state")
    base = moments(begun(branch_of(parent, 16), parent, state, task))
    own = moments(begun(branch_of(parent, 16, 4, "invariant", micro_batch=16), parent, state, task))
    for name in ("exp_avg", "exp_avg_sq", "step"):
        torch.testing.assert_close(own[name], base[name])


def test_a_run_goes_on_from_its_states_as_if_nothing_had_been(parent, task, tmp_path):
    whole = rows_digest(train(parent, task)[0])
    train(parent, task, until=(SEEN - 64, tmp_path / "first"))
    train(parent, task, until=(SEEN, tmp_path / "then"), begin=lambda run: run.restore(tmp_path / "first"))
    assert rows_digest(train(parent, task, begin=lambda run: run.restore(tmp_path / "then"))[0]) == whole


def test_a_branch_without_replacement_sees_what_its_parent_has_not(small_spec, task, tmp_path):
    """The synthetic task has 600 examples. After 640 of them 560 of the second pass are left."""
    parent = changed(small_spec, schedule={}, sampling="epoch")
    train(parent, task, until=(SEEN, tmp_path / "state"))
    seen = torch.cat([Run(parent, task).sampler.draw(SEEN)[0]])[600:]
    runs = [begun(branch_of(parent, seed=seed), parent, read_state(tmp_path / "state"), task) for seed in (0, 1)]
    drawn = [run.sampler.draw(560)[0] for run in runs]
    for places in drawn:
        assert torch.equal(torch.cat([seen, places]).sort().values, torch.arange(600))
    assert not torch.equal(*drawn)


def test_every_batch_size_of_a_seed_sees_the_same_examples(parent, state, task):
    """Of branches and from scratch; other seeds and SVAG see others."""

    def order(spec, branches):
        run = begun(spec, parent, state, task) if branches else Run(spec, task)
        steps = [torch.cat([batch[0] for batch in batches]) for batches in run._gathered(spec.steps)]
        return torch.cat(steps)[:640]

    def scratch(kappa):
        return changed(parent, kappa=kappa, batch_size=32 * kappa, run=f"k{kappa}", samples=640, evaluate=[640])

    for branches, specs in (
        (True, [branch_of(parent, 16, kappa) for kappa in (1, 4)]),
        (True, [branch_of(parent, 16, 4, "none")]),
        (False, [scratch(1), scratch(2)]),
    ):
        first = order(specs[0] if not branches else branch_of(parent, 16), branches)
        assert all(torch.equal(order(spec, branches), first) for spec in specs)
        assert not torch.equal(order(changed(specs[0], seed=7), branches), first)
    assert not torch.equal(order(branch_of(parent, 16, ell=2), True), order(branch_of(parent, 16), True))


def test_what_is_no_branch_point_is_refused(parent, state, task):
    with pytest.raises(InputError, match="the state is another run's"):
        begun(branch_of(parent), changed(parent, seed=3), state, task)
    with pytest.raises(InputError, match="branches at 640 samples, and the state is of another time"):
        begun(branch_of(parent), parent, {**state, "step": 4}, task)
    with pytest.raises(InputError, match="has diverged; nothing can branch from it"):
        begun(branch_of(parent), parent, {**state, "diverged": True}, task)


def test_a_parent_that_diverges_leaves_no_state(small_spec, task, tmp_path):
    spec = changed(small_spec, schedule={}, optimizer=ADAM | {"lr": 1e30})
    with pytest.raises(InputError, match=r"diverged after \d+ samples; nothing can branch from it"):
        train(spec, task, until=(SEEN, tmp_path / "state"))
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_missing_states_are_refused(parent, state, tmp_path):
    path = tmp_path / "state"
    with pytest.raises(InputError, match="no such file"):
        read_state(tmp_path / "other")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="damaged checkpoint; delete it, and make it again"):
        read_state(path)
