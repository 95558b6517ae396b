"""What can go wrong will: configs that nobody would write, damaged files, full disks; kills are in test_workflow.py."""

import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adasde.analysis import tables
from adasde.analysis.claims.report import write_claims
from adasde.common import InputError
from adasde.experiments.artifacts import provenance, rows_digest
from adasde.experiments.cost import cost_of
from adasde.experiments.jobs import Plan
from adasde.experiments.plan import plan
from adasde.scaling.rules import ScalingWarning
from adasde.training.checkpoint import read_checkpoint, read_weights, write_checkpoint, write_weights
from adasde.training.loop import train
from adasde.workloads.data.registry import load_arrays, prepare
from adasde.workloads.vision import BUILDERS, ImageWorkload
from conftest import ROOT, changed, load_run, same_state, save_run

pytestmark = pytest.mark.slow

SMOKE = yaml.safe_load((ROOT / "workflow/config/smoke.yaml").read_text())


def places(node, path=()):
    """The path of every value in a config, of mappings and lists as well."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


PLACES = sorted(places(SMOKE), key=str)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 16, 64, -1, 0.5, 0.999, 1.0, 1e-300, 1e300, 10**30, float("nan"), float("inf")]),
    st.integers(-3, 10**6),
    st.floats(-2, 2),
)
WORDS = st.sampled_from(
    ["", "adam", "rmsprop", "sqrt", "svag", "cuda", "gpt2-adam", "fashion-cnn", "fashion-cnn-adam", "roberta-adam",
     "..", "a/b", "é", "x" * 500, "1e-3", "paper", "ours", "bf16"]
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS,
    WORDS,
    st.none(),
    st.booleans(),
    st.lists(NUMBERS, max_size=3),
    NUMBERS.map(lambda value: {"value": value, "source": "ours"}),
    WORDS.map(lambda value: {"value": value, "source": "ours"}),
    st.lists(NUMBERS, min_size=1, max_size=3).map(lambda value: {"value": value, "source": "ours"}),
    st.sampled_from(PLACES).map(lambda path: value_at(SMOKE, path)),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "set", "set", "delete", "add"]), WORDS, VALUES),
    min_size=1,
    max_size=3,
)


def value_at(node, path):
    for key in path:
        node = node[key]
    return node


def mutated(changes):
    """The smoke config with values replaced, deleted or added where their places are still there."""
    config = copy.deepcopy(SMOKE)
    for path, how, word, value in changes:
        try:
            parent = value_at(config, path[:-1])
            if how == "delete":
                del parent[path[-1]]
            elif how == "add" and isinstance(parent, dict):
                parent[word] = copy.deepcopy(value)
            else:
                parent[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):  # an earlier change has taken the place away
            continue
    return config


def test_a_random_config_is_planned_or_refused_in_one_line(broken):
    found = Counter()

    @settings(max_examples=500, deadline=5000, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(CHANGES)
    @example([(("experiments", "fashion-cnn-adam", "optimizer", "beta1", "source"), "set", "", SMOKE["experiments"])])
    def configs(changes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScalingWarning)
            try:
                planned = plan(mutated(changes))
                for spec in planned.runs.values():
                    cost_of(spec)
            except InputError as error:
                assert "\n" not in str(error)
                assert 0 < len(str(error)) < 1000
                found["refused in one line"] += 1
            else:
                assert isinstance(planned, Plan)
                found["planned"] += 1

    configs()
    broken("random input", "random config", sum(found.values()), ", ".join(f"{n} {what}" for what, n in found.items()))


# Damaged files


@pytest.fixture
def task(tensors):
    """One network is enough here."""
    return ImageWorkload(tensors, BUILDERS["cnn"], 0.5, 0.3)


def damages(content, count, seed=0):
    """Yield copies of ``content`` with a bit flipped, or cut."""
    draw = random.Random(seed)
    for number in range(count):
        place = draw.randrange(len(content))
        if number % 4 == 3:
            yield content[:place]
        else:
            yield content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def noticed(path, read, same, count):
    """Damage a file again and again: it is refused by name, or holds what it held; return the number of refusals."""
    content, refused = path.read_bytes(), 0
    for damaged in damages(content, count):
        path.write_bytes(damaged)
        try:
            found = read()
        except InputError as error:
            assert path.name in str(error) or path.parent.name in str(error)
            assert "\n" not in str(error)
            refused += 1
        else:
            assert found is None or same(found)  # None: it will be made anew
            refused += found is None
    path.write_bytes(content)
    return refused


def test_a_damaged_run_is_noticed(small_spec, task, tmp_path, broken):
    rows, facts = train(small_spec, task)
    path = tmp_path / "run.parquet"
    save_run(path, rows, small_spec, **facts)
    digest = rows_digest(rows)
    refused = noticed(path, lambda: load_run(path), lambda found: rows_digest(found.rows) == digest, 100)
    assert refused > 50  # some bytes of a parquet file carry nothing
    broken("damage", "bit flipped or end cut: a run's table", 100, f"{refused} refused by name, others harmless")


def test_a_damaged_table_is_noticed(small_spec, task, tmp_path, broken):
    rows, facts = train(small_spec, task)
    save_run(tmp_path / "run.parquet", rows, small_spec, **facts, **provenance())
    tables.write(tmp_path, *tables.collect([tmp_path / "run.parquet"]))
    whole, path = tables.read(tmp_path), tmp_path / "trajectories.parquet"
    refused = noticed(path, lambda: tables.read(tmp_path), whole.equals, 100)
    assert refused > 40
    broken(
        "damage",
        "bit flipped or end cut: the table of a scale",
        100,
        f"{refused} refused by name, others harmless",
    )


def test_a_damaged_checkpoint_is_noticed(small_spec, task, tmp_path, broken):
    path = tmp_path / "checkpoint"
    train(small_spec, task, path, every=0)
    refused = noticed(path, lambda: read_checkpoint(path), lambda _: False, 100)
    assert refused == 100
    broken("damage", "bit flipped or end cut: a checkpoint", 100, "100 begun anew, or refused by name")


def test_damaged_weights_are_noticed(small_spec, task, tmp_path, broken):
    path = tmp_path / "weights.safetensors"
    train(small_spec, task, weights=path)
    wanted = small_spec.hash
    whole = read_weights(path, wanted)

    def same(found):
        return found.keys() == whole.keys() and all(found[name].equal(whole[name]) for name in whole)

    refused = noticed(path, lambda: read_weights(path, wanted), same, 100)
    assert refused == 100
    broken("damage", "bit flipped or end cut: weights of a pre-trained model", 100, "100 refused by name")


def test_damaged_data_are_noticed_and_made_again(data_root, tmp_path, broken):
    folder = tmp_path / "fashion-mnist"
    shutil.copytree(data_root / "fashion-mnist", folder)
    whole, path = load_arrays("fashion-mnist", tmp_path)["test-labels"].clone(), folder / "test-labels.npy"
    content = path.read_bytes()
    refused = noticed(path, lambda: load_arrays("fashion-mnist", tmp_path), lambda _: False, 30)
    assert refused == 30
    path.write_bytes(content[:-1])
    prepare("fashion-mnist", tmp_path)
    assert load_arrays("fashion-mnist", tmp_path)["test-labels"].equal(whole)
    source = folder / "sources/t10k-labels-idx1-ubyte.gz"
    source.write_bytes(source.read_bytes()[:-1])
    path.unlink()
    prepare("fashion-mnist", tmp_path)  # fetches that again
    assert load_arrays("fashion-mnist", tmp_path)["test-labels"].equal(whole)
    broken("damage", "bit flipped or end cut: prepared data", 30, "30 refused by name, and made again when asked")


def test_a_killed_state_goes_on_from_its_checkpoint(spec, data_root, tmp_path, broken):
    """Three times; the state is that of an undisturbed job."""
    spec = changed(spec, samples=61_440, evaluate=[6144, 61_440], horizon=9.2e-4)
    command = [sys.executable, "-m", "adasde", "state", "--spec", spec.canonical, "--data", data_root]

    def start(out):
        options = ["--samples", 49_152, "--out", out, "--checkpoint", f"{out}.checkpoint", "--checkpoint-every", 0]
        return subprocess.Popen(list(map(str, [*command, *options])), stderr=subprocess.PIPE, text=True)

    def finish(process):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return errors

    finish(start(tmp_path / "whole"))
    saved, draw = tmp_path / "killed.checkpoint", random.Random(0)
    for _ in range(3):
        process, before = start(tmp_path / "killed"), saved.exists() and saved.stat().st_mtime_ns
        while process.poll() is None and (saved.exists() and saved.stat().st_mtime_ns) == before:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.1)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
    assert "resumed at step" in finish(start(tmp_path / "killed"))
    assert not saved.exists()
    assert same_state(tmp_path / "killed", tmp_path / "whole")
    assert read_checkpoint(tmp_path / "whole")["step"] == 1536
    broken("kill", "SIGKILL to a job that makes a state", 3, "the same state, bit for bit")


# Code that changes while a run is stopped

CODE = {
    "its loss": ("workloads/vision.py", "return F.cross_entropy(", "return 2 * F.cross_entropy("),
    "its optimizer": (
        "scaling/optimizers/fused.py",
        'lr=self.param_groups[0]["lr"]',
        'lr=2 * self.param_groups[0]["lr"]',
    ),
    "its data": ("training/sampling.py", "torch.randint(size, ", "torch.randint(size // 2, "),
    "a comment": ("training/sampling.py", "# pragma", ""),
}


@pytest.mark.parametrize("what", CODE)
def test_c8_code_that_changes_between_interrupt_and_resume(what, spec, data_root, tmp_path, broken):
    """A run begins anew with the new code and says so; where only a comment has changed, it goes on."""
    place, old, new = CODE[what]
    spec = changed(spec, samples=61_440, evaluate=[6144, 61_440], horizon=9.2e-4)
    shutil.copytree(ROOT / "src/adasde", tmp_path / "adasde", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "adasde", "run", "--spec", spec.canonical, "--data", str(data_root)]
    env, saved = os.environ | {"PYTHONPATH": str(tmp_path)}, tmp_path / "checkpoint"

    def start(name, *options):
        command_ = [*command, "--out", str(tmp_path / name), *map(str, options)]
        return subprocess.Popen(command_, env=env, stderr=subprocess.PIPE, text=True)

    process = start("resumed.parquet", "--checkpoint", saved, "--checkpoint-every", 0)
    while not saved.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    module = tmp_path / "adasde" / place
    text = module.read_text()
    if what == "a comment":
        module.write_text(f"{text}\n{old}\n")
    else:
        assert old in text
        module.write_text(text.replace(old, new))
    process = start("resumed.parquet", "--checkpoint", saved)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    anew = f"adasde: {saved}: made by different code, starting from the beginning\n"
    assert (anew in errors, "resumed at step" in errors) == ((False, True) if what == "a comment" else (True, False))
    alone = start("alone.parquet")
    _, errors = alone.communicate(timeout=120)
    assert alone.returncode == 0, errors
    resumed, whole = (load_run(tmp_path / f"{name}.parquet") for name in ("resumed", "alone"))
    assert rows_digest(resumed.rows) == rows_digest(whole.rows)
    outcome = (
        "goes on, as if nothing had been" if what == "a comment" else "begins anew, says so, and is the new code's"
    )
    broken("code", f"{what} changes while a run is stopped", 1, outcome)


# No room, and no right, to write


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system in memory, of so many kilobytes, and return its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes):
        if os.getuid() != 0 or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True
        ).returncode:  # fmt: skip
            pytest.skip("file systems cannot be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


def fill(folder, spare):
    """Fill a file system but for about ``spare`` bytes."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "filler").write_bytes(bytes(max(0, free - spare)))


