"""What a model costs, counted from a few of its passes; what it refuses comes out by this as well.

FLOPs are those of torch's FlopCounterMode. Models are built without values where they allow it, since large ones would
take seconds and gigabytes.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from adasde.common import InputError
from adasde.workloads.data.registry import dataset_named
from adasde.workloads.model_names import ModelName, refusing
from adasde.workloads.norms import batch_norm
from adasde.workloads.profiles import CostProfile

ATTENTION = F.scaled_dot_product_attention
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
# Float32 copies of the logits that a step of GPT-2 holds for a moment, measured on an H100 in bf16.
COPIES = 2.5
VALUED = 2**28  # weights of the largest model that is built with values: a gigabyte
CHECKED = 64  # tokens, at most, over which a language model is tried with values


def _fused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **others):
    """Attention that holds no matrix of tokens by tokens, as all devices have it, unless a bias is learned."""
    if query.dim() != 4 or (attn_mask is not None and attn_mask.requires_grad):
        return ATTENTION(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)
    return FUSED(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]


@contextmanager
def without_values() -> Iterator[None]:
    """Let models decide by tensors that have no values: no padding, no packing."""
    with mock.patch.object(torch.Tensor, "__bool__", return_value=True):
        yield


def forward(network: nn.Module, loss: Callable[[], Tensor]) -> tuple[int, int]:
    """Return the FLOPs of a forward pass, and the bytes that it holds beside the weights.

    Args:
        network: The network.
        loss: Does the pass and returns the loss.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    held: dict[int, Any] = {}

    def hold(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage
        return tensor

    formulas = {
        FUSED: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        # Mixtures of experts: (tokens, width) by (experts, width, outputs), each token with one of the experts.
        torch.ops.aten._grouped_mm: lambda tokens, weights, *_, **__: 2 * math.prod(tokens) * weights[-1],
    }
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with (
        mock.patch.object(F, "scaled_dot_product_attention", _fused),
        torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor),
        counter,
    ):
        loss()
    return counter.get_total_flops(), sum(storage.nbytes() for storage in held.values())


def profile(
    module: ModuleType, network: nn.Module, two: tuple[int, int], four: tuple[int, int], **others: Any
) -> CostProfile:
    """Return the profile of a workload of ``module`` from passes over two and over four examples.

    Args:
        module: Says how many examples an evaluation takes.
        network: The network.
        two: What `forward` gives for two examples.
        four: And for four.
        others: The rest of the profile.
    """
    return CostProfile(
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        flops=two[0] // 2,
        activations=(four[1] - two[1]) // 2,
        sampled=module.SUBSET,
        graded=getattr(module, "GRADED", module.SUBSET),
        chunk=module.NOISE_CHUNK,
        norm=batch_norm(network),
        **others,
    )


def count(model: ModelName) -> CostProfile:
    """Return the profile of a model that a config names.

    Args:
        model: The model.

    Raises:
        InputError: If the library or the model refuses: an unknown name or option, a size that it cannot take; or if a
            language model of at most `VALUED` weights sees later tokens.
    """
    module, network = import_module(f"adasde.workloads.{model.learned.kind}_models"), None
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with without_values():
                network = _built(module, model, "meta")
                found = _counted(module, model, network)
        except InputError as error:
            if error.__cause__ is None:  # we refuse it ourselves; a library may only miss the values
                raise
            if network is not None and not _small(network):
                words = str(error).rstrip(".")
                raise InputError(f"{words}; with more than {VALUED:,} weights it is not tried with values") from error
            network = _built(module, model, "cpu")
            found = _counted(module, model, network)
        if model.learned.kind == "language" and _small(network):
            tokens = torch.randint(model.learned.classes, (1, min(model.size, CHECKED)))
            network = _built(module, model, "cpu")
            with refusing(model):
                module.check_causal(model, network, tokens)
    return found


def _small(network):
    return sum(weight.numel() for weight in network.parameters()) <= VALUED


def _built(module, model, device):
    with torch.device(device):
        network = module.build(model)
    for name, weight in network.named_parameters():
        if weight.dtype != torch.float32:
            raise InputError(
                f"workload.options: make {name} {weight.dtype}; weights must be torch.float32, "
                "and precision says how products are taken"
            )
    return network


def _counted(module, model, network):
    with refusing(model):
        network.eval()
        with torch.no_grad():
            module.trial(model, network, 2)
        network.train()
        two, four = (forward(network, partial(module.trial, model, network, n)) for n in (2, 4))
        least = 1
        try:
            module.trial(model, network, 1)
        except ValueError:  # batch norm's
            least = 2
    images = dataset_named(model.data).forms.get("train-images")
    language = model.learned.kind == "language"
    return profile(
        module,
        network,
        two,
        four,
        tested=module.VALIDATION if language else None,
        resident=math.prod(images.item) if images else 0,
        moment=round(COPIES * 4 * model.learned.classes * model.size) if language else 0,
        least=least,
    )
