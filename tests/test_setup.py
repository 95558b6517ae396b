"""The lock file, the conda environment, the style and structure of the code, and what a package of it holds."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
# Libraries that come with another one.
PARTS = {
    "huggingface_hub": "datasets",
    "PIL": "torchvision",
    "pydantic_core": "pydantic",
    "snakemake_interface_logger_plugins": "snakemake",
}
MODULES = sorted(SRC.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# What is installed


def locked(environment=None):
    """Version of each package in the lock file, for this Python or for that of the ``environment``."""
    versions = {}
    for name, number, marker in re.findall(
        r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$", (ROOT / "envs/requirements.lock").read_text(), re.M
    ):
        if not marker or Marker(marker).evaluate(environment):
            versions[name] = number
    return versions


def wanted():
    text = (ROOT / "envs/requirements.in").read_text()
    return re.findall(r"^([\w-]+)", text, re.M)


def declared():
    """Names of the packages in pyproject.toml, with those of all extras."""
    lines = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    return {re.match(r"[\w-]+", line)[0] for line in lines}


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
    for name in wanted():
        assert version(name).partition("+")[0] == locked()[name], name


def test_the_package_depends_on_what_is_locked():
    assert declared() == set(wanted())


def test_every_library_that_is_imported_is_declared():
    distributions = packages_distributions()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"adasde"}:
                found = {PARTS[name]} if name in PARTS else set(distributions[name])
                assert {item.lower().replace("_", "-") for item in found} & declared(), (path.name, name)


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["references"][0]["title"] == "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms"
    assert "MIT" in (ROOT / "LICENSE").read_text()


# Style and structure


@pytest.mark.parametrize(
    "command",
    [
        "ruff check .",
        "ruff format --check .",
        "snakefmt --check Snakefile workflow",
        "snakemake --lint --configfile workflow/config/smoke.yaml",
        "lint-imports --no-cache",
        "mypy",
    ],
)
def test_style(command):
    program, *arguments = command.split()
    done = subprocess.run([Path(sys.executable).parent / program, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_module_says_what_it_is():
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text())), path
    for path in [*ROOT.rglob("workflow/**/*.smk"), *MODULES]:
        assert "TO DESCRIBE" not in path.read_text(), path
    assert (ROOT / "Snakefile").read_text().count("\n") <= 50


def public_functions(tree):
    """Yield the functions and methods of a module that others may call, with their names; constructors as well."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and (item.name == "__init__" or not item.name.startswith("_")):
                    yield f"{node.name}.{item.name}", item


def test_every_public_function_is_annotated():
    bare = []
    for path in MODULES:
        for name, function in public_functions(ast.parse(path.read_text())):
            found = function.args
            arguments = [*found.posonlyargs, *found.args, *found.kwonlyargs, found.vararg, found.kwarg]
            whole = all(item.annotation or item.arg in ("self", "cls") for item in arguments if item)
            if not whole or not (function.returns or name.endswith("__init__")):
                bare.append(f"{path.relative_to(SRC)}: {name}")
    assert not bare


def late_imports(text):
    """Yield line numbers of the imports inside functions."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)]
    yield from sorted({node.lineno for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)})


def test_imports_inside_functions_are_few_and_give_their_reason():
    """It may only spare a command a slow library. A comment on it or above it says which, or one for the whole file."""
    found, silent = [], []
    for path in MODULES:
        lines = path.read_text().splitlines()
        told = any(re.match("# .* import", line) for line in lines)
        for number in late_imports(path.read_text()):
            found.append(f"{path.relative_to(SRC)}:{number}")
            above = number - 2
            while re.match(r"\s+(import|from) ", lines[above]) and "#" not in lines[above]:
                above -= 1
            if not told and "#" not in lines[above] + lines[number - 1]:
                silent.append(found[-1])
    assert not silent
    assert len(found) <= 25, found


def test_a_plan_is_made_without_what_training_and_plotting_need():
    modules = ("scaling.rules", "scaling.recipe", "workloads.registry", "workloads.data.registry", "experiments.plan")
    modules += ("experiments.cost", "analysis.figures.registry")
    heavy = {"torch", "pandas", "pyarrow", "matplotlib", "seaborn", "transformers"}
    script = f"import sys, {', '.join(f'adasde.{module}' for module in modules)}; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# Packaging


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Names of the files in the source distribution and in the wheel, built from a copy."""
    folder = tmp_path_factory.mktemp("packages")
    copy = folder / "copy"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.name.startswith(".") or path.name in ("results", "figures"):
            continue
        if path.is_dir():
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(path, copy)
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    pip = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "..", "."]
    for command in (["-c", build], pip):
        done = subprocess.run([sys.executable, *command], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        return names, set(archive.namelist())


def sources():
    """Files of the package, as paths below src."""
    found = {path.relative_to(SRC) for path in SRC.rglob("*") if path.is_file()}
    return {str(path) for path in found if not {"__pycache__", "adasde.egg-info"} & set(path.parts)}


def test_the_wheel_holds_the_package_and_nothing_else(packages):
    _, wheel = packages
    facts = {name for name in wheel if name.startswith(f"adasde-{PROJECT['version']}.dist-info/")}
    assert {Path(name).name for name in facts} == {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "LICENSE")
    }
    assert wheel - facts == sources()
    assert {"adasde/py.typed", "adasde/experiments/throughput.csv", "adasde/analysis/author_curves.csv"} <= wheel


def test_the_source_distribution_holds_what_builds_the_wheel_and_nothing_else(packages):
    names, _ = packages
    made = {name for name in names if "egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - made == {f"src/{name}" for name in sources()} | {
        *("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
    }


def test_there_is_no_link_in_the_package():
    assert not [path for path in SRC.rglob("*") if path.is_symlink()]
