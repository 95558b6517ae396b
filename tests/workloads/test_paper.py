"""The paper's own tasks on small files of exactly the real forms: two steps, a checkpoint, the rest, evaluations."""

import math
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from adasde.common import Stopped
from adasde.experiments.artifacts import rows_digest
from adasde.experiments.plan import plan
from adasde.experiments.specs import Finetune, spec_of
from adasde.scaling import gradient_noise
from adasde.scaling.documents import read_document
from adasde.training.checkpoint import read_weights
from adasde.training.loop import train
from adasde.workloads import glue, imagenet, language, vision
from adasde.workloads.data.entries import Corpus
from adasde.workloads.data.registry import DATASETS, load_arrays, prepare
from adasde.workloads.data.text import SPECIAL
from adasde.workloads.glue import load
from adasde.workloads.registry import load_workload
from conftest import ROOT
from workloads.archives import cifar_archive, prepare_cifar
from workloads.texts import parquet, prose

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def step_by_step(monkeypatch):
    """Runs can be stopped after every step, not only after some."""
    monkeypatch.setattr("adasde.training.loop.CHUNK", 1)


@pytest.fixture(scope="module")
def specs():
    return plan(read_document(ROOT / "workflow/config/paper.yaml")).runs


def steps(spec, size, count, **changes):
    """The spec cut to ``count`` steps of ``size`` examples on a CPU, evaluated in the middle and at the end."""
    kept = {
        key: value for key, value in spec.document.items() if key not in ("device", "engine", "processes", "precision")
    }
    if spec.micro_batch is not None:
        kept["micro_batch"] = max(1, size // 2)
    half, whole = size * (count // 2), size * count
    own = {"batch_size": size, "samples": whole, "evaluate": [half, whole], **changes}
    return spec_of({**kept, **own, "noise": [0, *own["evaluate"]] if spec.noise else []})


def trained(spec, task, path, **options):
    """Rows of a run that is stopped after its first step and goes on from its checkpoint."""
    with pytest.raises(Stopped):
        train(spec, task, path, stopping=lambda: True)
    rows, _ = train(spec, task, path, every=math.inf, **options)
    path.unlink()  # gigabytes
    return rows


def weights(task):
    """Number of weights of the task's model."""
    with torch.device("meta"):  # no need to draw them
        return sum(weight.numel() for weight in task.model().parameters())


def last(rows):
    """Last (step, value) of every metric of a run that did not diverge."""
    found = {row[3]: (row[1], row[4]) for row in rows}
    assert "diverged" not in found
    return found


@pytest.mark.parametrize("name", ["vgg16-rmsprop", "resnet56-adam", "resnet50-adam", "svag-vgg16-adam"])
def test_cifar_10(name, specs, tmp_path, monkeypatch):
    content, _ = cifar_archive()
    prepare_cifar(content, tmp_path, monkeypatch)
    monkeypatch.setattr(vision, "NOISE_CHUNK", 10)
    spec = specs[f"{name}.svag.l2.s0" if name.startswith("svag") else f"{name}.sqrt.k1.s0"]
    assert (spec.frozen != "none") == ("vgg16" in name)
    spec = steps(spec, 4, 2)
    task = vision.load(spec.workload, load_arrays("cifar-10", tmp_path))
    assert task.size == 20
    rows = trained(spec, task, tmp_path / "checkpoint")
    assert rows_digest(rows) == rows_digest(train(spec, task)[0])
    assert last(rows)["test_loss"][0] == 2 * spec.ell**2
    noise = {"noise_trace", "speed_k16", "persistent_speed_k16"} if spec.noise else set()  # baselines measure it
    assert {"train_loss", "test_accuracy", "squared_norm"} | noise <= last(rows).keys()


def test_imagenet(specs, root, monkeypatch):
    prepare("imagenet", root)
    monkeypatch.setattr(imagenet, "NOISE_CHUNK", 14)
    monkeypatch.setattr(gradient_noise, "KAPPAS", (16,))
    spec = steps(specs["imagenet-adam.sqrt.k1.s0"], 4, 2, evaluate=[8])
    task = load_workload(spec.workload, root)
    assert weights(task) == 25_557_032
    rows = trained(spec, task, root / "checkpoint")
    assert rows_digest(rows) == rows_digest(train(spec, task)[0])
    assert last(rows)["test_accuracy"][0] == 2


def tokenizer(path, size, special):
    """A tokenizer.json of as many tokens as the real one, with special ones at their places; most are never used."""
    alphabet = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    places = {number: token for token, number in special.items()}
    known = {places.get(n) or next(alphabet, f"idle {n}"): n for n in range(size)}
    tokenizer = Tokenizer(models.BPE(known, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


@pytest.fixture
def few(monkeypatch):
    """Evaluations of large models on few sequences, and without the predictions, which take a core a minute."""
    monkeypatch.setattr(gradient_noise.Gradient, "speeds", lambda self, *_: {})
    monkeypatch.setattr(language, "VALIDATION", 1)
    for module in (language, glue):
        for name, count in {"SUBSET": 2, "GRADED": 2, "NOISE_CHUNK": 1, "CHUNK": 1}.items():
            monkeypatch.setattr(module, name, count)


def smaller(name, monkeypatch, **changes):
    """The data set ``name`` in the registry, but of fewer rows, whose number and hashes nobody knows."""
    entry = DATASETS[name]
    if isinstance(entry, Corpus):
        changes["sources"] = {
            split: tuple(replace(source, rows=None, sha256=()) for source in fetch)
            for split, fetch in entry.sources.items()
        }
    monkeypatch.setitem(DATASETS, name, replace(entry, **changes))


def test_gpt_2_on_wikitext(specs, tmp_path, monkeypatch, few):
    folder = tmp_path / "wikitext-103/sources"
    tokenizer(folder / "tokenizer.json", 50_257, {"<|endoftext|>": 50_256})
    for split, articles in (("train", 6), ("validation", 1), ("test", 1)):
        lines = [line for n in range(articles) for line in (f" = Title {n} = \n", f" {prose(n, 400)} \n")]
        parquet(folder / split / f"{split}-00000-of-00001.parquet", [{"text": line} for line in lines])
    smaller("wikitext-103", monkeypatch)
    prepare("wikitext-103", tmp_path)
    spec = steps(specs["gpt2-adam.sqrt.k1.s0"], 1, 2, evaluate=[2])
    task = language.load(spec.workload, load_arrays("wikitext-103", tmp_path))
    assert task.sequences.shape[1] == 1025
    assert weights(task) == 124_439_808
    rows = trained(spec, task, tmp_path / "checkpoint")
    (_, start), (step, end) = rows_of(rows, "log_perplexity")
    assert start == pytest.approx(math.log(50_257), rel=0.05)  # on text of few and repeated tokens
    assert (step, end < start) == (2, True)


def rows_of(rows, metric):
    return [(row[1], row[4]) for row in rows if row[3] == metric]


def test_roberta_large_on_wiki_and_books_and_glue(specs, tmp_path, monkeypatch, few):
    special = {token: number for number, token in enumerate(SPECIAL[:4])} | {"<mask>": 50_264}
    for name in ("wiki-books", "glue-rte"):
        tokenizer(tmp_path / name / "sources/tokenizer.json", 50_265, special)
    for source, column in (("wikipedia", {"id": "1", "url": "u", "title": "T"}), ("bookcorpus", {})):
        rows = [{**column, "text": prose(n, 40)} for n in range(20)]
        parquet(tmp_path / f"wiki-books/sources/{source}/0000.parquet", rows)
    smaller("wiki-books", monkeypatch, held_out=3)
    for split, count in (("train", 8), ("validation", 4)):
        pairs = [{"sentence1": prose(n, 9), "sentence2": prose(50 + n, 9)} for n in range(count)]
        rows = [{**pair, "label": n % 2, "idx": n} for n, pair in enumerate(pairs)]
        parquet(tmp_path / f"glue-rte/sources/{split}/{split}-00000-of-00001.parquet", rows)
    smaller("glue-rte", monkeypatch, train_size=8, test_size=4)
    for name in ("wiki-books", "glue-rte"):
        prepare(name, tmp_path)

    spec = steps(specs["roberta-adam.sqrt.k1.s0"], 2, 2, evaluate=[4])
    task = language.load(spec.workload, load_arrays("wiki-books", tmp_path))
    assert weights(task) == 355_018_841
    rows = trained(spec, task, tmp_path / "checkpoint", weights=tmp_path / "weights")
    assert last(rows)["log_perplexity"][0] == 2

    pretrained = read_weights(tmp_path / "weights", spec.hash)
    spec = next(
        run for run in specs.values() if isinstance(run, Finetune) and run.workload == "glue-rte" and run.parent
    )
    spec = steps(spec, 2, 2, evaluate=[4])
    task = load(spec.workload, load_arrays("glue-rte", tmp_path), pretrained)
    rows, _ = train(spec, task)  # the network that was stopped above, but for its head
    assert last(rows)["test_accuracy"][0] == 2
