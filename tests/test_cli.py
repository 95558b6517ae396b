"""The command line: what a user types and reads, bad input included."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from adasde.experiments.artifacts import Result, provenance, rows_digest, write_results
from adasde.experiments.plan import plan
from adasde.experiments.specs import RECIPE
from adasde.training import checkpoint as checkpoints
from adasde.training.source import source_digest
from conftest import ROOT, changed, load_run, save_run

SMOKE = ROOT / "workflow/config/smoke.yaml"
FIGURES = ", ".join(yaml.safe_load(SMOKE.read_text())["figures"])
SCALE = ["scale", "adam", "--lr", "1e-3", "--beta1", "0.9", "--beta2", "0.999", "--eps", "1e-8", "--batch-size", "256"]


def test_scale_prints_old_new_and_formula(adasde_process):
    begun = time.monotonic()
    done = adasde_process(*SCALE, "--to", 1024)
    assert time.monotonic() - begun < 1.0
    assert done.returncode == 0
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in done.stdout.splitlines()}
    assert rows["lr"] == ["0.001", "0.002", "sqrt(kappa) lr"]
    assert rows["beta1"] == ["0.9", "0.6", "1 - kappa (1 - beta1)"]
    assert rows["eps"] == ["1e-08", "5e-09", "eps / sqrt(kappa)"]
    assert "warning" not in done.stdout


def test_scale_as_json(adasde):
    done = adasde(*SCALE, "--to", 384, "--weight-decay", 0.1, "--decoupled", "--steps", 3000, "--clip", 1, "--json")
    found = json.loads(done.stdout)
    assert found["optimizer"] == "adam"
    assert found["rule"] == "sqrt"
    assert (found["kappa"], found["batch_size"], found["steps"]) == (1.5, 384, 2000)
    assert found["lr"] == pytest.approx(1e-3 * 1.5**0.5)
    assert found["beta1"] == pytest.approx(0.85)
    assert found["weight_decay"] == pytest.approx(0.1 * 1.5**0.5)
    assert found["clip"] == pytest.approx(1.5**-0.5)
    assert found["warnings"] == []
    arguments = "scale rmsprop --lr 1e-3 --beta 0.9 --eps 1e-8 --batch-size 256 --to 64 --rule linear --json"
    found = json.loads(adasde(*arguments.split()).stdout)
    assert {"optimizer", "rule", "kappa", "batch_size", "lr", "beta", "eps", "weight_decay"} <= found.keys()
    assert found["lr"] == 2.5e-4


@pytest.mark.parametrize(
    ("arguments", "wanted", "told", "assumed"),
    [
        (
            "adamw --batch-size 256 --to 1024",
            {"lr": 2e-3, "beta1": 0.6, "beta2": 0.996, "eps": 5e-9, "weight_decay": 0.02},
            "not given: lr 0.001; betas 0.9, 0.999; eps 1e-08; weight_decay 0.01: torch's defaults",
            "lr beta1 beta2 eps weight_decay",
        ),
        (
            "adam --batch-size 256 --to 1024 --lr 0.1 --beta2 0.99",
            {"lr": 0.2, "beta1": 0.6, "beta2": 0.96, "eps": 5e-9, "weight_decay": 0.0},
            "not given: beta1 0.9; eps 1e-08: torch's defaults",
            "beta1 eps",
        ),
        (
            "rmsprop --batch-size 256 --to 1024 --beta 0.9 --lr 1",
            {"lr": 2.0, "beta": 0.6, "eps": 5e-9, "weight_decay": 0.0},
            "not given: eps 1e-08: torch's default\n",
            "eps",
        ),
        (
            "nadam --batch-size 256 --to 1024 --decoupled --weight-decay 0.1",
            {"lr": 4e-3, "beta1": 0.6, "momentum_decay": 16e-3, "weight_decay": 0.2},
            "momentum_decay 0.004: torch's defaults",
            "lr beta1 beta2 eps momentum_decay",
        ),
        (
            "adam --batch-size 16 --to 64 --beta1 0 --lr 1 --eps 0",
            {"lr": 2.0, "beta1": 0.0, "beta2": 0.996, "eps": 0.0},
            "not given: beta2 0.999: torch's default\n",
            "beta2",
        ),
    ],
)
def test_scale_takes_torchs_defaults_and_says_so(arguments, wanted, told, assumed, adasde):
    found = json.loads(adasde("scale", *arguments.split(), "--json").stdout)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    shown = adasde("scale", *arguments.split()).stdout
    assert told in shown
    assert found["assumed"].keys() == set(assumed.split())


def test_scale_says_nothing_of_defaults_where_all_is_given(adasde):
    assert "not given" not in adasde(*SCALE, "--to", 512).stdout
    assert json.loads(adasde(*SCALE, "--to", 512, "--json").stdout)["assumed"] == {}


def test_scale_with_half_life_betas(adasde):
    arguments = ["scale", "adamw", "--batch-size", 16, "--to", 256, "--betas", "half-life"]
    shown = adasde(*arguments).stdout
    assert shown.startswith("adamw, rule sqrt, betas half-life, kappa = 16\n")
    assert re.search(r"beta1 +0.9 +0.185302 +beta1\^kappa", shown)
    found = json.loads(adasde(*arguments, "--json").stdout)
    assert (found["betas"], found["warnings"]) == ("half-life", [])
    assert (found["lr"], found["beta1"], found["beta2"]) == pytest.approx((4e-3, 0.9**16, 0.999**16))
    assert json.loads(adasde(*SCALE, "--to", 512, "--json").stdout)["betas"] == "linear"


def test_scale_by_the_invariant_rule_names_its_optimizer(adasde):
    shown = adasde(*SCALE, "--to", 4096, "--rule", "invariant").stdout
    assert re.search(r"lr +0.001 +0.001 +unchanged", shown)
    assert "warning: rule invariant is for adasde.InvariantAdam with micro_batches=16, each of the old batch" in shown


def test_scale_warns_beyond_half(adasde):
    done = adasde(*SCALE, "--to", 2048)
    assert "warning: kappa = 8 leaves beta1 = 0.2" in done.stdout
    assert json.loads(adasde(*SCALE, "--to", 2048, "--json").stdout)["warnings"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SCALE, "--to", 4096], "kappa = 16: too large for beta1 = 0.9"),
        ([*SCALE, "--to", 1024, "--rule", "sqr"], "rule = 'sqr': must be one of sqrt, linear"),
        ([*SCALE, "--to", 1024, "--betas", "0.9"], "betas = '0.9': must be linear or half-life"),
        ([*SCALE, "--to", 4160, "--rule", "invariant"], "kappa = 16.25: must be a whole number >= 1"),
        (["scale", "adamw", "--to", 1024], "the following arguments are required: --batch-size"),
        (["scale", "adamw", "--to", 8, "--batch-size", 4, "--decoupled"], "unrecognized arguments: --decoupled"),
        (["scale", "recipe", "nowhere.json", "--to", 8], "nowhere.json: No such file"),
        (["scale", "recipe", "a.json", "--to", 8, "--by", "devices"], "argument --by: invalid choice: 'devices'"),
        ([*SCALE, "--to", 0], "argument --to: '0' is not a whole number from 1 to 10^15"),
        ([*SCALE, "--to", "many"], "argument --to: 'many' is not a whole number"),
        ([*SCALE, "--to", "²"], "argument --to: '²' is not a whole number from 1 to 10^15"),
        ([*SCALE, "--to", 5000 * "1"], "1... is not a whole number from 1 to 10^15"),
        ([*SCALE, "--to", 8, "--warmup-steps", 400 * "1"], "1... is not a whole number from 0 to 10^15"),
        ([*SCALE, "--to", 8, "--to", 16], "argument --to: given twice"),
        (
            ["scale", "adamw", "--to", 8, "--batch-size", 4, "--betas=linear", "--betas", "linear"],
            "argument --betas: given",
        ),
        (["run", "--spec", "{}", "--spec", "{}", "--out", "x.parquet"], "argument --spec: given twice"),
        (["figure", "map", "--tables", ".", "--out", "x.png", "--out", "y.png"], "argument --out: given twice"),
        (["scale", "recipe", "a.json", "--to", 8, "--by", "per_device"], "by = per_device: goes with --write only"),
        (["scale", "recipe", "a.json", "--to", 8, "--write", "x" * 250], "x: cannot be written (File name too long)"),
        ([*SCALE[:2], "--lr", "-1e-3", *SCALE[4:], "--to", 512], "lr = -0.001: must be a finite number > 0"),
        ([*SCALE, "--to", "1" + 400 * "0"], "argument --to: "),
        ([*SCALE, "--to", 512, "--steps", 10, "--warmup-steps", 20], "warmup_steps = 20: must not exceed steps = 10"),
        ([*SCALE[:2], "--lr", -1, *SCALE[4:], "--to", 512], "lr = -1: must be a finite number > 0"),
        (["scale", "adagrad"], "invalid choice: 'adagrad'"),
        (["plan", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["plan", SMOKE, "--figure", "nose"], f"figure = 'nose': must be one of {FIGURES}"),
        (["plan", SMOKE, "--device", "tpu"], "device = 'tpu': must be one of h100, h200, a100, cpu-core"),
        (["plan", SMOKE, "--gpus", 0], "argument --gpus: '0' is not a whole number"),
        (["plan", SMOKE, "--runs", "--json"], "not allowed with argument"),
        (["plan", SMOKE, "--figure", ""], f"figure = '': must be one of {FIGURES}"),
        (["plan", SMOKE, "--runs", "--gpus", 3], "gpus = 3: does not go with --runs, which tells no hours"),
        (["plan", SMOKE, "--json", "--device", "h100"], "device = h100: does not go with --json, which tells no hours"),
        (["check", SMOKE, "--results", SMOKE], "smoke.yaml: is a file; name a folder"),
        (["report", SMOKE, "--figures", SMOKE], "smoke.yaml: is a file; name a folder"),
        (["claims", SMOKE], "smoke.yaml: is a file; name a folder"),
        (["data", "fashion-mnist", "--data", SMOKE], "smoke.yaml: is a file; name a folder"),
        (
            ["data", "fashion-mnist", "--data", "~nobody-here/x"],
            "~nobody-here/x: there is no home folder; write the whole",
        ),
        (["data", "mnist"], "data = 'mnist': must be one of"),
        (["run", "--spec", "{", "--out", "x.parquet"], "spec: not JSON"),
        (["run", "--spec", "{}", "--out", "x.parquet"], "run: 'recipe' is a required property"),
        (["collect", "nowhere.parquet", "--out", "."], "nowhere.parquet: no such file"),
        (
            ["figure", "scatter-x", "--tables", ".", "--out", "x.png"],
            "'scatter-x': must be one of map, scaling-EXPERIMENT",
        ),
        (["figure", "rules", "--tables", ".", "--out", "x.gif"], "out = x.gif: must end in .png or .pdf"),
        (["predict", "."], ".: is a folder; name a run's .parquet file in it"),
        (["claims", "nowhere"], "trajectories.parquet: no such file"),
        ([], "the following arguments are required: COMMAND"),
        (["plan", "a\nb\x1b[2J.yaml"], "error: a\\nb\\x1b[2J.yaml: No such file"),
        (["plan", 3 * (250 * "x" + "/")], "xxx/xxx"),
        (["plan", 10_000 * "x"], "xxx: File name too long"),
        (["run", "--spec", json.dumps({"recipe" + 10_000 * "x": 1}), "--out", "x.parquet"], "run: "),
    ],
)
def test_bad_input_is_one_line_and_a_non_zero_exit(arguments, message, adasde, tmp_path):
    done = adasde(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("adasde: error: ")
    assert message in line
    assert len(line) < 620
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_with_the_same_line(adasde_process):
    done = adasde_process(*SCALE, "--to", 4096)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("adasde: error: kappa = 16: too large for beta1 = 0.9")


def test_a_config_that_is_not_yaml(adasde, tmp_path):
    (tmp_path / "a.yaml").write_text("scale: [")
    done = adasde("plan", tmp_path / "a.yaml")
    assert done.returncode == 2
    assert "a.yaml: not YAML (line 1)" in done.stderr


def test_a_key_given_twice_is_named(adasde, tmp_path):
    text = (ROOT / "workflow/config/smoke.yaml").read_text()
    line = next(n for n, content in enumerate(text.splitlines(), 1) if content.startswith("    batch_size:"))
    twice = text.replace("    batch_size:", "    batch_size: {value: 64, source: ours}\n    batch_size:", 1)
    (tmp_path / "a.yaml").write_text(twice)
    done = adasde("plan", tmp_path / "a.yaml")
    assert done.returncode == 2
    assert f"a.yaml: batch_size is given twice (line {line + 1})" in done.stderr
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", ROOT / "Snakefile", "--configfile", "a.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "batch_size is given twice" in done.stdout + done.stderr


def test_a_key_that_is_not_text_is_one_line(adasde, tmp_path):
    (tmp_path / "a.yaml").write_text("? [a, b]\n: 1\n")
    done = adasde("plan", tmp_path / "a.yaml")
    assert done.returncode == 2
    assert "a.yaml: a key is not text (line 1)" in done.stderr


def test_plan_prints_one_row_per_run(adasde):
    done = adasde("plan", ROOT / "workflow/config/smoke.yaml", "--runs")
    specs = json.loads(adasde("plan", ROOT / "workflow/config/smoke.yaml", "--json").stdout)
    lines = done.stdout.splitlines()
    named = [line.split()[0] for line in lines[1:-1] if not line.startswith("simulation ")]
    assert named == [spec["run"] for spec in specs]
    assert lines[-1].startswith(f"{sum('workload' in spec for spec in specs)} runs, ")
    assert ", 3 simulations, " in lines[-1]


def test_data_says_where_and_under_what_licence(adasde, data_root):
    done = adasde("data", "fashion-mnist", env={"ADASDE_DATA": str(data_root)})
    assert done.returncode == 0
    assert done.stdout.startswith(f"{data_root / 'fashion-mnist'}: 60,000 training and 10,000 test examples")
    assert "MIT" in done.stdout


@pytest.fixture
def short(spec):
    """A real run of 480 steps, saved after each chunk of about 64."""
    return changed(spec, samples=15_360, evaluate=[1536, 15_360], horizon=2.3e-4)


def start(spec, folder, data_root):
    command = [sys.executable, "-m", "adasde", "run", "--spec", spec.canonical, "--data", str(data_root)]
    command += [
        "--out",
        str(folder / "run.parquet"),
        "--checkpoint",
        str(folder / "run.pt"),
        "--checkpoint-every",
        "0",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


@pytest.mark.slow
def test_killed_three_times_and_resumed_is_bit_for_bit_the_uninterrupted_run(short, data_root, tmp_path):
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    errors = finish(start(short, folders[0], data_root))
    assert errors == ""  # quiet in logs
    whole = load_run(folders[0] / "run.parquet")
    draw = random.Random(0)
    for _ in range(3):
        process = start(short, folders[1], data_root)
        before = checkpoint_age(folders[1])
        while checkpoint_age(folders[1]) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert not (folders[1] / "run.parquet").exists()
    finish(start(short, folders[1], data_root))
    resumed = load_run(folders[1] / "run.parquet")
    assert rows_digest(resumed.rows) == rows_digest(whole.rows)
    assert resumed.facts["rows_sha256"] == whole.facts["rows_sha256"]
    leftovers = {path.name for path in folders[1].iterdir()} - {"run.parquet"}
    assert all(name.startswith(".run.pt.") for name in leftovers)  # only what a kill left half-written


def checkpoint_age(folder):
    path = folder / "run.pt"
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.slow
def test_the_same_spec_twice_is_the_same_table_and_another_checkpoint_is_refused(short, data_root, tmp_path):
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        finish(start(short, tmp_path / name, data_root))
        digests.append(load_run(tmp_path / name / "run.parquet").facts["rows_sha256"])
    assert digests[0] == digests[1]
    (tmp_path / "c").mkdir()
    process = start(short, tmp_path / "c", data_root)
    while not (tmp_path / "c/run.pt").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    process = start(changed(short, seed=7), tmp_path / "c", data_root)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "checkpoint of another spec (seed = 0 there and 7 here)" in errors
    assert not (tmp_path / "c/run.parquet").exists()


def test_outputs_are_checked_before_any_training(short, data_root, tmp_path, adasde):
    arguments = ["run", "--spec", short.canonical, "--data", data_root]
    (tmp_path / "note.txt").write_text("mine")
    save_run(tmp_path / "other.parquet", [], changed(short, seed=5))
    begun = time.monotonic()
    for out, checkpoint, message in (
        ("/proc/nowhere/r.parquet", "c.pt", "out = /proc/nowhere/r.parquet: cannot be written"),
        (tmp_path, "c.pt", "cannot be written (is a folder)"),
        ("r.parquet", "/proc/nowhere/c.pt", "checkpoint = /proc/nowhere/c.pt: cannot be written"),
        ("same", "same", "checkpoint = same: is also the output"),
        ("r.parquet", "note.txt", "checkpoint = note.txt: holds something else"),
        ("other.parquet", "c.pt", "out = other.parquet: holds the run of another spec"),
        ("note.txt", "c.pt", "note.txt: not a run's table, or a damaged one"),
    ):
        done = adasde(*arguments, "--out", out, "--checkpoint", checkpoint, cwd=tmp_path)
        assert done.returncode == 2, done.stdout
        (line,) = done.stderr.splitlines()
        assert message in line
    assert time.monotonic() - begun < 40
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"note.txt", "other.parquet"}
    for option, value in (("--threads", 100_000), ("--threads", 0), ("--checkpoint-every", -1)):
        done = adasde(*arguments, "--out", "r.parquet", option, value, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


@pytest.fixture
def family(config):
    """A run, and a branch of it from 384 samples on, short enough for the synthetic images."""
    config["branches"]["branch-cnn-adam"]["at"]["value"] = 0.0065
    runs = plan(config).runs
    parent = runs["fashion-cnn-adam.sqrt.k1.s0"]
    branch = changed(runs["branch-cnn-adam.sqrt.k4.s0"], samples=512, evaluate=[512])
    assert branch.parent.model_dump() == {"run": parent.run, "spec_hash": parent.hash, "samples": 384}
    return parent, branch


def test_a_state_is_made_and_a_run_branches_from_it(family, synthetic, adasde, tmp_path):
    parent, branch = family
    for options in (("--samples", 320, "--out", "early"), ("--samples", 384, "--out", "late", "--before", "early")):
        done = adasde("state", "--spec", parent.canonical, *options, "--checkpoint", "c", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{options[3]}: {parent.run} after {options[1]} samples\n"
    done = adasde("run", "--spec", branch.canonical, "--states", "late", "--out", "run.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{branch.run}: 8 steps in ")
    assert {step for _, step, *_ in load_run(tmp_path / "run.parquet").rows} == {0, 8}
    assert {path.name for path in tmp_path.iterdir()} == {"early", "late", "run.parquet"}
    (tmp_path / "run.parquet").unlink()
    options = ("run", "--spec", branch.canonical, "--out", "run.parquet")
    wanted = f"{branch.run} branches from {parent.run} after 384 samples; name the file of that state by --states"
    (tmp_path / "note").write_text("mine")
    for states, message in (
        ((), wanted),
        (("--states", "early"), wanted),
        (("--states", "late", "early"), f"states = early: {parent.run} after 320 samples, and no run here starts or"),
        (("--states", "nowhere"), "nowhere: no such file"),
        (("--states", "note"), "checkpoint = note: holds something else"),
    ):
        assert_refused(adasde(*options, *states, cwd=tmp_path), message)
    assert not (tmp_path / "run.parquet").exists()


def test_a_state_that_cannot_be_is_refused(family, config, synthetic, adasde, tmp_path):
    parent, branch = family
    finetune = plan(config).runs["finetune-roberta.k1.s0"]
    adasde("state", "--spec", changed(parent, seed=3).canonical, "--samples", 32, "--out", "other", cwd=tmp_path)
    for spec, options, message in (
        (parent, ("--samples", 400), "samples = 400: a state of .*-adam.sqrt.k1.s0 is after whole steps of 32"),
        (parent, ("--samples", 13_856), "samples = 13856: .*, up to its end at 13824"),
        (parent, ("--samples", 0), "argument --samples: '0' is not a whole number"),
        (parent, ("--samples", 64, "--before", "other"), "checkpoint of another spec .seed = 3 there"),
        (parent, ("--samples", 32, "--before", "other"), "before = other: a state after 32 samples; one before 32"),
        (parent, ("--samples", 64, "--before", "nowhere"), "nowhere: no such file"),
        (branch, ("--samples", 64), f"spec: {branch.run} is not a training run from new weights"),
        (finetune, ("--samples", 64), f"spec: {finetune.run} is not a training run from new weights"),
    ):  # fmt: skip
        assert_refused(adasde("state", "--spec", spec.canonical, *options, "--out", "x", cwd=tmp_path), message)
    lr = parent.document["optimizer"] | {"lr": 1e30}
    done = adasde(
        "state", "--spec", changed(parent, optimizer=lr).canonical, "--samples", 640, "--out", "x", cwd=tmp_path
    )
    assert_refused(done, r"diverged after \d+ samples; nothing can branch from it")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def assert_refused(done, message):
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.search(message, line), line


@pytest.mark.slow
def test_an_interrupt_is_one_line(short, data_root, tmp_path):
    long = changed(short, samples=153_600, evaluate=[153_600], horizon=2.3e-3)  # on a busy machine, too
    process = start(long, tmp_path, data_root)
    while not (tmp_path / "run.pt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "adasde: error: interrupted; a run with a checkpoint goes on from there\n"


def test_check_tells_missing_damaged_and_foreign_runs(adasde, config, spec, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    runs = tmp_path / "runs"
    planned = plan(config)
    names = list(planned.jobs)
    rows = [(spec.run, 1, 0.1, "test_loss", 1.0)]
    save_run(runs / f"{names[0]}.parquet", rows, spec)  # the first of two seeds
    other = changed(planned.jobs[names[1]].specs[0], seed=9)
    save_run(runs / f"{names[1]}.parquet", [(other.run, *rows[0][1:])], other)
    (runs / f"{names[2]}.parquet").write_bytes(b"PAR1")
    state = tmp_path / f"states/{next(iter(planned.states))}.state"
    checkpoints.write_checkpoint(state, other.canonical, {})
    done = adasde("check", tmp_path / "c.yaml", "--results", tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == f"1 of {len(planned.runs)} runs are there, whole and as planned"
    assert lines[0].endswith(f"{names[0]}.parquet: no {planned.jobs[names[0]].specs[1].run}")
    assert "made from another spec" in lines[1]
    assert "a damaged one" in lines[3]
    assert "no such file" in lines[4]
    assert f"{state}: made from another spec" in lines


def test_c8_check_names_what_other_code_has_made_and_deletes_it_when_asked(adasde, config, tmp_path):
    """Tables, states and weights. What is only missing is not a fault of a file, and nothing is deleted for it."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    planned = plan(config)
    first, second, *_ = planned.jobs.values()
    state, (parent, _) = next(iter(planned.states.items()))
    for job, facts in ((first, {}), (second, provenance())):
        rows = [[(spec.run, 1, 0.1, "test_loss", 1.0)] for spec in job.specs]
        results = [Result(spec, part, facts) for spec, part in zip(job.specs, rows, strict=True)]
        write_results(tmp_path / f"runs/{job.name}.parquet", results)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "source_digest", lambda: "other")
        checkpoints.write_checkpoint(tmp_path / f"states/{state}.state", parent.canonical, {})
    table, saved = tmp_path / f"runs/{first.name}.parquet", tmp_path / f"states/{state}.state"
    done = adasde("check", tmp_path / "c.yaml", "--results", tmp_path)
    lines = done.stdout.splitlines()
    assert f"{table}, {saved}: made by different code" in lines
    assert lines[-2].startswith("to make these again: the same command with --delete")
    assert lines[-1].startswith(f"{len(first.specs) + len(second.specs)} of {len(planned.runs)} runs are there")
    done = adasde("collect", table, tmp_path / f"runs/{second.name}.parquet", "--out", tmp_path)
    assert f"adasde: warning: {table}: made by different code" in done.stderr
    found = pd.read_csv(tmp_path / "runs.csv")
    assert found["source"].fillna("").tolist() == [""] * len(first.specs) + [source_digest()] * len(second.specs)
    assert set(found["recipe"]) == {RECIPE}
    done = adasde("check", tmp_path / "c.yaml", "--results", tmp_path, "--delete")
    assert f"{table}: deleted" in done.stdout
    assert (table.exists(), saved.exists()) == (False, False)
    assert (tmp_path / f"runs/{second.name}.parquet").exists()
    assert f"{len(second.specs)} of {len(planned.runs)} runs are there" in done.stdout
    assert "made by different code" not in done.stdout


