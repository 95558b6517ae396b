"""Seeds of random streams, one per purpose, and the states of torch's global generators."""

import hashlib
from collections.abc import Sequence

import torch

from adasde.common import canonical


def derive_seed(purpose: str, *numbers: object) -> int:
    """Return the seed of the random stream for a purpose. Other purposes or numbers give independent streams."""
    return int.from_bytes(hashlib.sha256(canonical([purpose, *numbers]).encode()).digest()[:8]) >> 1


def generator_states(device: torch.device) -> list[torch.Tensor]:
    """Return the states of torch's global generators, which dropout uses."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_generator_states(states: Sequence[torch.Tensor]) -> None:
    """Set torch's global generators to what `generator_states` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)
