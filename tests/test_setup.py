"""The lock file, the conda environment, the licence files and the style of the code."""

import re
import subprocess
import sys

import pytest
import yaml
from packaging.markers import Marker

from conftest import ROOT


def locked(environment=None):
    """Version of each package in the lock file, for this Python or for that of the ``environment``."""
    versions = {}
    for name, version, marker in re.findall(
        r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$", (ROOT / "envs/requirements.lock").read_text(), re.M
    ):
        if not marker or Marker(marker).evaluate(environment):
            versions[name] = version
    return versions


def wanted():
    text = (ROOT / "envs/requirements.in").read_text()
    return re.findall(r"^([\w-]+)", text, re.M)


def test_the_lock_file_pins_and_hashes_everything():
    text = (ROOT / "envs/requirements.lock").read_text()
    versions = locked()
    assert set(wanted()) <= versions.keys()
    assert (versions["torch"], versions["torchvision"]) == ("2.14.1", "0.29.1")
    blocks = re.split(r"\n(?=[\w.-]+==)", text)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    assert "index-url" not in text


def test_conda_and_pip_name_the_same_versions():
    environment = yaml.safe_load((ROOT / "envs/environment.yaml").read_text())
    pinned = dict(line.split("==") for line in environment["dependencies"][-1]["pip"])
    versions = locked({"python_full_version": "3.11.0", "python_version": "3.11"})
    assert pinned == {name: versions[name] for name in wanted()}


def test_the_installed_versions_are_the_locked_ones():
    from importlib.metadata import version

    for name in wanted():
        assert version(name).partition("+")[0] == locked()[name], name


def test_the_package_depends_on_what_is_locked():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    for extra in project["optional-dependencies"].values():
        names |= {re.match(r"[\w-]+", line)[0] for line in extra}
    assert names == set(wanted())


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["references"][0]["title"] == "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms"
    assert "MIT" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize(
    "command",
    [
        "ruff check .",
        "ruff format --check .",
        "snakefmt --check Snakefile workflow",
        "snakemake --lint --configfile workflow/config/smoke.yaml",
    ],
)
def test_style(command):
    done = subprocess.run([sys.executable, "-m", *command.split()], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_stay_small_and_each_module_says_what_it_is():
    import ast

    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/**/*.smk"), ROOT / "Snakefile"]:
        text = path.read_text()
        assert text.count("\n") <= 300, path
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text)), path
    assert (ROOT / "Snakefile").read_text().count("\n") <= 50


def test_the_glossary_has_every_metric():
    """Those of measure.py's docstring, which is the reference, are in the README's table."""
    from adasde.workloads.metrics import __doc__

    entries = re.findall(r"^  ([a-z][\w<>]*(?:, \w+)*)(?= |$)", __doc__, re.M)
    names = {name.replace("<kappa>", "4") for entry in entries for name in entry.split(", ")}
    table = (ROOT / "README.md").read_text().partition("## Glossary")[2].partition("## ")[0]
    assert {"train_loss", "spearman", "speed_k4", "diverged"} <= names
    assert names <= set(re.findall(r"`(\w+)`", table))
