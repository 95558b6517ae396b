"""Language models: GPT-2 predicts every next token, and RoBERTa masked ones.

The models are those of transformers, built from a configuration. An example is a sequence of ``length`` tokens cut from
the documents one after another, so a batch of B examples has B * length tokens.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.models.roberta.configuration_roberta import RobertaConfig
from transformers.models.roberta.modeling_roberta import RobertaForMaskedLM, RobertaForSequenceClassification

from adasde.common import InputError
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.workloads.base import Workload
from adasde.workloads.data import text
from adasde.workloads.metrics import evaluate, first, fixed_sample

SUBSET = 128  # training sequences on which the train loss is measured
GRADED = 512  # training sequences on which the gradient and its noise are measured: from 64, speeds are 0.05 too low
NOISE_CHUNK = 16  # sequences per gradient of these
VALIDATION = 128  # validation sequences, the same for all evaluations
CHUNK = 32  # sequences per evaluation batch

# Of a compiled step. Matrix products on GPUs are fast where the vocabulary's size is a multiple of the first number.
# The second is the most logits at once: 1 GB in float32, 0.5 GB in bfloat16.
MULTIPLE, LOGITS = 64, 1 << 28


@dataclass(frozen=True)
class Size:
    """A transformer's size: ``length`` tokens per sequence, ``vocabulary`` known tokens, dropout everywhere.

    ``spread`` is the standard deviation of the initial weights. ``masked`` is the share of the tokens that RoBERTa
    predicts: 80% of these are masked, 10% replaced, 10% kept.
    """

    layers: int
    width: int
    heads: int
    length: int
    vocabulary: int
    dropout: float
    spread: float = 0.02
    masked: float = 0.15


# The mini sizes differ from the usual ones twice. At the usual spread, so narrow a network would spend the few tokens
# of a mini run on leaving its start. At the usual share of masked tokens, RoBERTa would learn little more than how
# frequent each token is.
SIZES = {
    "gpt2-mini": Size(layers=2, width=64, heads=2, length=64, vocabulary=1024, dropout=0.0, spread=0.05),
    "roberta-mini": Size(layers=1, width=64, heads=2, length=64, vocabulary=1024, dropout=0.0, spread=0.05, masked=0.4),
    "gpt2": Size(layers=12, width=768, heads=12, length=1024, vocabulary=50_257, dropout=0.1),
    "roberta-large": Size(layers=24, width=1024, heads=16, length=126, vocabulary=50_265, dropout=0.1),
}


def gpt2(size: Size, end: int) -> nn.Module:
    """Return a new GPT-2 with tied embeddings; ``end`` is the token that ends a document."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size.vocabulary,
            n_positions=size.length,
            n_embd=size.width,
            n_layer=size.layers,
            n_head=size.heads,
            resid_pdrop=size.dropout,
            embd_pdrop=size.dropout,
            attn_pdrop=size.dropout,
            bos_token_id=end,
            eos_token_id=end,
            initializer_range=size.spread,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )


def roberta(size: Size, special: Mapping[str, int], labels: int | None = None) -> nn.Module:
    """Return a new RoBERTa that predicts masked tokens, or one with ``labels`` outputs for a whole text."""
    config = RobertaConfig(
        vocab_size=size.vocabulary,
        max_position_embeddings=size.length + 2 + special["<pad>"] + 1,  # positions are counted from the pad's number
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.dropout,
        type_vocab_size=1,
        initializer_range=size.spread,
        bos_token_id=special["<s>"],
        pad_token_id=special["<pad>"],
        eos_token_id=special["</s>"],
        num_labels=labels or 2,
        attn_implementation="sdpa",
    )
    return RobertaForSequenceClassification(config) if labels else RobertaForMaskedLM(config)


def fitting_vocabulary(
    tensors: Mapping[str, Tensor], size: Size, kind: str, special: Sequence[str] = ()
) -> dict[str, int]:
    """Return the vocabulary of the data's tokenizer, token -> number; InputError if a model of ``kind`` has another."""
    known = text.vocabulary(tensors)
    if len(known) != size.vocabulary:
        raise InputError(
            f"vocabulary: the tokenizer of the data knows {len(known)} tokens, but {kind} {size.vocabulary}"
        )
    if missing := [token for token in special if token not in known]:
        raise InputError(f"vocabulary: the tokenizer of the data does not know {missing[0]}, which {kind} needs")
    return known


