"""The lock file, the conda environment, the style and structure of the code, and what a package of it holds."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from adasde.common import not_installed

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
# Libraries that come with another one.
PARTS = {
    "huggingface_hub": "datasets",
    "PIL": "torchvision",
    "pydantic_core": "pydantic",
    "snakemake_interface_logger_plugins": "snakemake",
}
DISTRIBUTIONS = packages_distributions()
MODULES = sorted(SRC.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_find_what_they_import(path):
    """They take too long to run here, and nothing else would notice that a name has moved."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), name.name


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


def names(requirements):
    return {Requirement(line).name for line in requirements}


def declared():
    """Names of the packages in pyproject.toml, with those of all extras."""
    return names([*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]) - {"adasde"}


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


def imported(path):
    """Yield modules outside of Python and adasde that a file imports, by the first part of their names."""
    for node in ast.walk(ast.parse(path.read_text())):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"adasde"}


def packages_of(module):
    """Names of the packages that bring a module."""
    found = {PARTS[module]} if module in PARTS else set(DISTRIBUTIONS[module])
    return {item.lower().replace("_", "-") for item in found}


def test_every_library_that_is_imported_is_declared():
    for path in MODULES:
        for name in imported(path):
            assert packages_of(name) & declared(), (path.name, name)


def test_the_core_is_torch_and_numpy_and_all_is_everything_for_users():
    assert names(PROJECT["dependencies"]) == {"numpy", "torch"}
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == EXTRAS.keys() - {"all", "dev", "docs"}


def test_a_missing_module_is_named_with_the_smallest_extra_that_brings_it():
    for name in {name for path in MODULES for name in imported(path)}:
        found = [extra for extra in EXTRAS if packages_of(name) & names(EXTRAS[extra]) and extra not in ("dev", "docs")]
        line = not_installed(ModuleNotFoundError(name=f"{name}.part"))
        extra = min(found, key=lambda extra: len(EXTRAS[extra]), default=None)
        comes = f"; it comes with adasde[{extra}]" if extra and name != "torch" else ""
        assert line == f"{name}: is not installed{comes}"


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
        pytest.param("mypy", marks=pytest.mark.slow),  # reads all of torch: a minute in a new environment
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
    """It may only spare a command a slow library, or the core one that may be missing.

    A comment on it or above it says which, or one for the whole file.
    """
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
    modules += ("experiments.plan_cost", "experiments.job_cost", "analysis.figures.registry")
    heavy = {"torch", "pandas", "pyarrow", "matplotlib", "seaborn", "transformers"}
    script = f"import sys, {', '.join(f'adasde.{module}' for module in modules)}; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# Packaging


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution and the wheel, built from a copy."""
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
    return source, wheel


@pytest.fixture(scope="module")
def packages(built):
    """Names of the files in the source distribution and in the wheel."""
    source, wheel = built
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


# An environment that has torch and numpy only

WORKFLOW = "pydantic: is not installed; it comes with adasde[workflow]; `adasde scale` works without"


def needed(*names):
    """Names of the installed packages among ``names`` and what they need."""
    found, waiting = set(), [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        if str(wanted) not in found:
            found.add(str(wanted))
            for line in map(Requirement, distribution(wanted.name).requires or ()):
                extras = [{"extra": extra} for extra in ("", *wanted.extras)]
                if not line.marker or any(map(line.marker.evaluate, extras)):
                    waiting.append(line)
    return {Requirement(line).name for line in found}


def install(wheel, folder, *options):
    """Install the wheel, and nothing from elsewhere, into the environment in ``folder``; return pip's last line."""
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--no-index", *options, wheel]
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    settings["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run([str(part) for part in pip], capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def light(built, tmp_path_factory):
    """An environment with the wheel, and with links to torch, numpy and what these need of other packages."""
    folder = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    for name in needed("torch", "numpy"):
        files = distribution(name).files
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution(name).locate_file(top))
    assert install(built[1], folder) == f"Successfully installed adasde-{PROJECT['version']}"
    return folder


def run_in(folder, *command):
    """Run a program of the environment in ``folder``, outside of the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [folder / "bin" / command[0], *command[1:]]
    return subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True)


USE = """
import torch, adasde
model, x = torch.nn.Linear(20, 2), torch.randn(400, 20)
y = torch.randint(2, (400,))
loss = lambda model, x, y: torch.nn.functional.cross_entropy(model(x), y)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.98, 0.99))
monitor = adasde.NoiseMonitor(model, optimizer, 16, loss, list(zip(x.split(20), y.split(20))), every=1)
loss(model, x, y).backward(), optimizer.step(), monitor(1)
print(monitor.gradient_noise_scale() > 0)
adasde.rescale(optimizer, kappa=4)
print(optimizer.param_groups[0]["lr"], [name for name in adasde.__all__ if not getattr(adasde, name)])
monitor.plot()
"""


def test_c4_the_wheel_needs_torch_and_numpy_only(light):
    done = run_in(light, "python", "-c", USE)
    assert done.stdout == "True\n0.002 []\n", done.stderr
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'matplotlib'"


@pytest.mark.parametrize("command", [("adasde",), ("python", "-m", "adasde")], ids=["adasde", "python -m adasde"])
def test_c4_a_batch_is_scaled_with_torch_and_numpy_only(light, command):
    (light / "recipe.json").write_text('{"optimizer": "adam", "lr": 1e-3, "batch_size": 256}')
    for arguments in (("adam", "--lr", "1e-3", "--batch-size", "256"), ("recipe", "recipe.json")):
        done = run_in(light, *command, "scale", *arguments, "--to", "1024")
        assert done.returncode == 0, done.stderr
        assert re.search(r"^lr +0.001 +0.002 ", done.stdout, re.M)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ("scale recipe recipe.yaml --to 1024", "yaml: is not installed; it comes with adasde[recipes]"),
        ("plan mini.yaml", WORKFLOW),
        ("data fashion-mnist", WORKFLOW),
        ("run --spec 1 --out run.parquet", WORKFLOW),
        ("claims results", WORKFLOW),
        ("figure rules --tables results --out rules.png", WORKFLOW),
    ],
)
def test_a_command_without_its_extra_names_it(light, arguments, missing):
    (light / "recipe.yaml").write_text("optimizer: adam\nlr: 1e-3\nbatch_size: 256\n")
    done = run_in(light, "adasde", *arguments.split())
    assert (done.returncode, done.stderr) == (2, f"adasde: error: {missing}\n")


def test_c21_the_oldest_torch_is_not_replaced(built, tmp_path):
    """What pip would install where torch and numpy are as old as they may be; only their metadata are there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (packages,) = tmp_path.glob("lib/*/site-packages")
    for requirement in map(Requirement, PROJECT["dependencies"]):
        (oldest,) = (specifier.version for specifier in requirement.specifier)
        facts = packages / f"{requirement.name}-{oldest}.dist-info"
        facts.mkdir()
        text = f"Metadata-Version: 2.1\nName: {requirement.name}\nVersion: {oldest}\n"
        (facts / "METADATA").write_text(text)
    assert install(built[1], tmp_path, "--dry-run") == f"Would install adasde-{PROJECT['version']}"
