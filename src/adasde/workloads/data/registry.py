"""Registry of the data sets. Their arrays are prepared once and shared by all jobs."""

import hashlib
import json
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from adasde.common import MALFORMED, InputError, atomic, check_regular, read_text
from adasde.workloads.base import Dataset, Form
from adasde.workloads.data.entries import Corpus, Glue, ImageNet, Source, classified, images, texts
from adasde.workloads.data.fetch import Debian, File, FileDataset, Mirror, Package

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 1 << 30  # bytes of an array beyond which only samples of it are verified when it is loaded
SAMPLES, SAMPLE = 64, 1 << 16  # number of these samples, and bytes of each

WIKIPEDIA = "CC BY-SA 3.0 and GFDL (Wikipedia)"

FASHION_MNIST = FileDataset(
    name="fashion-mnist",
    licence="MIT (Zalando SE)",
    download_bytes=30_900_000,
    prepared_bytes=54_950_000,
    train_size=60_000,
    test_size=10_000,
    # Hashes of the decompressed idx files, since Debian compresses them anew.
    files=tuple(
        File(f"{name}-ubyte.gz", sha256, decompressed=True)
        for name, sha256 in {
            "train-images-idx3": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        }.items()
    ),
    sources=(
        Debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
        Mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
        Mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"),
    ),
    arrays="adasde.workloads.data.images:fashion_mnist",
    forms=images(1, 28, 28),
)

