"""Fine-tuning: a pre-trained RoBERTa classifies texts, the paragraphs of articles and the tasks of GLUE."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from adasde.common import InputError
from adasde.scaling.gradient_noise import SpeedMeter
from adasde.workloads.base import Workload
from adasde.workloads.data import text
from adasde.workloads.language import CHUNK, GRADED, NOISE_CHUNK, SIZES, SUBSET, Size, fitting_vocabulary, roberta
from adasde.workloads.metrics import evaluate, first, fixed_sample


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the share of the texts classified correctly."""
    return (predicted == labels).double().mean().item()


def f1(predicted: Tensor, labels: Tensor) -> float:
    """Return the harmonic mean of precision and recall of class 1."""
    found = ((predicted == 1) & (labels == 1)).sum().item()
    return 2.0 * found / max(1, (predicted == 1).sum().item() + (labels == 1).sum().item())


def pearson(predicted: Tensor, labels: Tensor) -> float:
    """Return the correlation, 0 where all predictions are equal; of classes 0 and 1 it is Matthews' correlation."""
    return _correlation(pearsonr, predicted, labels)


def spearman(predicted: Tensor, labels: Tensor) -> float:
    """Return the correlation of ranks, 0 where all predictions are equal."""
    return _correlation(spearmanr, predicted, labels)


def _correlation(of: Callable[..., Any], predicted: Tensor, labels: Tensor) -> float:
    x, y = (values.double().cpu().numpy() for values in (predicted, labels))
    return float(of(x, y).statistic) if np.ptp(x) and np.ptp(y) else 0.0  # scipy has NaN, and a warning, in its place


SCORES = {"test_accuracy": accuracy, "f1": f1, "matthews": pearson, "pearson": pearson, "spearman": spearman}


class ClassificationWorkload(Workload):
    """Classification of texts with a RoBERTa whose encoder has been pre-trained; all weights are trained.

    ``name`` is that of the arrays before -train and -test. Labels that are numbers make it a regression. ``scores`` are
    the metrics beside the loss, names of SCORES. ``pretrained`` are the weights of a masked language model, by name;
    without them the encoder is new.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        size: Size,
        name: str,
        scores: Sequence[str],
        pretrained: Mapping[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        self.known = fitting_vocabulary(tensors, size, "RoBERTa", text.SPECIAL)
        self.dimensions, self.scores, self.pretrained = size, scores, pretrained
        self.inputs, self.labels = self._padded(tensors, f"{name}-train")
        self.regression = self.labels.is_floating_point()
        self.classes = 1 if self.regression else int(self.labels.max()) + 1
        some = fixed_sample(len(self.inputs), GRADED).to(self.device)  # the first are often all of one class
        self.subset = self._chunks(self.inputs[some[:SUBSET]], self.labels[some[:SUBSET]], CHUNK)
        self.graded = self._chunks(self.inputs[some], self.labels[some], NOISE_CHUNK)
        self.test = self._chunks(*self._padded(tensors, f"{name}-test"), CHUNK)

    @property
    def size(self) -> int:
        return len(self.inputs)

    def model(self) -> nn.Module:
        """Return a network with the pre-trained encoder and a new head. InputError if the weights do not fit."""
        model = roberta(self.dimensions, self.known, labels=self.classes)
        if self.pretrained is not None:
            encoder = {key: value for key, value in self.pretrained.items() if key.startswith("roberta.")}
            found = {key: value.shape for key, value in encoder.items()}
            wanted = {key: value.shape for key, value in model.state_dict().items() if key.startswith("roberta.")}
            if wrong := [key for key in wanted.keys() | found if wanted.get(key) != found.get(key)]:
                raise InputError(f"pretrained: weights of another model; {min(wrong)} does not fit")
            model.load_state_dict(encoder, strict=False)
        return model

    def gather(self, indices: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """Return tokens (texts, length + 2), padded, and labels (texts,)."""
        indices = indices.to(self.device)
        return self.inputs.index_select(0, indices), self.labels.index_select(0, indices)

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy in nats or squared error, or its weighted sum over the texts."""
        losses = self._losses(self._outputs(model, inputs), labels)
        return losses.mean() if weights is None else losses @ weights.to(losses.dtype)

    def measure(self, model: nn.Module, meter: SpeedMeter | None = None, tested: int | None = None) -> dict[str, float]:
        def held_out():
            chunks = list(first(self.test, tested))
            with torch.inference_mode():
                outputs = torch.cat([self._outputs(model, inputs) for inputs, _ in chunks])
            labels = torch.cat([labels for _, labels in chunks])
            predicted = outputs[:, 0] if self.regression else outputs.argmax(1)
            scores = {score: SCORES[score](predicted, labels) for score in self.scores}
            return {"test_loss": self._losses(outputs, labels).mean().item(), **scores}

        return evaluate(self, model, meter, held_out)

    def _losses(self, outputs, labels):
        if self.regression:
            return (outputs[:, 0] - labels) ** 2
        return F.cross_entropy(outputs, labels, reduction="none")

    def _outputs(self, model, inputs):
        return model(input_ids=inputs, attention_mask=inputs != self.known["<pad>"]).logits

    def _padded(self, tensors, name):
        """Return the texts' tokens, cut to fit, between <s> and </s>, padded, (texts, length + 2), and their labels."""
        tokens, index = tensors[name], tensors[f"{name}-index"]
        inputs = torch.full((len(index) - 1, self.dimensions.length + 2), self.known["<pad>"])
        for row, start, end in zip(inputs, index[:-1], index[1:] - 1, strict=True):  # without the end of the document
            kept = self._cut(tokens[start:end].long())
            row[0], row[len(kept) + 1] = self.known["<s>"], self.known["</s>"]
            row[1 : len(kept) + 1] = kept
        labels = tensors[f"{name}-labels"]
        return inputs.to(self.device), (labels if labels.is_floating_point() else labels.long()).to(self.device)

    def _cut(self, tokens):
        """Cut a text to the model's length: at its end or, for a pair of sentences, at the end of the longer one."""
        length, end = self.dimensions.length, self.known["</s>"]
        if len(tokens) <= length:
            return tokens
        ends = (tokens == end).nonzero().flatten().tolist()
        between = next((place for place in ends if tokens[place + 1 : place + 2].tolist() == [end]), None)
        if between is None:
            return tokens[:length]
        first, second = tokens[:between], tokens[between + 2 :]
        longer, shorter = max(len(first), len(second)), min(len(first), len(second))
        shorter = min(shorter, (length - 2) // 2)
        longer = min(longer, length - 2 - shorter)
        counts = (longer, shorter) if len(first) > len(second) else (shorter, longer)
        return torch.cat([first[: counts[0]], tokens[between : between + 2], second[: counts[1]]])

    def _chunks(self, inputs, labels, size):
        return list(zip(inputs.split(size), labels.split(size), strict=True))


# The scores of GLUE's tasks other than the accuracy alone. The first is the one that is compared.
GLUE = {
    "cola": ("matthews",),
    "mrpc": ("f1", "test_accuracy"),
    "qqp": ("f1", "test_accuracy"),
    "stsb": ("pearson", "spearman"),
}


def load(
    name: str,
    tensors: Mapping[str, Tensor],
    pretrained: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> ClassificationWorkload:
    """Return the workload called ``name`` on the arrays of its data set."""
    size, arrays = ("roberta-mini", "paragraphs") if name == "wiki-articles" else ("roberta-large", "glue")
    scores = GLUE.get(name.removeprefix("glue-"), ("test_accuracy",))
    return ClassificationWorkload(tensors, SIZES[size], arrays, scores, pretrained, device)
