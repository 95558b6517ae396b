"""Registry entries of text and ImageNet: what there is to know of them without the libraries that prepare them."""

from dataclasses import dataclass, replace

from adasde.workloads.base import Dataset, Form

TOKENIZER = {"tokenizer": Form("uint8")}


def images(*item: int) -> dict[str, Form]:
    """Return the arrays of images of this shape, as images.py makes them."""
    kinds = {"images": Form("uint8", item), "labels": Form("uint8")}
    return {f"{split}-{kind}": form for split in ("train", "test") for kind, form in kinds.items()}


def ragged(values: str, index: str, dtype: str) -> dict[str, Form]:
    """Return the arrays of items that lie back to back, as arrays.py describes them."""
    return {values: Form(dtype), index: Form("int64")}


def texts(*splits: str, vocabulary: int = 1 << 16) -> dict[str, Form]:
    """Return the arrays of text, as text.py describes them."""
    dtype, found = "uint16" if vocabulary <= 1 << 16 else "int32", dict(TOKENIZER)
    for split in splits:
        found |= ragged(f"{split}-tokens", f"{split}-index", dtype)
    return found


def classified(*names: str, labels: str) -> dict[str, Form]:
    """Return the arrays of texts with labels, as wikipedia.py describes them."""
    found: dict[str, Form] = {}
    for name in names:
        found |= {**ragged(name, f"{name}-index", "uint16"), f"{name}-labels": Form(labels)}
    return found


@dataclass(frozen=True)
class Source:
    """Parquet files of documents: on a hub, at a revision, or put by hand into the folder ``name``; see hub.py.

    A row's text is in the column ``text``. ``rows`` is the number of rows if it is known, ``sha256`` the known hashes
    of the files, by name. With ``lines`` a row is a line, and a line `` = Title = `` starts a document. Otherwise
    ``joined`` rows make a document; 1 if each row is a text of its own.
    """

    name: str
    repository: str
    config: str
    revision: str
    split: str
    rows: int | None = None
    sha256: tuple[tuple[str, str], ...] = ()
    lines: bool = False
    joined: int = 1


@dataclass(frozen=True)
class Corpus(Dataset):
    """A text data set too large for memory; sizes are in tokens, and approximate. See corpora.py.

    ``sources`` holds the sources of every split. If there are none for validation, one in ``held_out`` of the training
    documents is taken. ``tokenizer`` is (repository, revision, tokens in the vocabulary).
    """

    name: str
    licence: str
    download_bytes: int
    train_size: int
    test_size: int
    tokenizer: tuple[str, str, int]
    sources: dict[str, tuple[Source, ...]]
    held_out: int = 1000
    unit: str = "tokens, about"

    module = "adasde.workloads.data.corpora"
    tolerance = 0.3

    @property
    def forms(self) -> dict[str, Form]:
        """Its arrays."""
        return texts(*self.sources, "validation", vocabulary=self.tokenizer[2])

    @property
    def prepared_bytes(self) -> int:
        """Approximate bytes of its arrays: those of the tokens."""
        return (self.train_size + self.test_size) * (2 if self.tokenizer[2] <= 1 << 16 else 4)


@dataclass(frozen=True)
class Glue(Dataset):
    """A task of the GLUE benchmark: its ``columns`` of text, and its numbers of examples. See glue.py.

    Labels are classes, or numbers for a regression.
    """

    config: str
    columns: tuple[str, ...]
    train_size: int
    test_size: int
    download_bytes: int
    tokenizer: tuple[str, str, int]
    validation: str = "validation"
    regression: bool = False
    licence: str = "several; see the GLUE benchmark"
    unit: str = "examples"

    module = "adasde.workloads.data.glue"

    @property
    def forms(self) -> dict[str, Form]:
        """Its arrays."""
        labels = "float32" if self.regression else "int64"
        return TOKENIZER | classified("glue-train", "glue-test", labels=labels)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return f"glue-{self.config}"

    @property
    def prepared_bytes(self) -> int:
        """Approximate bytes of its arrays: tokens of two bytes take what compressed text does, place and label 16."""
        return self.download_bytes + 16 * (self.train_size + self.test_size)

    @property
    def sources(self) -> dict[str, Source]:
        """The source of every split's examples."""
        revision = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
        splits = {"train": "train", "test": self.validation}
        return {split: Source(of, "nyu-mll/glue", self.config, revision, of) for split, of in splits.items()}


@dataclass(frozen=True)
class ImageNet(Dataset):
    """ImageNet. It is not free to download: the user puts the images, or their archives, into ``sources``.

    See imagenet.py. ``packed`` images go into one array per split.
    """

    name: str = "imagenet"
    licence: str = "non-commercial research and education; see image-net.org"
    download_bytes: int = 154_644_969_000
    prepared_bytes: int = 154_700_000_000  # the unpacked images; the lists of files are 60 MB
    train_size: int = 1_281_167
    test_size: int = 50_000
    classes: int = 1000
    packed: bool = False
    unit: str = "images"

    module = "adasde.workloads.data.imagenet"

    @property
    def forms(self) -> dict[str, Form]:
        """Its arrays."""
        found: dict[str, Form] = {}
        for split in ("train", "test"):
            for kind in ("names", "jpegs") if self.packed else ("names",):
                found |= ragged(f"{split}-{kind}", f"{split}-{kind}-index", "uint8")
            found[f"{split}-labels"] = Form("int64")
        return found

    def packed_form(self) -> Dataset:
        """Return the entry whose images are packed."""
        return replace(self, packed=True)
