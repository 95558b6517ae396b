"""Count what each workload costs into src/adasde/workloads/cost_profiles.json: `make cost-profiles`.

`adasde plan` reads that file, so that planning needs no torch. Beside the registered workloads it holds the models that
our configs name. FLOPs are those of torch's FlopCounterMode. Transformers
are built without values of their weights, since the largest would take gigabytes.
"""

import json
import sys
import warnings
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch.nn import functional as F

from adasde import ScalingWarning
from adasde.experiments.documents import merged
from adasde.experiments.plan import plan
from adasde.experiments.specs import Trained
from adasde.workloads import counting, language
from adasde.workloads.data.registry import load_arrays, prepare
from adasde.workloads.data.text import SPECIAL
from adasde.workloads.model_names import parsed
from adasde.workloads.registry import WORKLOADS, CostProfile

ROOT = Path(__file__).parents[1]
PROFILES = ROOT / "src/adasde/workloads/cost_profiles.json"
CONFIGS = ROOT / "workflow/config"
IMAGES = {"fashion-mnist": (1, 28, 28), "cifar-10": (3, 32, 32)}
CLASSES = {"wiki-articles": 52, "glue-mnli": 3}  # of labels; 2 otherwise
# Bytes per example of what a step holds for a moment, where measured: the logits of 50,257 tokens at 1,024 places.
MOMENT = {"wikitext103-gpt2": round(counting.COPIES * 4 * 50_257 * 1024)}


def made_up(name: str) -> dict[str, torch.Tensor]:
    """Return arrays in the form that the workload needs: eight examples or more, with nothing in them."""
    entry = WORKLOADS[name]
    if entry.kind == "vision":
        images = torch.zeros(8, *IMAGES[entry.data], dtype=torch.uint8)
        labels = torch.arange(8).to(torch.uint8)
        return {"train-images": images, "train-labels": labels, "test-images": images, "test-labels": labels}
    count = 1024 if entry.data == "wiki-mini" else 50_257 if entry.data == "wikitext-103" else 50_265
    words = [*SPECIAL, *(f"word{number}" for number in range(count - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>")).to_str()
    tokens, index = torch.full((8 * 1024 + 1,), 7), torch.arange(9) * 1024
    labels = torch.full((8,), CLASSES.get(name, 2) - 1)
    arrays = {"tokenizer": torch.from_numpy(np.frombuffer(tokenizer.encode(), np.uint8).copy())}
    arrays |= {"train-tokens": tokens, "validation-tokens": tokens}
    for part in ("paragraphs-train", "paragraphs-test", "glue-train", "glue-test"):
        arrays |= {part: tokens, f"{part}-index": index}
        arrays[f"{part}-labels"] = labels.float() if name == "glue-stsb" else labels
    return arrays


def workload_of(name: str):
    """Return the workload on arrays that are made up; of ImageNet, whose files need not be read, a stand-in."""
    module = import_module(WORKLOADS[name].module)
    if WORKLOADS[name].data != "imagenet":
        return module.load(name, made_up(name))
    return SimpleNamespace(
        model=module.BUILDERS[name],
        gather=lambda indices: (torch.zeros(len(indices), 3, module.RESOLUTION, module.RESOLUTION), indices),
        loss=lambda model, images, labels: F.cross_entropy(model(images), labels),
    )


def forward(workload, model, examples: int, device: str) -> tuple[int, int]:
    """Return the FLOPs of a forward pass, and the bytes that it holds beside the weights."""
    batch = [tensor.to(device) for tensor in workload.gather(torch.arange(examples))]
    with counting.without_values():
        return counting.forward(model, lambda: workload.loss(model, *batch))


def counted(name: str, root: Path) -> CostProfile:
    """Return the profile of a workload; ``root`` holds the prepared wiki-mini."""
    entry, workload = WORKLOADS[name], workload_of(name)
    module = import_module(entry.module)
    device = "cpu" if entry.kind == "vision" else "meta"
    with torch.device(device):
        model = workload.model().train()
    two, four = (forward(workload, model, examples, device) for examples in (2, 4))
    kept = [getattr(workload, array) for array in ("images", "inputs") if hasattr(workload, array)]
    kept += [workload.labels] if hasattr(workload, "inputs") else []
    tested = language.VALIDATION if isinstance(workload, language.LanguageWorkload) else None
    if name == "wiki-articles":
        tested = len(load_arrays("wiki-mini", root)["paragraphs-test-labels"])
    return counting.profile(
        module,
        model,
        two,
        four,
        tested=tested,
        resident=sum(array[0].nbytes for array in kept),
        moment=MOMENT.get(name, 0),
    )


def named_models() -> list[str]:
    """Return the models that our configs name."""
    warnings.simplefilter("ignore", ScalingWarning)
    laid = [[path] for path in sorted(CONFIGS.glob("*.yaml")) if path.stem not in ("fashion", "quarter")]
    laid.append([CONFIGS / "gpu.yaml", CONFIGS / "fashion.yaml"])
    specs = [spec for paths in laid for spec in plan(merged(paths)).runs.values()]
    return list(dict.fromkeys(spec.workload for spec in specs if isinstance(spec, Trained) and "/" in spec.workload))


def main():
    """Write the file anew."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results/data"
    prepare("wiki-mini", root)
    profiles = {name: counted(name, root) for name in WORKLOADS}
    profiles |= {name: counting.count(parsed(name)) for name in named_models()}
    lines = []
    for name, profile in profiles.items():
        values = asdict(profile)
        for field in ("least", "norm"):  # left out where they are the default
            if values[field] == getattr(CostProfile, field):
                del values[field]
        lines.append(f" {json.dumps(name)}: {json.dumps(values)}")
    PROFILES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