class LanguageWorkload(Workload):
    """What both language models share: sequences of a text data set's tokens, and the metrics.

    Subclasses define `model`, `batch`, `losses` and the ``special`` tokens that they need. ``kind`` is the model's name
    in messages.
    """

    special: tuple[str, ...] = ()

    def __init__(self, tensors: Mapping[str, Tensor], size: Size, kind: str, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.known = fitting_vocabulary(tensors, size, kind, self.special)
        self.length, self.dimensions = size.length, size
        self.sequences = self._cut(tensors["train-tokens"], "train")
        held = self._cut(tensors["validation-tokens"], "validation")
        # Sequences and their masks are fixed, so that all evaluations see the same.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.subset = self._chunks(self.sequences, SUBSET, CHUNK)
            self.graded = self._chunks(self.sequences, GRADED, NOISE_CHUNK)
            self.validation = self._chunks(held, VALIDATION, CHUNK)

    @property
    def size(self) -> int:
        return len(self.sequences)

    def gather(self, indices: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        return self.batch(self.sequences.index_select(0, indices), *randomness)

    @abstractmethod
    def batch(self, sequences: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        """Return the model's inputs and targets for ``sequences`` (sequences, length + 1)."""

    @abstractmethod
    def losses(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Return the mean loss over the predicted tokens of every sequence, (sequences,)."""

    def loss(self, model: nn.Module, *batch: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss per predicted token in nats, or the weighted sum of the sequences' means."""
        losses = self.losses(model, *batch)
        return losses.mean() if weights is None else losses @ weights.to(losses.dtype)

    def measure(self, model: nn.Module, meter: SpeedMeter | None = None, tested: int | None = None) -> dict[str, float]:
        def held_out():
            with torch.inference_mode():
                held = torch.cat([self.losses(model, *chunk) for chunk in first(self.validation, tested)])
            return {"log_perplexity": held.mean().item()}

        return evaluate(self, model, meter, held_out)

    def _cut(self, tokens, split):
        """Return a view (sequences, length + 1) of the tokens; the last of a row is the first of the next."""
        count = (len(tokens) - 1) // self.length
        if count < 1:
            raise InputError(f"length = {self.length}: longer than the {len(tokens)} tokens of the split {split}")
        return tokens.as_strided((count, self.length + 1), (self.length, 1))

    def _chunks(self, sequences, count, size):
        places = fixed_sample(len(sequences), count)
        return [self.batch(sequences.index_select(0, part)) for part in places.split(size)]


class CausalLanguageWorkload(LanguageWorkload):
    """Predicting every next token with GPT-2."""

    def model(self) -> nn.Module:
        return gpt2(self.dimensions, self.known[next(name for name in text.END if name in self.known)])

    def batch(self, sequences: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        """Return inputs and targets, both (sequences, length), int64."""
        tokens = sequences.to(self.device).long()
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def losses(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return _mean_losses(model(input_ids=inputs).logits, targets)

    def compiled_loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss per token, its logits in chunks of a padded vocabulary."""
        if not isinstance(model, GPT2LMHeadModel):  # whose logits are not all that another model makes of them
            return self.loss(model, inputs, targets)
        # Its own `forward`, when it is compiled, makes a mask, with which there is no flash attention. Without one,
        # attention is causal all the same.
        network = model.transformer
        hidden = network.drop(network.wte(inputs) + network.wpe(torch.arange(inputs.shape[1], device=inputs.device)))
        for block in network.h:
            hidden = block(hidden)
        return _chunked_loss(network.ln_f(hidden), model.lm_head, targets)


class MaskedLanguageWorkload(LanguageWorkload):
    """Predicting masked tokens with RoBERTa, under new masks for every minibatch.

    The same number of tokens is predicted in every sequence, so that batch shapes are constant.
    """

    special = text.SPECIAL

    @property
    def predicted(self) -> int:
        """Number of tokens of a sequence that are predicted."""
        return max(1, round(self.dimensions.masked * self.length))

    @cached_property
    def words(self) -> Tensor:
        """The tokens that can replace one: all but the special ones, since a <pad> would shift the positions."""
        words = sorted(set(self.known.values()) - {self.known[name] for name in text.SPECIAL})
        return torch.tensor(words, device=self.device)

    def randomness(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Sample numbers that order the places of a sequence, (count, length), and fates and words of those predicted.

        Fates and words have the shape (count, predicted).
        """
        order = torch.rand(count, self.length, generator=generator)
        fate = torch.rand(count, self.predicted, generator=generator)
        return order, fate, torch.randint(len(self.words), fate.shape, generator=generator)

    def model(self) -> nn.Module:
        return roberta(self.dimensions, self.known)

    def batch(self, sequences: Tensor, *randomness: Tensor) -> tuple[Tensor, ...]:
        """Return inputs (sequences, length + 2), places of the predicted tokens and these, (sequences, predicted)."""
        # On a GPU the masks are made there: making them on the CPU would take a seventh of a large model's step.
        order, fate, words = (part.to(self.device) for part in randomness or self.randomness(len(sequences)))
        tokens = sequences[:, :-1].to(self.device).long()
        places = order.argsort(1)[:, : self.predicted]
        targets = tokens.gather(1, places)
        given = torch.where(fate < 0.8, self.known["<mask>"], targets)
        given = torch.where(fate >= 0.9, self.words[words], given)
        tokens = tokens.scatter(1, places, given)
        inputs = F.pad(F.pad(tokens, (1, 0), value=self.known["<s>"]), (0, 1), value=self.known["</s>"])
        return inputs, places + 1, targets

    def losses(self, model: nn.Module, inputs: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        # The head sees only the predicted tokens; on all of them a step would take 1.6 times as long.
        return _mean_losses(model.lm_head(self._chosen(model, inputs, places)), targets)

    def compiled_loss(self, model: nn.Module, inputs: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss per predicted token, its logits in chunks of a padded vocabulary."""
        if not isinstance(model, RobertaForMaskedLM):
            return self.loss(model, inputs, places, targets)
        head = model.lm_head
        features = head.layer_norm(F.gelu(head.dense(self._chosen(model, inputs, places))))
        return _chunked_loss(features, head.decoder, targets)

    @staticmethod
    def _chosen(model, inputs, places):
        """Return what the encoder makes of the predicted tokens, (sequences, predicted, width)."""
        hidden = model.roberta(input_ids=inputs).last_hidden_state
        return hidden.gather(1, places.unsqueeze(2).expand(-1, -1, hidden.shape[2]))


def _mean_losses(logits, targets):
    """Return the mean cross-entropy of every row of ``targets``, for logits (*targets.shape, tokens)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).mean(1)


def _chunked_loss(features, head, targets):
    """Return the mean cross-entropy of ``targets`` for the logits that the linear ``head`` makes of ``features``.

    The logits of a chunk are made again on the way back, if there are several, instead of being held.
    """
    features, targets, words = features.flatten(0, -2), targets.flatten(), len(head.weight)
    pad = -words % MULTIPLE
    weight = F.pad(head.weight, (0, 0, 0, pad)) if pad else head.weight
    bias = head.bias if head.bias is None or not pad else F.pad(head.bias, (0, pad))

    def total(features, targets, weight, bias):
        return F.cross_entropy(F.linear(features, weight, bias)[:, :words], targets, reduction="sum")

    chunks = -(-len(targets) * (words + pad) // LOGITS)
    if chunks == 1:
        return total(features, targets, weight, bias) / len(targets)
    parts = zip(features.chunk(chunks), targets.chunk(chunks), strict=True)
    return sum(checkpoint(total, *part, weight, bias, use_reentrant=False) for part in parts) / len(targets)


LANGUAGE_WORKLOADS = {
    "wiki-gpt2": (CausalLanguageWorkload, "gpt2-mini", "GPT-2"),
    "wiki-roberta": (MaskedLanguageWorkload, "roberta-mini", "RoBERTa"),
    "wikitext103-gpt2": (CausalLanguageWorkload, "gpt2", "GPT-2"),
    "wikibooks-roberta": (MaskedLanguageWorkload, "roberta-large", "RoBERTa"),
}


def load(name: str, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> LanguageWorkload:
    """Return the workload called ``name`` on the arrays of its data set."""
    workload, size, kind = LANGUAGE_WORKLOADS[name]
    return workload(tensors, SIZES[size], kind, device)