def test_check_deletes_nothing_that_it_cannot_read(adasde, config, tmp_path, monkeypatch):
    """Another user's file, say, or one in a folder whose name pyarrow cannot take: they may be whole."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    path = tmp_path / "runs" / f"{next(iter(plan(config).jobs))}.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1")
    monkeypatch.setattr("os.access", lambda *_: False)  # as root, tests can read everything
    assert "deleted" not in adasde("check", tmp_path / "c.yaml", "--results", tmp_path, "--delete").stdout
    assert path.exists()
    monkeypatch.undo()
    done = adasde("check", tmp_path / "c.yaml", "--results", f"{tmp_path}/\udcff", "--delete")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not UTF-8; rename the file" in done.stderr
    assert f"{path}: deleted" in adasde("check", tmp_path / "c.yaml", "--results", tmp_path, "--delete").stdout


def test_outputs_of_every_command_are_checked_before_any_work(adasde, spec, tmp_path):
    """A pipe, a device, a file in the place of a folder, and a name that pyarrow cannot take."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for command, option, fault in (
        (("run", "--spec", spec.canonical), "out", "pipe"),
        (("run", "--spec", spec.canonical), "out", "\udcff"),
        (("run", "--spec", spec.canonical, "--out", "x"), "weights", "file"),
        (("state", "--spec", spec.canonical, "--samples", 32), "out", "pipe"),
        (("state", "--spec", spec.canonical, "--samples", 32, "--out", "x"), "checkpoint", "pipe"),
        (("collect", "nothing"), "out", "file"),
        (("throughput", "nothing"), "out", "pipe"),
        (("forecast", "nothing"), "out", "pipe"),
        (("claims", "nothing"), "out", "pipe"),
        (("claims", "nothing"), "readme", "pipe"),
        (("compare", "nothing"), "figures", "file"),
        (("report", SMOKE), "out", "pipe"),
        (("figure", "noise", "--tables", "nothing"), "out", "pipe.png"),
        (("branch", "nothing"), "plot", "pipe.png"),
        (("branch", "nothing"), "plot", "x.txt"),
    ):
        if fault == "pipe.png":
            (tmp_path / "pipe").rename(tmp_path / "pipe.png")
        done = adasde(*command, f"--{option}", fault, cwd=tmp_path)
        words = {"file": "is a file; name a folder", "\udcff": "is not UTF-8", "x.txt": "must end in .png or .pdf"}
        assert_refused(done, words.get(fault, f"{option} = .*pipe.*: is a pipe, a socket or a device"))
        if fault == "pipe.png":
            (tmp_path / "pipe.png").rename(tmp_path / "pipe")
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "file"}


