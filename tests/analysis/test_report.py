"""report.py: the page of a scale holds everything, once, and needs nothing else."""

from html.parser import HTMLParser

import pytest

from adasde.analysis import tables
from adasde.analysis.claims.evaluation import evaluate_claims
from adasde.analysis.claims.report import read_claims, write_claims
from adasde.analysis.figures import captions
from adasde.analysis.figures.registry import figure_runs
from adasde.analysis.report import LARGEST, PNG, write_report
from adasde.analysis.summary import five_lines
from adasde.common import InputError
from adasde.experiments.plan import plan
from analysis.runs import FAITHFUL, METRICS, write_runs

FIGURES = ["scaling-fashion-cnn-adam", "rules", "branch-cnn-adam", "map", "weak-order"]


class Page(HTMLParser):
    """Text, ids, links and sources of a page; it must close what it opens."""

    def __init__(self, text):
        super().__init__()
        self.text, self.ids, self.links, self.sources, self.open = "", [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def scale(tmp_path, spec, config):
    """Tables and pictures of the smoke config; what write_report takes of them."""
    planned = plan(config | {"figures": FIGURES})
    table, simulations, runs = tables.collect(write_runs(tmp_path / "runs", spec, FAITHFUL, metrics=METRICS))
    tables.write(tmp_path, table, simulations, runs.assign(peak_bytes=5e8, torch="2.0 <x>"))
    write_claims(evaluate_claims(table), tmp_path / "claims.csv")
    (tmp_path / "figures").mkdir()
    for figure in planned.figures:
        (tmp_path / "figures" / f"{figure}.png").write_bytes(PNG + figure.encode())
    return (
        planned,
        figure_runs(planned),
        tmp_path,
        tmp_path / "figures",
        tmp_path / "report.html",
        ["a.yaml", str(tmp_path / "my own.yaml")],
    )


def test_the_page_holds_every_figure_and_every_claim(scale, monkeypatch):
    monkeypatch.chdir(scale[2])
    planned, shown, folder, _, out, _ = scale
    write_report(*scale)
    page = Page(out.read_text())
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} - {"data:,"} <= set(page.ids)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == len(planned.figures)
    words = " ".join(page.text.split())
    for figure in planned.figures:
        title, paragraphs = captions.caption(figure)
        assert {figure, f"zoom-{figure}"} <= set(page.ids)
        assert captions.label(planned, shown[figure], figure) in words
        for part in (title, *paragraphs, *captions.setting(planned, shown[figure]).values()):
            assert part.replace("`", "") in words
        assert f"snakemake --cores 1 figures/{figure}.png --configfile a.yaml 'my own.yaml'" in words
    claims = read_claims(folder / "claims.csv")
    for claim in claims.itertuples():
        assert claim.id in words
        assert claim.note in words
        assert words.count(claim.statement) >= 2 - (claim.figure not in FIGURES)  # of its figure, and of all claims
    assert f"all {len(claims)}" in words
    assert words.count("reproduced") > len(claims)
    assert "15, 0.00 hours in all, up to 0.5 GB" in words
    assert "2.0 <x>" in words
    assert str(folder) not in page.text


def test_the_answer_comes_first_and_then_the_map(scale):
    write_report(*scale)
    text = scale[4].read_text()
    words = " ".join(Page(text).text.split())
    lines = [" ".join(line.replace("**", "").split()) for line in five_lines(read_claims(scale[2] / "claims.csv"))]
    places = [words.index(line) for line in lines]
    assert places == sorted(places)
    order = [text.index(f'id="{part}"') for part in ("answer", "map", "runs", "kinds", "rules", "claims")]
    assert order == sorted(order)


@pytest.mark.parametrize("name", ["runs.csv", "claims.csv", "figures/map.png"])
def test_what_is_missing_is_named(scale, name):
    path = scale[2] / name
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: no such file; Snakemake makes it.* by `adasde"):
        write_report(*scale)
    assert not scale[4].exists()


@pytest.mark.parametrize(("start", "size"), [(b"hello", 5), (PNG, 2**40)], ids=["text", "huge"])
def test_what_is_no_picture_is_named(start, size, scale):
    path = scale[3] / "map.png"
    path.write_bytes(start)
    with path.open("rb+") as file:
        file.truncate(size)
    with pytest.raises(
        InputError, match=f"map.png: not a picture in PNG of at most {LARGEST:,} bytes; make it again, by"
    ):
        write_report(*scale)
    assert not scale[4].exists()
