"""Predicting every next token with any causal model of transformers, built from a configuration without weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from adasde.common import InputError
from adasde.workloads.language import GRADED, NOISE_CHUNK, SUBSET, VALIDATION, LanguageWorkload, Size
from adasde.workloads.model_names import ModelName, check_numbers, nearest, parsed, refusing, unknown_option

__all__ = ["GRADED", "NOISE_CHUNK", "SUBSET", "VALIDATION", "build", "check_causal", "load", "trial"]


def build(model: ModelName) -> nn.Module:
    """Return a new model, its weights drawn from torch's global generator.

    Args:
        model: The model. Its vocabulary is that of the data; dropout is as its options say, and otherwise the library's
            default for this configuration.

    Raises:
        InputError: If transformers knows no such causal model, if an option is unknown, or if it takes fewer tokens.
    """
    kind, able = model.architecture, [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in CONFIG_MAPPING]
    if kind not in able:
        raise InputError(
            f"workload.model = 'transformers/{kind}': transformers has no such causal model; "
            f"nearest: {nearest(kind, able)}"
        )
    default = CONFIG_MAPPING[kind]()
    if unknown := [name for name in model.options if not hasattr(default, name)]:
        raise unknown_option(model, unknown[0], default.to_dict())
    check_numbers(model, {name: getattr(default, name) for name in model.options})
    # Nothing is padded, and the usual numbers of special tokens may lie outside of a small vocabulary.
    own = {"vocab_size": model.learned.classes, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    # Those made to predict masked tokens may number their positions by the padding, as RoBERTa does.
    padding = getattr(default, "pad_token_id", None)
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and padding is not None and padding < model.learned.classes:
        own["pad_token_id"] = padding
    with refusing(model):
        config = CONFIG_MAPPING[kind](**{"use_cache": False, **own, **model.options})
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise _sighted(model)
    places = getattr(config, "max_position_embeddings", None)
    if isinstance(places, int) and 0 < places < model.size:
        raise InputError(
            f"workload.size = {model.size}: transformers/{kind} takes at most {places} tokens with its options"
        )
    with refusing(model):
        return AutoModelForCausalLM.from_config(config)


class ModelLanguageWorkload(LanguageWorkload):
    """Predicting every next token, as `CausalLanguageWorkload`, with any model."""

    def __init__(self, model: ModelName, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu"):
        self.named = model
        # The network's own size is in its configuration.
        size = Size(layers=0, width=0, heads=0, length=model.size, vocabulary=model.learned.classes, dropout=0.0)
        super().__init__(tensors, size, model.title, device)
        with torch.random.fork_rng():
            check_causal(model, self.model(), self.sequences[:1, :-1].long())

    def model(self) -> nn.Module:
        return build(self.named)

    def batch(self, sequences: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        """Return inputs and targets, both (sequences, length), int64."""
        tokens = sequences.to(self.device).long()
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def losses(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(input_ids=inputs).logits
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


def _sighted(model):
    return InputError(
        f"workload.model = 'transformers/{model.architecture}': sees the tokens that it should predict; take a causal "
        "model such as gpt2, or wiki-roberta, which predicts masked tokens"
    )


def check_causal(model: ModelName, network: nn.Module, tokens: Tensor) -> None:
    """Raise an InputError if what a network predicts depends on later tokens.

    Args:
        model: The model.
        network: The network, with values.
        tokens: Tokens of shape (1, any number), int64, of which the last one is changed.
    """
    other = tokens.clone()
    other[:, -1] = (tokens[:, -1] + 1) % model.learned.classes
    network.eval()
    with torch.inference_mode():
        before, after = (network(input_ids=ids).logits[:, :-1] for ids in (tokens, other))
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-4):
        raise _sighted(model)


def trial(model: ModelName, network: nn.Module, examples: int) -> Tensor:
    """Return the loss of a pass over ``examples`` sequences of token 0, on the network's device.

    Raises:
        InputError: If the network returns something else than scores of the tokens.
    """
    tokens = torch.zeros(examples, model.size, dtype=torch.long, device=next(network.parameters()).device)
    logits = network(input_ids=tokens).logits
    wanted = (examples, model.size, model.learned.classes)
    if logits.shape != wanted:
        raise InputError(
            f"workload.model = 'transformers/{model.architecture}': returns scores of shape {tuple(logits.shape)}, and "
            f"not {wanted}"
        )
    return F.cross_entropy(logits.transpose(1, 2), tokens)


def load(name: str, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> ModelLanguageWorkload:
    """Return the workload called ``name`` on the arrays of its data set."""
    return ModelLanguageWorkload(parsed(name), tensors, device)