@pytest.mark.parametrize("spare", [0, 4096, 8192])
def test_a_full_disk_while_a_table_is_written(mounted, small_spec, task, spare, broken):
    folder = mounted(64)
    draw = random.Random(0)
    rows = [("run", n, draw.random(), "train_loss", draw.random()) for n in range(2000)]
    table = pd.DataFrame({"id": range(1000), "text": "x" * 50})
    writers = {
        "run.parquet": lambda path: save_run(path, rows, small_spec),
        "claims.csv": lambda path: write_claims(table, path),
        "weights.safetensors": lambda path: write_weights(path, task.model().state_dict(), small_spec.hash),
        "checkpoint": lambda path: write_checkpoint(path, "{}", {"x": "y" * 50_000}),
    }
    fill(folder, spare)
    for name, write in writers.items():
        with pytest.raises(OSError, match="(?i)space") as caught:
            write(folder / name)
        assert caught.value.filename == str(folder / name)
        assert [path.name for path in folder.iterdir()] == ["filler"]
    broken("disk", f"full but for {spare} bytes: table, CSV, weights, checkpoint", 4, "named, nothing half-written")


def test_a_full_disk_while_a_run_saves_itself(mounted, adasde_process, small_spec, spec, data_root, tmp_path, broken):
    """A second checkpoint, which has to be whole before the first goes, does not fit beside it."""
    spec = changed(spec, samples=6400, evaluate=[3200, 6400])
    options = ("run", "--spec", spec.canonical, "--data", data_root, "--checkpoint-every", 0)
    folder = mounted(8192)
    first = [*options, "--checkpoint", folder / "checkpoint", "--out", tmp_path / "run.parquet"]
    process = subprocess.Popen([sys.executable, "-m", "adasde", *map(str, first)], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "checkpoint").exists():
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for half_written in folder.glob(".*"):
        half_written.unlink()
    room = (folder / "checkpoint").stat().st_size * 3 // 2048  # kilobytes, for one and a half
    subprocess.run(["mount", "-o", f"remount,size={room}k", folder], check=True)
    done = adasde_process(*first)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"adasde: error: {folder / 'checkpoint'}: No space left on device"
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]
    shutil.copy(folder / "checkpoint", tmp_path / "checkpoint")
    assert read_checkpoint(tmp_path / "checkpoint")["step"] > 0
    done = adasde_process(*options, "--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "run.parquet")
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stderr
    alone = adasde_process(*options, "--out", tmp_path / "alone.parquet")
    assert alone.returncode == 0
    found, wanted = (load_run(tmp_path / f"{name}.parquet").rows for name in ("run", "alone"))
    assert rows_digest(found) == rows_digest(wanted)
    broken("disk", "full while a run saves itself", 1, "named; goes on from the last checkpoint, bit for bit")


def test_a_folder_that_cannot_be_written(mounted, adasde_process, spec, tmp_path, broken):
    folder = mounted(64)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    tries = {
        "run": ("--spec", spec.canonical, "--out", folder / "run.parquet"),
        "collect": (ROOT / "README.md", "--out", folder),
        "data": ("fashion-mnist", "--data", folder),
    }
    for command, options in tries.items():
        done = adasde_process(command, *options)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert str(folder) in done.stderr or command == "collect"
    broken("disk", "folder of results or data read-only", len(tries), "named in one line")
