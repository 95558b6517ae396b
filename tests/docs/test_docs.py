"""README and docs: the site builds without a warning, every link leads somewhere, and examples do what they show."""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
import yaml

import adasde as package
from adasde import sde, workloads
from adasde.analysis.claims.report import read_claims
from adasde.analysis.summary import five_lines
from adasde.experiments.documents import merged
from adasde.experiments.plan import plan
from adasde.workloads import metrics
from conftest import ROOT, slow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = re.search(r"figures/reference/(\w+)/", PAGES[0].read_text())[1]  # the scale whose evidence the pages show
BLOCK = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.M | re.S)
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (package, sde, workloads, metrics)
    for name in module.__all__
}


def members(kind):
    """Names of the public methods and properties that a class has, itself or from a base of ours."""
    for name in dir(kind):
        owner = next((base for base in kind.__mro__ if name in vars(base)), object)
        found = inspect.getattr_static(kind, name)
        ours = owner.__module__.startswith("adasde") and (inspect.isroutine(found) or isinstance(found, property))
        if ours and not name.startswith("_"):
            yield name


def functions():
    """Yield the public functions, constructors and methods with their full names."""
    for place, found in PUBLIC.items():
        if inspect.isclass(found):
            yield from ((f"{place}.{name}", getattr(found, name)) for name in members(found))
        if not inspect.isclass(found) or inspect.isfunction(found.__init__):  # or it takes no arguments of its own
            yield place, found


FUNCTIONS = {name: function for name, function in functions() if callable(function)}  # properties take no arguments


def described(text, source=""):
    """Names of the arguments that a docstring describes, and of the fields with a comment of their own."""
    part = re.search(r"^Args:\n((?: .*\n|\n)+)", f"{text}\n", re.M)
    return {*re.findall(r"^    (\w+): ", part[1] if part else "", re.M), *re.findall(r"^    (\w+): .*#:", source, re.M)}


def blocks(page, kind):
    """The code blocks of one kind on a page. Those of kind `sh` take minutes or need a cluster, and are not run."""
    return [text for found, text in BLOCK.findall(page.read_text()) if found == kind]


