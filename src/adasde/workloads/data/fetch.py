"""Sources of a data set's files: tried in order, each file verified by SHA-256 and kept in a local cache.

A data set lives in one folder. ``sources/`` holds its verified files as they were fetched, and is the place to put a
file by hand. Beside it are the prepared arrays and ``manifest.json``, which is written last and says that all is there.
"""

import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory

from adasde.common import InputError, atomic, check_regular
from adasde.workloads.base import Dataset, Form
from adasde.workloads.data.arrays import save_arrays

log = logging.getLogger(__name__)

# Without a network every source fails within seconds.
APT = ("apt-get", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10")
MOST = 2**29  # bytes of a file's content, of those that are read at once
CONNECT, READ = 5, 20  # seconds that a download may take to connect, and between two of its parts


@dataclass(frozen=True)
class File:
    """One file of a data set and the SHA-256 of its content.

    With ``decompressed`` the file is gzip and the hash is that of the decompressed content, since archives compress
    files anew.
    """

    name: str
    sha256: str
    decompressed: bool = False

    def read(self, path: Path) -> bytes:
        """Return the verified content of ``path``; ValueError if it is not what the registry names."""
        check_regular(path)
        try:
            with (gzip.open if self.decompressed else open)(path, "rb") as file:
                content = file.read(MOST + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path.name} is truncated or no gzip file") from error
        if len(content) > MOST:
            raise ValueError(f"{path.name} holds more than {MOST:,} bytes")
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ValueError(f"{path.name} has SHA-256 {found[:12]}..., not {self.sha256[:12]}...")
        return content


@dataclass(frozen=True)
class FileDataset(Dataset):
    """Registry entry of a data set whose ``files`` fit into memory.

    ``arrays`` is the name of the function that makes its arrays from their content, imported when it is needed, and
    ``forms`` are these arrays.
    """

    name: str
    licence: str
    download_bytes: int
    prepared_bytes: int
    train_size: int
    test_size: int
    files: tuple[File, ...]
    sources: tuple["Debian | Package | Mirror", ...]
    arrays: str
    unit: str = "examples"
    forms: Mapping[str, Form] = field(default_factory=dict)

    module = __name__


@dataclass(frozen=True)
class Debian:
    """A Debian package with the files in ``folder``, relative to the root of the file system.

    If it is not installed, apt downloads it and it is unpacked into a temporary folder, for which no root is needed.
    """

    package: str
    folder: str

    def __str__(self):
        return f"Debian package {self.package}"

    def path(self, file: File, work: Path) -> Path:
        """Return where the file is, after fetching the package. ValueError says why that failed."""
        installed = Path("/", self.folder, file.name)
        if installed.exists():
            return installed
        unpacked = work / self.package
        if not unpacked.exists():
            self._unpack(work, unpacked)
        return unpacked / self.folder / file.name

    def _unpack(self, work, unpacked):
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise ValueError("no apt-get here")
        download = [*APT, "download", "-q", self.package]
        failure = _run(download, work)
        if failure and os.geteuid() == 0:
            # A fresh container has no package lists, and old lists name files that are gone.
            failure = _run([*APT, "update", "-q", "-o", "APT::Update::Error-Mode=any"], work) or _run(download, work)
        elif failure:
            failure += " (`apt-get update` as root may help)"
        if failure:
            raise ValueError(failure)
        (archive,) = work.glob(f"{self.package}_*.deb")
        failure = _run(["dpkg-deb", "-x", archive.name, f"{self.package}.part"], work)
        if failure:
            raise ValueError(failure)
        (work / f"{self.package}.part").rename(unpacked)


@dataclass(frozen=True)
class Package:
    """An installed Python package that holds the files in ``folder``, relative to the package."""

    package: str
    folder: str

    def __str__(self):
        return f"Python package {self.package}"

    def path(self, file: File, work: Path) -> Path:
        """Return where the file is. ValueError if the package is not installed."""
        found = find_spec(self.package)
        if found is None:
            raise ValueError(f"not installed; `pip install {self.package}` with the version of envs/requirements.lock")
        return Path(found.origin).parent / self.folder / file.name


@dataclass(frozen=True)
class Mirror:
    """A web folder: the file's name is appended to ``url``."""

    url: str

    def __str__(self):
        return self.url

    def path(self, file: File, work: Path) -> Path:
        """Download the file and return its path. ValueError says why that failed."""
        import pooch  # slow to import, and needed only where something is downloaded

        pooch.get_logger().setLevel("WARNING")
        try:
            # File.read checks the hash of the content: files that mirrors compress anew have no known hash.
            downloader = pooch.HTTPDownloader(timeout=(CONNECT, READ))
            got = pooch.retrieve(self.url + file.name, None, fname=file.name, path=work, downloader=downloader)
        except OSError as error:  # all errors of requests are OSErrors
            raise ValueError(f"{type(error).__name__}, no download") from error
        return Path(got)


def facts(dataset: FileDataset, folder: Path) -> dict[str, str]:
    """Return the hash of every file."""
    return {file.name: file.sha256 for file in dataset.files}


def make(dataset: FileDataset, folder: Path) -> list[str]:
    """Write the arrays into ``folder`` and return their names. InputError if a file is missing."""
    return save_arrays(folder, resolve_name(dataset.arrays)(fetch(dataset, folder)))


def _keep(path: Path, place: Path) -> None:
    """Copy a verified file to its place in the cache, over a pipe too."""
    if place.is_fifo():
        place.unlink()
    with atomic(place) as temporary:
        shutil.copyfile(path, temporary)


def fetch(dataset: FileDataset, folder: Path) -> dict[str, bytes]:
    """Return the verified content of every file, from the cache or else from the first source that has it.

    Fetched files are kept in ``folder``/sources. InputError, in one line, if a file cannot be had.
    """
    cache, contents = folder / "sources", {}
    tried = {file.name: [] for file in dataset.files}

    def accept(file, place, path):
        try:
            if not path.exists():
                raise ValueError(f"no {path.name}")
            contents[file.name] = file.read(path)
        except (OSError, ValueError) as error:
            tried[file.name].append(f"{place}: {error}")
        return file.name in contents

    for file in dataset.files:
        if not accept(file, "cache", cache / file.name) and (cache / file.name).exists():
            log.warning("%s: not usable (%s); fetching it again", cache / file.name, tried[file.name][-1])
    with TemporaryDirectory(prefix="adasde-") as name:
        for number, source in enumerate(dataset.sources):
            work = Path(name, str(number))
            work.mkdir()
            for file in (file for file in dataset.files if file.name not in contents):
                try:
                    path = source.path(file, work)
                except ValueError as error:
                    tried[file.name].append(f"{source}: {error}")
                    break  # this source is unavailable; skip its other files
                if accept(file, source, path):
                    _keep(path, cache / file.name)
                    log.info("%s: %s from %s", dataset.name, file.name, source)
    for file in dataset.files:
        if file.name not in contents:
            raise InputError(
                f"{dataset.name}: cannot get {file.name} (tried {'; '.join(tried[file.name])}). "
                f"Put it at {cache / file.name} by hand; SHA-256 {file.sha256}"
                + (" once decompressed" if file.decompressed else "")
            )
    return contents


def _run(command, folder):
    """Run a command; return None if it succeeded, otherwise the last line that it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"{command[0]}: {lines[-1] if lines else f'exit status {done.returncode}'}"
