"""What workloads cost, as it was counted: in cost_profiles.json, or once for each user for other models."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from adasde.common import MALFORMED, InputError, atomic, digest, read_text


@dataclass(frozen=True)
class CostProfile:
    """What a workload costs, known without torch. `make cost-profiles` counts it into cost_profiles.json."""

    parameters: int  #: number of trained weights
    flops: float  #: of one example's forward pass, two per multiply-add
    activations: float  #: float32 bytes that this pass holds for the backward pass, with fused attention
    sampled: int  #: training examples whose loss an evaluation takes
    graded: int  #: training examples whose gradient it takes where the noise is measured
    chunk: int  #: examples per gradient of these
    tested: int | None = None  #: other examples that an evaluation tests; all test examples of the data set if None
    resident: int = 0  #: bytes of an example that stay in a GPU's memory during the whole run
    moment: float = 0.0  #: bytes per example that a step holds for a moment beside the activations, where they matter
    least: int = 1  #: examples that batch norm needs in a pass: 2 where it sees one value per channel and image
    norm: str | None = None  #: its batch norm: ``torch``, or the name of its class if it is not torch's own


COMMITTED = {
    name: CostProfile(**values)
    for name, values in json.loads(files("adasde.workloads").joinpath("cost_profiles.json").read_text()).items()
}
COUNTING = ("counting.py", "language_models.py", "model_names.py", "norms.py", "profiles.py", "vision_models.py")
_found: dict[str, CostProfile] = {}  # of models that a config names, by name


def check_norm(norm: str | None, processes: int, micro_batch: int | None) -> None:
    """Raise an InputError unless several processes can share a run of a model with this batch norm.

    Args:
        norm: Its batch norm, as in a `CostProfile`.
        processes: Number of processes.
        micro_batch: Examples of a pass of one of them, or None for its whole share.
    """
    if norm not in (None, "torch"):
        raise InputError(
            f"processes = {processes}: the model has a {norm}, and only torch's own batch norm can take its statistics "
            "over several processes; take 1"
        )
    if norm and micro_batch is not None:
        raise InputError(
            f"micro_batch = {micro_batch}, processes = {processes}: batch norm keeps one set of running statistics, "
            "and micro-batches of several processes would give each its own; drop one of them"
        )


def known(name: str, library: str) -> CostProfile | None:
    """Return the profile of a model that a config names if it was counted before, and None otherwise.

    Args:
        name: Name of the workload.
        library: The model's library. For another version of it, or of what counts and refuses, it is counted anew.
    """
    if name in COMMITTED:
        return COMMITTED[name]
    if name not in _found:
        with suppress(InputError, PackageNotFoundError, RuntimeError, OSError, *MALFORMED):
            values = json.loads(read_text(_place(name, library), most=4096))
            norm = values.pop("norm")
            if isinstance(norm, str | None) and all(type(v) in (int, float, type(None)) for v in values.values()):
                _found[name] = CostProfile(**values, norm=norm)
    return _found.get(name)


def keep(name: str, library: str, profile: CostProfile) -> None:
    """Keep a profile that was counted now; without a cache folder that can be written, for this process only."""
    _found[name] = profile
    with suppress(InputError, RuntimeError, OSError), atomic(_place(name, library)) as temporary:
        temporary.write_text(json.dumps(asdict(profile)))


def _place(name: str, library: str) -> Path:
    """Return the file of a profile in the user's cache; RuntimeError if there is no home folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    counting = [files("adasde.workloads").joinpath(module).read_text(encoding="utf-8") for module in COUNTING]
    return cache / "adasde/profiles" / f"{digest(f'{name} {library} {version(library)} {counting}')}.json"
