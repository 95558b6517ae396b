"""Small language workloads on random tokens, and a spec for them."""

import dataclasses

import pytest
import torch

from adasde.workloads import glue, language
from conftest import changed

LANGUAGE = [language.CausalLanguageWorkload, language.MaskedLanguageWorkload]


def texts(kind, **changes):
    """A small language workload on random tokens of an odd vocabulary; ``kind`` is a class of workloads."""
    size = dataclasses.replace(language.SIZES["gpt2-mini"], layers=1, length=16, vocabulary=50, **changes)
    known = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "<|endoftext|>": 5}
    known |= {f"t{n}": n for n in range(6, 50)}
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randint(6, 50, shape, generator=generator)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language.text, "vocabulary", lambda _: known)
        if kind is glue.ClassificationWorkload:
            arrays = {}
            for split in ("train", "test"):
                ends = torch.arange(0, 7 * 601, 7)
                arrays |= {f"x-{split}": draw(7 * 600), f"x-{split}-index": ends, f"x-{split}-labels": draw(600) % 3}
            return kind(arrays, size, "x", ["test_accuracy"])
        return kind({f"{split}-tokens": draw(16 * 700) for split in ("train", "validation")}, size, "GPT-2")


def learning(spec):
    """A short spec for random texts."""
    return changed(spec, workload="wiki-gpt2", samples=320, evaluate=[160, 320], batch_size=8, tested=None)
