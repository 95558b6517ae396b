"""A clone at any path, and a user without a home: what has to work there does, the rest is refused in one line."""

import os
import shutil
import stat
import subprocess
import sys

import pytest
import yaml

from adasde.experiments.plan import plan
from conftest import ROOT, save_run, slow

# A space, quotes, an accent, a leading dash, and what shells, make, formats and patterns have a use for.
ODD = "-a b'c\"d $HOME `e` é#%*[f];&|(g)\\h"
WITHOUT_HOME = [
    "unshare",
    "-U",
    "--map-user=12345",
    "--map-group=12345",
    "env",
    "-u",
    "HOME",
    "-u",
    "XDG_CACHE_HOME",
    "-u",
    "MPLCONFIGDIR",
]
SIMULATIONS = [
    f"results/smoke/runs/{name}.parquet" for name in ("weak-order.quadratic.rmsprop", "breakdown.linear.rmsprop")
]
SIMULATION = SIMULATIONS[0]


@pytest.fixture
def clone(tmp_path):
    """Make a folder of this name in which the repository's files are, with an environment."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        for part in ("Snakefile", "Makefile", "workflow", "envs", "pyproject.toml"):
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, folder / part)
        (folder / ".venv").symlink_to(sys.prefix)
        return folder

    return make


def snakemake(folder, *arguments, prefix=(), **options):
    """Run Snakemake by the clone's own interpreter; return exit status and everything printed."""
    command = [*prefix, ".venv/bin/python", "-m", "snakemake", "--logger", "adasde", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)
    return done.returncode, done.stdout + done.stderr


def test_c6_a_job_runs_in_a_clone_at_an_odd_path(clone):
    folder = clone(ODD)
    status, output = snakemake(folder, SIMULATION, "--configfile", f"{folder}/workflow/config/smoke.yaml")
    assert status == 0, output
    assert (folder / SIMULATION).exists()


def test_c6_paths_of_results_data_and_configs_may_be_odd(adasde, data_root, tmp_path, config):
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "my config.yaml").write_text(yaml.safe_dump(config))
    (folder / "data").symlink_to(data_root)
    spec = plan(config).runs["weak-order.quadratic.rmsprop"]
    out = folder / "runs" / "a {b}.parquet"
    assert adasde("plan", folder / "my config.yaml").returncode == 0
    assert adasde("data", "fashion-mnist", "--data", folder / "data").returncode == 0
    done = adasde("run", "--spec", spec.canonical, "--out", out, "--checkpoint", folder / "-c")
    assert done.returncode == 0, done.stderr
    assert adasde("collect", out, "--out", folder / "tables").returncode == 0
    assert (folder / "tables/simulations.parquet").exists()


NEEDED = "a path must be UTF-8 and have no braces, which Snakemake takes for wildcards; rename it"


@pytest.mark.parametrize("name", [slow("a{b}c"), "a}c", os.fsdecode(b"a\xe9c")])
@pytest.mark.parametrize("options", [[], slow(["-n"])], ids=["", "dry"])
def test_braces_and_other_encodings_are_refused_before_anything_is_tried(clone, name, options):
    shown = name.encode(errors="backslashreplace").decode()
    folder = clone(name)
    status, output = snakemake(folder, *options, "--configfile", "workflow/config/smoke.yaml")
    assert status != 0
    assert output == f"adasde: error: {folder.parent}/{shown}: {NEEDED}\n"
    folder = clone("clone")
    (folder / f"{name}.yaml").symlink_to("workflow/config/smoke.yaml")
    status, output = snakemake(folder, *options, "--configfile", f"{name}.yaml")
    assert status != 0
    assert output == f"adasde: error: {folder}/{shown}.yaml: {NEEDED}\n"