CIFAR_10 = FileDataset(
    name="cifar-10",
    licence="none stated; cite Krizhevsky 2009",
    download_bytes=170_498_071,
    prepared_bytes=184_380_000,
    train_size=50_000,
    test_size=10_000,
    files=(File("cifar-10-python.tar.gz", "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),),
    sources=(Mirror("https://www.cs.toronto.edu/~kriz/"),),
    arrays="adasde.workloads.data.images:cifar10",
    forms=images(3, 32, 32),
)

WIKI_MINI = FileDataset(
    name="wiki-mini",
    licence=WIKIPEDIA,
    download_bytes=1_725_000,
    prepared_bytes=3_960_000,
    train_size=1_041_211,
    test_size=105_877,
    files=(
        File(
            "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
            "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
        ),
    ),
    sources=(Package("gensim", "test/test_data"),),
    arrays="adasde.workloads.data.wikipedia:wiki_mini",
    forms=texts("train", "validation", "test") | classified("paragraphs-train", "paragraphs-test", labels="uint8"),
    unit="tokens",
)

WIKITEXT = ("Salesforce/wikitext", "wikitext-103-raw-v1", "b08601e04326c79dfdd32d625aee71d232d685c3")
WIKITEXT_ROWS = {"train": 1_801_350, "validation": 3_760, "test": 4_358}
WIKITEXT_SHA256 = {
    "train-00000-of-00002.parquet": "74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212",
    "train-00001-of-00002.parquet": "ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720",
    "validation-00000-of-00001.parquet": "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c",
    "test-00000-of-00001.parquet": "5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91",
}
WIKIPEDIA_REVISION = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
GPT2 = ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", 50_257)
ROBERTA = ("FacebookAI/roberta-large", "722cf37b1afa9454edce342e7895e588b6ff1d59", 50_265)

WIKITEXT_103 = Corpus(
    name="wikitext-103",
    licence=WIKIPEDIA,
    download_bytes=315_500_000,
    train_size=117_900_000,
    test_size=280_000,
    tokenizer=GPT2,
    sources={
        split: (Source(split, *WIKITEXT, split, rows, tuple(WIKITEXT_SHA256.items()), lines=True),)
        for split, rows in WIKITEXT_ROWS.items()
    },
)

WIKI_BOOKS = Corpus(
    name="wiki-books",
    licence=f"{WIKIPEDIA}; none stated (BookCorpus)",
    download_bytes=14_500_000_000,
    train_size=6_000_000_000,
    test_size=6_000_000,
    tokenizer=ROBERTA,
    sources={
        "train": (
            Source("wikipedia", "wikimedia/wikipedia", "20231101.en", WIKIPEDIA_REVISION, "train", rows=6_407_814),
            # A row is a sentence, and nothing says where a book ends.
            Source("bookcorpus", "rojagtap/bookcorpus", "default", "main", "train", rows=74_004_228, joined=1000),
        )
    },
)

GLUE = tuple(
    Glue(config, columns, train, test, size, ROBERTA, **options)
    for config, columns, train, test, size, options in (
        ("cola", ("sentence",), 8_551, 1_043, 377_000, {}),
        ("sst2", ("sentence",), 67_349, 872, 3_300_000, {}),
        ("mrpc", ("sentence1", "sentence2"), 3_668, 408, 1_030_000, {}),
        ("stsb", ("sentence1", "sentence2"), 5_749, 1_500, 760_000, {"regression": True}),
        ("qqp", ("question1", "question2"), 363_846, 40_430, 73_000_000, {}),
        ("mnli", ("premise", "hypothesis"), 392_702, 9_815, 57_000_000, {"validation": "validation_matched"}),
        ("qnli", ("question", "sentence"), 104_743, 5_463, 19_300_000, {}),
        ("rte", ("sentence1", "sentence2"), 2_490, 277, 900_000, {}),
    )
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (FASHION_MNIST, CIFAR_10, WIKI_MINI, WIKITEXT_103, WIKI_BOOKS, *GLUE, ImageNet())
}


def dataset_named(name: str) -> Dataset:
    """Return the registry entry called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in DATASETS:
        raise InputError(f"data = {name!r}: must be one of {', '.join(DATASETS)}")
    return DATASETS[name]


def prepare(name: str, root: str | Path, packed: bool = False) -> Path:
    """Fetch and prepare what is missing of a data set; return its folder under ``root``, with all arrays in place.

    With ``packed``, its files go into one array per split as well: a cluster's file system copes better with few large
    files than with many small ones. Each array and, last, the manifest appear whole. If two processes prepare at once,
    the second waits and finds the work done. InputError if a file cannot be had.
    """
    dataset = dataset_named(name)
    if packed:
        dataset = dataset.packed_form()
    folder = Path(root, name)
    if not _intact(dataset, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # the system releases it when the process ends, however it does
            if not _intact(dataset, folder):
                _make(dataset, folder)
    return folder


def _make(dataset, folder):
    """Write the arrays of a data set and, when all are there, the manifest that names them."""
    arrays = {}
    for array in dataset.make(folder):
        path = folder / f"{array}.npy"
        content = np.load(path, mmap_mode="r")
        arrays[array] = {"sha256": _sha256(path), "shape": list(content.shape), "dtype": str(content.dtype)}
        if path.stat().st_size > LARGE:
            arrays[array]["sampled"] = _sampled(path)
    facts = {"name": dataset.name, "licence": dataset.licence, "files": dataset.facts(folder)}
    with atomic(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps({**facts, "arrays": arrays}, indent=1) + "\n")
        # Removed before the manifest appears: it must not be believed once arrays have been altered.
        (folder / "progress.json").unlink(missing_ok=True)


def load_arrays(name: str, root: str | Path) -> "dict[str, Tensor]":
    """Map the arrays of a prepared data set into memory, which processes share; return them by name.

    Every array is verified. Those larger than 1 GiB are verified by their size and 64 samples of 64 KiB, since every
    job reads them; `prepare` verifies them whole. InputError names one that is missing or altered, and the command that
    mends it.
    """
    import torch  # which planning does without

    dataset = dataset_named(name)
    folder = Path(root, dataset.name)
    mend = f"run `{shlex.join(['adasde', 'data', name, '--data', str(root)])}`"
    try:
        arrays = _arrays(dataset, folder)
    except InputError as error:
        raise InputError(f"{error}; {mend}") from error
    except FileNotFoundError as error:
        raise InputError(f"{folder}: not prepared; {mend}") from error
    tensors = {}
    for array, facts in arrays.items():
        path = folder / f"{array}.npy"
        large = "sampled" in facts
        if not path.exists() or (_sampled(path) != facts["sampled"] if large else _sha256(path) != facts["sha256"]):
            raise InputError(f"{path}: missing or altered; {mend}")
        # Copy-on-write gives torch a writable buffer. Nobody writes, so the pages stay shared. Linux refuses
        # copy-on-write for an array larger than the memory.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            tensors[array] = torch.from_numpy(np.load(path, mmap_mode="r" if large else "c"))
    return tensors


def _intact(dataset, folder):
    """Whether every array is there, unaltered and of the form that is made now."""
    try:
        arrays = _arrays(dataset, folder)
        return all(_sha256(folder / f"{name}.npy") == facts["sha256"] for name, facts in arrays.items())
    except (OSError, InputError):
        return False


def _arrays(dataset, folder):
    """Return what the manifest says of each array. InputError if it is none, or if different code made other arrays."""
    try:
        arrays = json.loads(read_text(folder / "manifest.json"))["arrays"]
        if any(not isinstance(facts["sha256"], str) for facts in arrays.values()):
            raise ValueError("a digest is not text")
        found = {name: Form(str(facts["dtype"]), tuple(facts["shape"][1:])) for name, facts in arrays.items()}
    except MALFORMED as error:
        raise InputError(f"{folder}: not prepared, or with a damaged manifest") from error
    for name, form in dataset.forms.items():
        if found.get(name) != form:
            there = "no such array" if name not in found else _words(found[name])
            raise InputError(f"{folder}: prepared by different code ({name}: {there}, and not {_words(form)})")
    return arrays


def _words(form):
    return f"items of {form.dtype} {list(form.item)}" if form.item else f"numbers of {form.dtype}"


def _sha256(path):
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sampled(path):
    """Return the SHA-256 of a file's size and of evenly spread samples, with the first and the last bytes."""
    check_regular(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLE) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.hexdigest()