def test_claims_are_judged_only_if_they_have_a_place(adasde, tmp_path):
    """Nothing is written, also not by the option that is right."""
    (tmp_path / "note.md").write_text("mine")
    (tmp_path / "t.csv").write_text("mine")
    for option, file, message in (
        ("readme", "note.md", "note.md: no place for the claims, between <!-- claims --> and"),
        ("readme", "nowhere.md", "nowhere.md: No such file"),
        ("spreads", "t.csv", "t.csv: not such a table .no column 'scale'."),
    ):
        assert_refused(
            adasde("claims", ROOT / "results/reference/mini", "--out", "c.csv", f"--{option}", file, cwd=tmp_path),
            message,
        )
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_no_command_writes_over_what_it_reads(adasde, spec, tmp_path):
    """Nor under another name of the file."""
    shutil.copy(SMOKE, tmp_path / "m.yaml")
    tables = [f"t/{name}" for name in ("trajectories.parquet", "simulations.parquet", "runs.csv", "claims.csv")]
    default = "results/smoke/claims.csv"
    for name in ("r.parquet", "state", "x.csv", *tables, "t/forecasts/cnn.json", "figures/smoke/map.png", default):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "s.json").write_text(spec.canonical)
    (tmp_path / "link.yaml").symlink_to("m.yaml")
    (tmp_path / "link").symlink_to("t")

    def contents():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = contents()
    for command, option, file, kind in (
        (("plan", "m.yaml", "--budget", "1h"), "out", "m.yaml", "configs"),
        (("plan", SMOKE, "m.yaml", "--budget", "1h"), "out", "link.yaml", "configs"),
        (("plan", "link.yaml", "--budget", "1h"), "out", "./m.yaml", "configs"),
        (("report", "m.yaml", "--results", "."), "out", "m.yaml", "configs"),
        (("forecast", "r.parquet"), "out", "r.parquet", "runs"),
        (("throughput", "x.csv"), "out", "x.csv", "runs"),
        (("run", "--spec", "@s.json"), "out", "s.json", "specs"),
        (("run", "--spec", "@s.json", "--out", "new"), "checkpoint", "s.json", "specs"),
        (("run", "--spec", spec.canonical, "--states", "state"), "out", "state", "states"),
        (("state", "--spec", spec.canonical, "--samples", 32, "--before", "state"), "out", "state", "states"),
        *((("claims", "t"), option, name, "tables") for option in ("out", "readme", "spreads") for name in tables[:3]),
        (("claims", "t"), "out", "link/forecasts/cnn.json", "tables"),
        (("report", SMOKE, "--results", "t"), "out", "t/runs.csv", "results"),
        (("report", SMOKE, "--results", "link"), "out", "t/claims.csv", "results"),
        (("report", SMOKE), "out", default, "results"),
        (("report", SMOKE), "out", "figures/smoke/map.png", "figures"),
        (("report", SMOKE, "--figures", "figures/smoke"), "out", "figures/smoke/map.png", "figures"),
    ):
        done = adasde(*command, f"--{option}", file, cwd=tmp_path)
        assert_refused(done, f"{option} = {Path(file)}: is one of the {kind}; name another file$")
        assert contents() == before
    for name in tables[:3]:
        done = adasde("collect", tmp_path / name, "--out", "t", cwd=tmp_path)
        assert_refused(done, f"out = {name}: is one of the runs; name another file$")
        assert contents() == before


