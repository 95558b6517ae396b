"""Language models: GPT-2 and RoBERTa's masked language model.

The models are those of transformers, built from a configuration. An example is a sequence of ``length`` tokens cut from
the documents one after another, so that a batch of B examples has B * length tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from adasde.common import InputError
from adasde.workloads.data import text
from adasde.workloads.metrics import loss_and_gradient, squared_norm

SUBSET = 64  # training sequences on which the train loss, its gradient and the gradient's noise are measured
NOISE_CHUNK = 4  # sequences per gradient of these
VALIDATION = 128  # validation sequences, the same for all evaluations
CHUNK = 32  # sequences per evaluation batch


# Imported where they are used, since that takes seconds; or beforehand, once for many runs.
LIBRARIES = ("transformers.models.gpt2.modeling_gpt2", "transformers.models.roberta.modeling_roberta")


@dataclass(frozen=True)
class Size:
    """A transformer's size: ``length`` tokens per sequence, ``vocabulary`` tokens known, dropout everywhere.

    ``spread`` is the standard deviation of the initial weights, ``masked`` the share of the tokens that RoBERTa
    predicts: of these 80% are masked, 10% replaced, 10% kept.
    """

    layers: int
    width: int
    heads: int
    length: int
    vocabulary: int
    dropout: float
    spread: float = 0.02
    masked: float = 0.15


# At the usual spread so narrow a network would spend the few tokens of a mini run on leaving its start, and at the
# usual share of masked tokens RoBERTa would learn little more than how frequent each is.
SIZES = {
    "gpt2-mini": Size(layers=2, width=64, heads=2, length=64, vocabulary=1024, dropout=0.0, spread=0.05),
    "roberta-mini": Size(layers=1, width=64, heads=2, length=64, vocabulary=1024, dropout=0.0, spread=0.05, masked=0.4),
    "gpt2": Size(layers=12, width=768, heads=12, length=1024, vocabulary=50_257, dropout=0.1),
    "roberta-large": Size(layers=24, width=1024, heads=16, length=126, vocabulary=50_265, dropout=0.1),
}


def gpt2(size: Size, end: int) -> nn.Module:
    """GPT-2 with tied embeddings; ``end`` is the token that ends a document."""
    from transformers.models.gpt2.configuration_gpt2 import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

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


def roberta(size: Size, special: dict[str, int], labels: int | None = None) -> nn.Module:
    """RoBERTa with its masked-language-model head, or with one of ``labels`` outputs for a whole text."""
    from transformers.models.roberta.configuration_roberta import RobertaConfig
    from transformers.models.roberta.modeling_roberta import RobertaForMaskedLM, RobertaForSequenceClassification

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


def fixed_sample(size: int, count: int) -> torch.Tensor:
    """Return ``count`` of ``size`` places, or all, always the same and in no order, so that chunks are independent."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count]


def fitting_vocabulary(tensors, size: Size, kind: str, special=()) -> dict[str, int]:
    """Return the vocabulary of the data's tokenizer, token -> number; InputError if a model of ``kind`` has another."""
    known = text.vocabulary(tensors)
    if len(known) != size.vocabulary:
        raise InputError(
            f"vocabulary: the tokenizer of the data knows {len(known)} tokens, but {kind} {size.vocabulary}"
        )
    if missing := [token for token in special if token not in known]:
        raise InputError(f"vocabulary: the tokenizer of the data does not know {missing[0]}, which {kind} needs")
    return known


class Sequences:
    """What both language models share: sequences of a text data set's tokens, and the test functions.

    Subclasses give `model`, `batch`, the model's inputs and targets for sequences, `losses`, one per example, and the
    ``special`` tokens that they need.
    """

    special: tuple[str, ...] = ()

    def __init__(self, tensors, size: Size, kind: str, device="cpu"):
        self.device = torch.device(device)
        self.known = fitting_vocabulary(tensors, size, kind, self.special)
        self.length, self.dimensions = size.length, size
        self.sequences = self._cut(tensors["train-tokens"], "train")
        held = self._cut(tensors["validation-tokens"], "validation")
        # Fixed sequences, and fixed masks where there are any, so that all evaluations see the same.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.subset = self._chunks(self.sequences, SUBSET, NOISE_CHUNK)
            self.validation = self._chunks(held, VALIDATION, CHUNK)

    @property
    def size(self) -> int:
        """Number of training sequences."""
        return len(self.sequences)

    def noise(self, count, generator=None):
        """Return nothing: sequences are taken as they are."""
        return ()

    def gather(self, indices, *noise):
        """Return the model's inputs and targets for the training sequences at ``indices``."""
        return self.batch(self.sequences.index_select(0, indices), *noise)

    def loss(self, model, *batch, weights=None):
        """Mean loss per predicted token in nats, or the weighted sum of the sequences' means."""
        losses = self.losses(model, *batch)
        return losses.mean() if weights is None else losses @ weights.to(losses.dtype)

    def measure(self, model, sigma, eps) -> dict[str, float]:
        """Return the test functions, without dropout; see the glossary in measure.py."""
        model.eval()
        training = loss_and_gradient(model, self.loss, self.subset, sigma, eps)
        with torch.inference_mode():
            held = torch.cat([self.losses(model, *chunk) for chunk in self.validation]).mean().item()
        model.train()
        return {**training, "log_perplexity": held, "squared_norm": squared_norm(model)}

    def _cut(self, tokens, split):
        """Return a view (sequences, length + 1) of the tokens; the last of a row is the first of the next."""
        count = (len(tokens) - 1) // self.length
        if count < 1:
            raise InputError(f"length = {self.length}: longer than the {len(tokens)} tokens of the split {split}")
        return tokens.as_strided((count, self.length + 1), (self.length, 1))

    def _chunks(self, sequences, count, size):
        places = fixed_sample(len(sequences), count)
        return [self.batch(sequences.index_select(0, part)) for part in places.split(size)]


