"""The paper's own tasks on small files of exactly the real forms: two steps, a checkpoint, the rest, evaluations."""

import hashlib
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from adasde import data, plan, schema, store, tasks
from adasde.data import sources
from adasde.data.text import SPECIAL
from adasde.tasks import classification, language, vision
from adasde.train import train
from conftest import ROOT
from test_data import cifar_archive
from test_imagenet import archives, mini, root  # noqa: F401, since they are fixtures
from test_text import parquet, prose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def specs():
    return plan.plan(schema.read(ROOT / "workflow/config/paper.yaml")).runs


def steps(spec, size, count, **changes):
    """The spec cut to ``count`` steps of ``size`` examples on a CPU, evaluated in the middle and at the end."""
    spec = {key: value for key, value in spec.items() if key not in ("device", "processes", "precision")}
    half, whole = size * (count // 2), size * count
    return {**spec, "batch_size": size, "samples": whole, "evaluate": [half, whole], **changes}


def interrupted(spec, task, path):
    """Rows of a run that stops in the middle and goes on from its checkpoint."""

    def stop(now, total):
        if now == total // 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(spec, task, path, every=0, report=stop)
    return train(spec, task, path, every=0)[0]


def check(whole, again):
    """Last (step, value) of every metric of a run that did not diverge, and is the same when interrupted."""
    assert store.digest(again) == store.digest(whole)
    last = {row[3]: (row[1], row[4]) for row in whole}
    assert "diverged" not in last
    return last


@pytest.mark.parametrize("name", ["vgg16-rmsprop", "resnet56-adam", "resnet50-adam", "svag-vgg16-adam"])
def test_cifar_10(name, specs, tmp_path, monkeypatch):
    content, _ = cifar_archive()
    file = sources.File("cifar-10-python.tar.gz", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(data.DATASETS, "cifar-10", replace(data.DATASETS["cifar-10"], files=(file,), sources=()))
    (tmp_path / "cifar-10/sources").mkdir(parents=True)
    (tmp_path / "cifar-10/sources" / file.name).write_bytes(content)
    data.prepare("cifar-10", tmp_path)
    monkeypatch.setattr(vision, "NOISE_CHUNK", 10)
    spec = specs[f"{name}.svag.l2.s0" if name.startswith("svag") else f"{name}.sqrt.k1.s0"]
    assert ("frozen" in spec) == ("vgg16" in name)
    spec = steps(spec, 4, 2)
    task = vision.load(spec["task"], data.load("cifar-10", tmp_path))
    assert task.size == 20
    whole, _ = train(spec, task)
    last = check(whole, interrupted(spec, task, tmp_path / "checkpoint"))
    assert last["test_loss"][0] == 2 * spec["ell"] ** 2
    assert {"train_loss", "test_accuracy", "noise_trace", "squared_norm", "speed_k16"} <= last.keys()


def test_imagenet(specs, root, monkeypatch):  # noqa: F811
    data.prepare("imagenet", root)
    spec = steps(specs["imagenet-adam.sqrt.k1.s0"], 4, 2)
    task = tasks.load(spec["task"], root)
    assert sum(weight.numel() for weight in task.model().parameters()) == 25_557_032
    whole, _ = train(spec, task)
    last = check(whole, interrupted(spec, task, root / "checkpoint"))
    assert last.keys() >= {"train_loss", "test_accuracy", "noise_trace", "squared_norm"}


def tokenizer(path, size, special):
    """A tokenizer.json with as many tokens as the real one, special ones at their places: others than bytes are idle."""
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
    """Evaluations of large models on few sequences."""
    monkeypatch.setattr(language, "VALIDATION", 1)
    for module in (language, classification):
        for name, count in {"SUBSET": 2, "NOISE_CHUNK": 1, "CHUNK": 1}.items():
            monkeypatch.setattr(module, name, count)


def smaller(name, monkeypatch, **changes):
    """The data set ``name`` in the registry, but of fewer rows, whose number and hashes nobody knows."""
    entry = data.DATASETS[name]
    if hasattr(entry, "sources"):
        changes["sources"] = {
            split: tuple(replace(source, rows=None, sha256=()) for source in sources)
            for split, sources in entry.sources.items()
        }
    monkeypatch.setitem(data.DATASETS, name, replace(entry, **changes))


def test_gpt_2_on_wikitext(specs, tmp_path, monkeypatch, few):
    folder = tmp_path / "wikitext-103/sources"
    tokenizer(folder / "tokenizer.json", 50_257, {"<|endoftext|>": 50_256})
    for split, articles in (("train", 6), ("validation", 1), ("test", 1)):
        lines = [line for n in range(articles) for line in (f" = Title {n} = \n", f" {prose(n, 400)} \n")]
        parquet(folder / split / f"{split}-00000-of-00001.parquet", [{"text": line} for line in lines])
    smaller("wikitext-103", monkeypatch)
    data.prepare("wikitext-103", tmp_path)
    spec = steps(specs["gpt2-adam.sqrt.k1.s0"], 1, 2)
    task = tasks.load(spec["task"], tmp_path)
    assert task.sequences.shape[1] == 1025
    assert sum(weight.numel() for weight in task.model().parameters()) == 124_439_808
    whole, _ = train(spec, task)
    last = check(whole, interrupted(spec, task, tmp_path / "checkpoint"))
    start = next(row[4] for row in whole if row[3] == "log_perplexity")
    assert start == pytest.approx(10.825, rel=0.03)  # ln 50,257, and what dropout and the embeddings add
    assert last["log_perplexity"][1] != start


def test_roberta_large_on_wiki_and_books_and_glue(specs, tmp_path, monkeypatch, few):
    special = {token: number for number, token in enumerate(SPECIAL[:4])} | {"<mask>": 50_264}
    for name in ("wiki-books", "glue-rte"):
        tokenizer(tmp_path / name / "sources/tokenizer.json", 50_265, special)
    for source, column in (("wikipedia", {"id": "1", "url": "u", "title": "T"}), ("bookcorpus", {})):
        rows = [{**column, "text": prose(n, 40)} for n in range(20)]
        parquet(tmp_path / f"wiki-books/sources/{source}/0000.parquet", rows)
    smaller("wiki-books", monkeypatch, held_out=3)
    for split, count in (("train", 8), ("validation", 4)):
        rows = [{"sentence1": prose(n, 9), "sentence2": prose(50 + n, 9), "label": n % 2, "idx": n} for n in range(count)]
        parquet(tmp_path / f"glue-rte/sources/{split}/{split}-00000-of-00001.parquet", rows)
    smaller("glue-rte", monkeypatch, train_size=8, test_size=4)
    for name in ("wiki-books", "glue-rte"):
        data.prepare(name, tmp_path)

    spec = steps(specs["roberta-adam.sqrt.k1.s0"], 2, 2)
    task = tasks.load(spec["task"], tmp_path)
    assert sum(weight.numel() for weight in task.model().parameters()) == 355_018_841
    whole, _ = train(spec, task, weights=tmp_path / "weights")
    last = check(whole, interrupted(spec, task, tmp_path / "checkpoint"))
    assert "log_perplexity" in last

    pretrained = store.read_weights(tmp_path / "weights", store.spec_hash(spec))
    spec = steps(next(run for run in specs.values() if run["task"] == "glue-rte" and "parent" in run), 2, 2)
    task = tasks.load(spec["task"], tmp_path, pretrained)
    whole, _ = train(spec, task)
    last = check(whole, interrupted(spec, task, tmp_path / "checkpoint"))
    assert "test_accuracy" in last