@pytest.mark.parametrize(
    ("place", "is_folder", "line"),
    [
        slow("results", False, "adasde: error: output = results/smoke/file: cannot be written (Not a directory)"),
        ("results", True, "adasde: error: output = results/smoke/file: cannot be written (Permission denied)"),
        slow("results/smoke/logs", True, "adasde: error: output = results/smoke/logs/file: cannot be written (Permis"),
        slow(
            "figures/smoke", True, "adasde: error: output = figures/smoke/file: cannot be written (Permission denied)"
        ),
        slow(".snakemake", False, "FileExistsError: [Errno 17] File exists: '"),
        (".snakemake", True, "PermissionError: [Errno 13] Permission denied: '"),
        (".snakemake/log", True, "adasde: error: [Errno 13] Permission denied: '.snakemake/adasde.smoke'"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line_before_any_job(clone, place, is_folder, line):
    without_rights = [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    if without_rights and subprocess.run([*without_rights, "true"], capture_output=True).returncode:
        pytest.skip("needs setpriv, since root may write everywhere")
    folder = clone("clone")
    config = ("--configfile", "workflow/config/smoke.yaml")
    if place == ".snakemake/log":  # all is there but what this repository adds
        assert snakemake(folder, "-n", SIMULATION, *config)[0] == 0
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).mkdir(mode=0o555) if is_folder else (folder / place).touch()
    if place == ".snakemake/log":
        (folder / place).chmod(0o755)
        (folder / ".snakemake").chmod(0o555)
    status, output = snakemake(folder, "--nolock", SIMULATION, *config, prefix=without_rights)
    assert status != 0
    lines = output.splitlines()
    assert lines[-1].startswith(line)
    assert len(lines) <= 2  # and how many jobs are done, or that there is no log
    assert not (folder / SIMULATION).exists()


def test_c17_make_keeps_caches_here_where_the_home_cannot_be_written(clone):
    folder = clone("clone")
    command = [
        "make",
        "--no-print-directory",
        "-o",
        "env",
        "--eval",
        "show: ; @echo $$HOME, $$XDG_CACHE_HOME, $$MPLCONFIGDIR",
        "show",
    ]
    own = f"{folder}/.venv/home"
    for home, wanted in (
        ("/proc/nowhere", f"/proc/nowhere, {own}/.cache, {own}/.cache"),
        (None, f"{own}, {own}/.cache, {own}/.cache"),
        (str(folder / "Makefile"), f"{folder}/Makefile, {own}/.cache, {own}/.cache"),
        (str(folder), f"{folder}, ,"),
    ):
        unset = ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")
        env = {name: value for name, value in os.environ.items() if name not in unset}
        env |= {"HOME": home} if home else {}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.stdout.strip() == wanted, done.stderr
    for cache, wanted in (
        (folder / "Makefile", f"{own}/.cache"),
        ("/proc/nowhere", f"{own}/.cache"),
        (folder / "new/cache", folder / "new/cache"),
    ):
        env = os.environ | {"HOME": str(folder), "XDG_CACHE_HOME": str(cache), "MPLCONFIGDIR": "plots"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.stdout.strip() == f"{folder}, {wanted}, plots", done.stderr
    (folder / ".cache/snakemake").rmdir()
    (folder / ".cache/snakemake").touch()  # as one that belongs to somebody else
    env = {name: value for name, value in env.items() if name != "XDG_CACHE_HOME"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == f"{folder}, {own}/.cache, plots", done.stderr


@pytest.mark.slow
def test_a_narrow_umask_and_a_closed_output_harm_no_graph(clone):
    folder = clone("clone")
    line = f'umask 077; exec "$0" -m snakemake --cores 1 {SIMULATION} --configfile workflow/config/smoke.yaml >&- 2>&-'
    done = subprocess.run(["bash", "-c", line, ".venv/bin/python"], cwd=folder)
    assert done.returncode == 0
    assert stat.S_IMODE((folder / SIMULATION).stat().st_mode) == 0o600


def test_c8_runs_of_other_code_are_named_once_at_the_end_of_a_graph(clone, config):
    folder = clone("clone")
    planned, line = plan(config), f"{SIMULATION}: made by different code"
    rows = [("weak-order.quadratic.rmsprop", "algorithm", 1.0, 0, 0.0, "mean", 1.0)]
    save_run(folder / SIMULATION, rows, planned.runs["weak-order.quadratic.rmsprop"], source="other")
    for _ in range(2):  # with something to do, and without
        status, output = snakemake(folder, SIMULATIONS[1], "--configfile", "workflow/config/smoke.yaml")
        assert status == 0, output
        assert output.count(line) == 1
        assert line in output.strip().splitlines()[-1]


def test_a_package_that_cannot_be_written_works(tmp_path):
    """Such as one that root has installed; Python then keeps no compiled modules."""
    shutil.copytree(ROOT / "src/adasde", tmp_path / "adasde", ignore=shutil.ignore_patterns("__pycache__"))
    if subprocess.run(["mount", "--bind", tmp_path, tmp_path], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path], check=True)
        command = [sys.executable, "-m", "adasde", "plan", str(ROOT / "workflow/config/smoke.yaml")]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(command, env=env | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert not list(tmp_path.rglob("__pycache__"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.slow
def test_c3_make_figures_at_an_odd_path_as_a_user_without_home_and_entry(clone, data_root, broken):
    if not shutil.which("unshare") or subprocess.run([*WITHOUT_HOME, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare, and the right to make user namespaces")
    folder = clone(ODD)
    (folder / "results").mkdir()
    shutil.copytree(data_root, folder / "results/data")
    command = [*WITHOUT_HOME, "make", "--no-print-directory", "-o", "env", "figures", "SCALE=smoke", "CORES=2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-5].startswith("Theorems, simulated: ")
    assert (folder / "results/smoke/report.html").exists()
    broken("place", "make figures at an odd path, without a home and an entry", 1, "everything is made")