class CausalTask(Sequences):
    """Predicting every next token with GPT-2."""

    def model(self) -> nn.Module:
        """Return a new network."""
        return gpt2(self.dimensions, self.known[next(name for name in text.END if name in self.known)])

    def batch(self, sequences):
        """Return inputs and targets, both (sequences, length), int64."""
        tokens = sequences.to(self.device).long()
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def losses(self, model, inputs, targets):
        """Return the mean loss of every sequence, (sequences,)."""
        logits = model(input_ids=inputs).logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).mean(1)


class MaskedTask(Sequences):
    """Predicting masked tokens with RoBERTa: new masks for every minibatch.

    As many tokens of every sequence are predicted, so that batches have one shape.
    """

    special = text.SPECIAL

    @property
    def predicted(self) -> int:
        """Number of tokens of a sequence that are predicted."""
        return max(1, round(self.dimensions.masked * self.length))

    @cached_property
    def words(self):
        """The tokens that can replace one: special tokens are no words, and a <pad> would shift the positions."""
        words = sorted(set(self.known.values()) - {self.known[name] for name in text.SPECIAL})
        return torch.tensor(words, device=self.device)

    def noise(self, count, generator=None):
        """Return what orders the places of a sequence, (count, length), and the fates and words of those predicted."""
        order = torch.rand(count, self.length, generator=generator)
        fate = torch.rand(count, self.predicted, generator=generator)
        return order, fate, torch.randint(len(self.words), fate.shape, generator=generator)

    def model(self) -> nn.Module:
        """Return a new network."""
        return roberta(self.dimensions, self.known)

    def batch(self, sequences, *noise):
        """Return inputs (sequences, length + 2), places of the predicted tokens and these, (sequences, predicted)."""
        # On a GPU the masks are made there: on the CPU they would take a seventh of a large model's step.
        order, fate, words = (part.to(self.device) for part in noise or self.noise(len(sequences)))
        tokens = sequences[:, :-1].to(self.device).long()
        places = order.argsort(1)[:, : self.predicted]
        targets = tokens.gather(1, places)
        given = torch.where(fate < 0.8, self.known["<mask>"], targets)
        given = torch.where(fate >= 0.9, self.words[words], given)
        tokens = tokens.scatter(1, places, given)
        inputs = F.pad(F.pad(tokens, (1, 0), value=self.known["<s>"]), (0, 1), value=self.known["</s>"])
        return inputs, places + 1, targets

    def losses(self, model, inputs, places, targets):
        """Return the mean loss over the predicted tokens of every sequence, (sequences,).

        The head sees these tokens alone; on all of them a step would take 1.6 times as long.
        """
        hidden = model.roberta(input_ids=inputs).last_hidden_state
        chosen = hidden.gather(1, places.unsqueeze(2).expand(-1, -1, hidden.shape[2]))
        logits = model.lm_head(chosen)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).mean(1)


TASKS = {
    "wiki-gpt2": (CausalTask, "gpt2-mini", "GPT-2"),
    "wiki-roberta": (MaskedTask, "roberta-mini", "RoBERTa"),
    "wikitext103-gpt2": (CausalTask, "gpt2", "GPT-2"),
    "wikibooks-roberta": (MaskedTask, "roberta-large", "RoBERTa"),
}


def load(name: str, tensors, device="cpu") -> Sequences:
    """Return the language model's task called ``name`` on the arrays of its data set."""
    kind, size, what = TASKS[name]
    return kind(tensors, SIZES[size], what, device)