def test_no_command_writes_a_file_twice(adasde, spec, tmp_path):
    """Nor under another name of the file."""
    (tmp_path / "link").symlink_to("x")
    for command, option, other in (
        (("run", "--spec", spec.canonical, "--out", "x"), "weights", "the output"),
        (("run", "--spec", spec.canonical, "--out", "x"), "checkpoint", "the output"),
        (("run", "--spec", spec.canonical, "--out", "y", "--weights", "x"), "checkpoint", "--checkpoint"),
        (("state", "--spec", spec.canonical, "--samples", 32, "--out", "x"), "checkpoint", "the output"),
        (("claims", "t", "--out", "x"), "readme", "the output"),
        (("claims", "t", "--readme", "x"), "spreads", "--readme"),
    ):
        for file in ("x", "./x", "link"):
            done = adasde(*command, f"--{option}", file, cwd=tmp_path)
            assert_refused(done, f": is also {other}; name another file$")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_run_that_is_named_twice_counts_once(adasde, spec, tmp_path):
    """It is refused, be it one file under two names, or a copy of it."""
    facts = {"seconds": 1.0, "threads": 1, "device": "x", "torch": "2"}
    save_run(tmp_path / "a.parquet", [(spec.run, spec.steps, 0.1, "test_loss", 1.0)], spec, **facts)
    (tmp_path / "link.parquet").symlink_to("a.parquet")
    (tmp_path / "copy.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "steps.csv").write_text("x")
    for other in ("a.parquet", "./a.parquet", "link.parquet", "copy.parquet"):
        for command in ("collect", "throughput", "forecast"):
            done = adasde(command, "a.parquet", other, "--out", "out", cwd=tmp_path)
            assert_refused(done, rf"{Path(other)}: {spec.run} is also in a.parquet; name it once")
        done = adasde("figure", "noise", "--runs", "a.parquet", other, "--out", "x.png", cwd=tmp_path)
        assert_refused(done, "name it once")
    done = adasde("run", "--spec", f"[{spec.canonical}, {spec.canonical}]", "--out", "out", cwd=tmp_path)
    assert_refused(done, f"spec: {spec.run} is given twice; it would count as two seeds")
    twice = [Result(spec, [(spec.run, spec.steps, 0.1, "test_loss", 1.0)], facts)] * 2
    write_results(tmp_path / "twice.parquet", twice)
    assert_refused(
        adasde("predict", "twice.parquet", cwd=tmp_path), f"{spec.run} is also in twice.parquet; name it once"
    )
    assert_refused(adasde("throughput", "steps.csv", "./steps.csv", "--out", "out", cwd=tmp_path), "name it once")
    assert not (tmp_path / "out").exists()


def test_a_terminal_sees_a_progress_bar(short, data_root, tmp_path):
    """Under a pseudo-terminal the run shows a bar with its id."""
    import pty

    spec = changed(short, samples=1536, evaluate=[1536])
    command = [sys.executable, "-m", "adasde", "run", "--spec", spec.canonical, "--data", str(data_root)]
    master, slave = pty.openpty()
    process = subprocess.Popen([*command, "--out", str(tmp_path / "a.parquet")], stderr=slave, stdout=slave)
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        written += part
    assert process.wait() == 0
    assert spec.run.encode() in written
    assert b"48/48" in written


RECIPE_FILE = """
optimizer: adamw
lr: 1e-3
beta1: 0.9
beta2: 0.999
eps: 1e-8
weight_decay: 0.1
batch_size: 256
steps: 100000
warmup_steps: 2000
milestones: [50000, 75000]
clip: 1.0
"""


def test_a_recipe_in_a_file(adasde, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE_FILE)
    shown = adasde("scale", "recipe", tmp_path / "recipe.yaml", "--to", 1024).stdout
    assert shown.startswith("our own keys: batch 256 (batch_size)\nadamw, rule sqrt, kappa = 4\n")
    assert re.search(r"milestones +50000, 75000 +12500, 18750 +milestones / kappa", shown)
    found = json.loads(adasde("scale", "recipe", tmp_path / "recipe.yaml", "--to", 1024, "--json").stdout)
    wanted = {"batch_size": 1024, "lr": 2e-3, "beta1": 0.6, "eps": 5e-9, "weight_decay": 0.2, "steps": 25_000}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert (found["clip"], found["warmup_steps"], found["milestones"]) == (0.5, 500, [12_500, 18_750])
    assert (found["optimizer"], found["format"], found["assumed"]) == ("adamw", "our own keys", {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("adamw", "lion"), "optimizer = 'lion': must be one of adam, adamw, nadam, rmsprop"),
        (("lr: 1e-3", "rate: 1e-3"), "rate: unknown; a recipe of adamw has lr, "),
        (("lr: 1e-3", "lr: fast"), "lr = 'fast': must be a number"),
        (("lr: 1e-3", "lr: 1e-3\nlearning_rate: 2e-3"), "lr = 0.001, learning_rate = 0.002: these mean the same and"),
        (("256", "25.6"), "batch_size = 25.6: must be a whole number"),
        (("batch_size: 256", ""), "batch_size or micro_batch_size: missing in the recipe"),
        (("[50000, 75000]", "half"), "milestones = 'half': must be a list of whole numbers"),
        (("lr: 1e-3", "lr: 1e-3\nlr: 2e-3"), "lr is given twice"),
        (("beta1: 0.9", "beta1: 0.7"), "kappa = 4: too large for beta1 = 0.7"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(adasde, tmp_path, change, words):
    (tmp_path / "recipe.yaml").write_text(RECIPE_FILE.replace(*change, 1))
    done = adasde("scale", "recipe", tmp_path / "recipe.yaml", "--to", 1024, "--write", tmp_path / "new.yaml")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new.yaml").exists()


DEEPSPEED = {
    "train_micro_batch_size_per_gpu": 8,
    "gradient_accumulation_steps": 2,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.1}},
    "zero_optimization": {"stage": 2},
    "gradient_clipping": 1.0,
}


def test_a_recipe_of_a_framework_is_written_back(adasde, tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps(DEEPSPEED, indent=2))
    arguments = ["scale", "recipe", "ds.json", "--devices", 4, "--to", 256]
    shown = adasde(*arguments, "--write", "new.json", cwd=tmp_path).stdout
    assert shown.startswith("DeepSpeed's configuration: batch 64 = 8 per device x 2 accumulated x 4 devices\nadamw, ")
    assert "not given: betas 0.9, 0.999; eps 1e-08: DeepSpeed's defaults" in shown
    assert shown.endswith("written to new.json\n")
    new = json.loads((tmp_path / "new.json").read_text())
    params = {"lr": 2e-3, "weight_decay": 0.2, "betas": [0.6, 0.996], "eps": 5e-9}
    assert new == DEEPSPEED | {
        "gradient_accumulation_steps": 8,
        "gradient_clipping": 0.5,
        "optimizer": {"type": "AdamW", "params": params},
    }
    again = adasde("scale", "recipe", "new.json", "--devices", 4, "--to", 64, "--json", cwd=tmp_path)
    found = json.loads(again.stdout)
    assert (found["batch"], found["kappa"]) == ("256 = 8 per device x 8 accumulated x 4 devices", 0.25)
    assert found["lr"] == pytest.approx(1e-3)
    done = adasde(*arguments, "--write", "new.json", cwd=tmp_path)
    assert done.stderr == "adasde: error: write = new.json: exists already; name a new file\n"
    done = adasde(*arguments, "--by", "per_device", "--write", "per.json", cwd=tmp_path)
    written = json.loads((tmp_path / "per.json").read_text())
    assert (written["train_micro_batch_size_per_gpu"], written["gradient_accumulation_steps"]) == (32, 2)
    done = adasde(*arguments[:-1], 80, "--write", "no.json", cwd=tmp_path)
    assert (
        "gradient_accumulation_steps = 2 would become 2.5, which is not whole; a batch that is a multiple of 32"
        in done.stderr
    )
    assert "and so would by = per_device, which makes train_micro_batch_size_per_gpu 10" in done.stderr
    assert not (tmp_path / "no.json").exists()
    assert adasde(*arguments[:-1], 80, cwd=tmp_path).returncode == 0  # the numbers alone need no whole shares


def test_a_recipe_is_written_whole_or_not_at_all_and_where_a_link_points(adasde, tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(RECIPE_FILE)
    (tmp_path / "link.yaml").symlink_to("new.yaml")
    options = ("scale", "recipe", "recipe.yaml", "--to", 1024, "--write", "link.yaml")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        assert_refused(adasde(*options, cwd=tmp_path), "error: link.yaml: No space left on device$")
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml", "link.yaml"}
    done = adasde(*options, cwd=tmp_path)
    assert done.stdout.endswith("written to link.yaml\n")
    assert yaml.safe_load((tmp_path / "new.yaml").read_text())["batch_size"] == 1024
    assert (tmp_path / "link.yaml").is_symlink()


def test_a_recipe_whose_format_is_unclear(adasde, tmp_path):
    (tmp_path / "a.yaml").write_text("{opt: adamw, sequence_len: 512, lr: 1e-3, batch_size: 8, relora_steps: 9}")
    done = adasde("scale", "recipe", "a.yaml", "--to", 16, cwd=tmp_path)
    assert done.stderr.startswith("adasde: error: recipe: has keys of timm (opt) and of axolotl (sequence_len); add")
    shown = adasde("scale", "recipe", "a.yaml", "--to", 16, "--format", "timm", cwd=tmp_path).stdout
    assert shown.startswith("timm's args.yaml: batch 8 = 8 per device x 1 accumulated x 1 device (--devices N if")
    assert "warning: not changed, though it may be a rate or a number of steps: relora_steps = 9" in shown


def test_a_recipe_in_json_needs_neither_torch_nor_yaml(tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps(DEEPSPEED))
    code = (
        "import sys; from adasde.scaling.recipe_files import read_recipe; "
        "print(read_recipe('ds.json').recipe.batch_size, {'torch', 'transformers', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "16 set()\n", done.stderr


def test_a_missing_extra_is_named(spec, data_root, tmp_path):
    spec = changed(spec, workload="fashion32-vgg16")
    options = ["run", "--spec", spec.canonical, "--data", str(data_root), "--out", str(tmp_path / "run.parquet")]
    code = f"import sys; sys.modules['torchvision'] = None; from adasde.cli import main; sys.exit(main({options!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("adasde: error: torchvision")
    assert error.endswith("is not installed; it comes with adasde[vision]")
    assert not list(tmp_path.iterdir())