def pages_with(kind, slow_ones=()):
    pages = [slow(page) if page.stem in slow_ones else page for page in PAGES if blocks(page, kind)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the built site; building it shows that there is no warning."""
    folder = tmp_path_factory.mktemp("site")
    for command in ("docs/generate.py", f"-m sphinx -W --keep-going -q -d {folder}/doctrees docs {folder}/html"):
        done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / "html"


class Links(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        self.targets += [values[name] for name in ("href", "src") if values.get(name)]


@pytest.mark.slow  # the site runs the tutorials
def test_every_link_of_the_site_leads_somewhere(site):
    pages = {path: Links(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(pages) > 12
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            assert parts.scheme in ("", "https"), f"{path.name}: {target}"
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert file.exists(), f"{path.name}: {target}"
            if parts.fragment and file in pages:
                assert unquote(parts.fragment) in pages[file].anchors, f"{path.name}: {target}"


@pytest.mark.slow  # the site runs the tutorials
def test_the_site_needs_no_network(site):
    for path in site.glob("*.html"):
        assert not re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="https?:', path.read_text())


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_files_that_a_page_links_to_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("https:", "generated/")):
            assert (page.parent / target).exists(), target


def test_every_file_and_target_that_a_page_names_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text()
        for path in re.findall(r"`((?:src|tests|docs|workflow|envs|examples|benchmarks)/[\w./-]+)`", text):
            assert (ROOT / path).exists() or "_build" in path, f"{page.name}: {path}"
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
            assert target in targets, f"{page.name}: make {target}"


@pytest.mark.slow  # the site runs the tutorials
def test_the_site_describes_every_public_name(site):
    anchors = Links(site / "generated/api.html").anchors
    assert PUBLIC.keys() <= anchors
    for place, found in PUBLIC.items():
        if inspect.isclass(found):
            assert {f"{place}.{name}" for name in members(found)} <= anchors
    assert {"adasde.NoiseMonitor.largest_kappa", "adasde.MicroBatchNoise.history"} <= anchors


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_describes_every_argument(name):
    function = FUNCTIONS[name]
    source = inspect.getsource(function) if inspect.isclass(function) else ""
    assert set(inspect.signature(function).parameters) - {"self"} <= described(inspect.getdoc(function), source)


@pytest.mark.slow  # the site runs the tutorials
def test_the_site_shows_every_figure_and_claim(site):
    text = (site / "generated/figures.html").read_text()
    for name in pd.read_csv(ROOT / f"results/reference/{SHOWN}/claims.csv")["id"]:
        assert f">{name}<" in text
    for path in (ROOT / f"figures/reference/{SHOWN}").glob("*.png"):
        assert f"{path.name}" in text


@pytest.mark.slow  # the site runs the tutorials
def test_the_glossary_has_every_metric(site):
    """Those of the metrics module's docstring."""
    entries = re.findall(r"^  ([a-z][\w<>]*(?:, \w+)*)(?= |$)", metrics.__doc__, re.M)
    names = {name for entry in entries for name in entry.split(", ")}
    assert {"train_loss", "spearman", "speed_k<kappa>", "diverged"} <= names
    text = (site / "glossary.html").read_text()
    for name in names:
        assert f">{name.replace('<', '&lt;').replace('>', '&gt;')}<" in text, name


TUTORIALS = sorted(path.stem for path in (ROOT / "docs/tutorials").glob("*.py"))


@pytest.mark.slow  # the site runs the tutorials
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_is_in_the_menu_with_its_figures(site, name):
    page = Links(site / f"generated/tutorials/{name}.html")
    assert sum(target.endswith(".png") for target in page.targets) >= 2
    assert f"generated/tutorials/{name}.html" in Links(site / "index.html").targets
    assert all((site / "generated/tutorials" / target).exists() for target in page.targets if target.endswith(".png"))


@pytest.mark.slow  # the site runs the tutorials
def test_the_tutorials_show_what_they_say(site):
    assert len(TUTORIALS) == 3

    def numbers(name, pattern):
        found = re.findall(pattern, (ROOT / f"docs/generated/tutorials/{name}.md").read_text())
        return [float(value) for value in found]

    # The gaps of the rules at batch 64 and 256: those of the square root are a quarter of the others, or less.
    gaps = numbers("finished_recipe", r"batch +\d+: ([+-][\d.]+) nats")
    assert len(gaps) == 6
    assert max(map(abs, gaps[:2])) < min(gaps[3], gaps[5]) / 4
    right, carried, kept = numbers("mid_training", r"loss ([\d.]+); first step")
    assert abs(carried - right) < abs(kept - right) / 2
    usual, longer, _ = numbers("mid_training", r"first step ([\d.]+) lr long")
    base, batch = numbers("mid_training", r"batch (\d+) *: loss")
    assert longer / usual == pytest.approx((batch / base) ** 0.5, rel=0.1)
    early, late = numbers("critical_batch", r"critical batch (\d+)\n")
    assert early < 40 < late
    decay, ramp = numbers("critical_batch", r"loss ([\d.]+) after \d+ steps")
    assert ramp == pytest.approx(decay, rel=0.005)


@pages_with("python", slow_ones=["library"])
def test_the_python_of_a_page_runs(page, capsys):
    """All of it, from top to bottom, as a reader would type it."""
    names = {}
    for code in blocks(page, "python"):
        if "simulate_sde" not in code:
            exec(code, names)
            continue
        capsys.readouterr()
        exec(code.replace("10_000", "100_000"), names)
        discrete, nearer, limit = (float(first) for first in re.findall(r"tensor\(\[([\d.]+)", capsys.readouterr().out))
        assert limit < nearer < discrete, "SVAG is not between the algorithm and the SDE"


@pages_with("console")
def test_a_command_prints_what_a_page_shows(page):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for text in blocks(page, "console"):
        for session in re.split(r"^(?=\$ )", text, flags=re.M)[1:]:
            command, _, shown = session.removeprefix("$ ").partition("\n")
            done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, env=environment)
            assert done.stdout == shown, command


@pages_with("yaml")
def test_the_yaml_of_a_page_is_accepted(page, tmp_path, adasde):
    """A recipe is scaled, and experiments are planned, laid over the smoke config."""
    for text in blocks(page, "yaml"):
        path = tmp_path / "page.yaml"
        path.write_text(text)
        if "experiments" in yaml.safe_load(text):
            assert plan(merged([ROOT / "workflow/config/smoke.yaml", path])).runs
        else:
            assert adasde("scale", "recipe", path, "--to", 512).returncode == 0


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 200
    assert "$ adasde scale adam" in text
    assert all(line in text for line in five_lines(read_claims(ROOT / f"results/reference/{SHOWN}/claims.csv")))
    assert text.count("activate") == 1
