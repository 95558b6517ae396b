"""TO DESCRIBE."""

import hashlib

import torch

from adasde.common import canonical


def derive_seed(purpose: str, *numbers) -> int:
    """Seed of the random stream for one purpose; streams of different purposes or numbers are independent."""
    return int.from_bytes(hashlib.sha256(canonical([purpose, *numbers]).encode()).digest()[:8]) >> 1


def noise_state(device) -> list[torch.Tensor]:
    """Return the states of torch's global generators, from which models draw."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def restore_noise(states):
    """Set torch's global generators to what `noise_state` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)
