"""Fine-tuning: texts classified by a pre-trained RoBERTa, the articles of paragraphs and the tasks of GLUE."""

import torch
from torch import nn
from torch.nn import functional as F

from adasde.common import InputError
from adasde.workloads.data import text
from adasde.workloads.language import (
    CHUNK,
    NOISE_CHUNK,
    SIZES,
    SUBSET,
    Size,
    fitting_vocabulary,
    fixed_sample,
    roberta,
)
from adasde.workloads.metrics import loss_and_gradient, squared_norm


def accuracy(predicted, labels) -> float:
    """Share of the texts classified correctly."""
    return (predicted == labels).double().mean().item()


def f1(predicted, labels) -> float:
    """Harmonic mean of precision and recall of class 1."""
    found = ((predicted == 1) & (labels == 1)).sum().item()
    return 2.0 * found / max(1, (predicted == 1).sum().item() + (labels == 1).sum().item())


def pearson(predicted, labels) -> float:
    """Correlation of numbers, or of classes 0 and 1, whose it is Matthews'; 0 where all predictions are equal."""
    x, y = (values.double() - values.double().mean() for values in (predicted, labels))
    scale = (x.norm() * y.norm()).item()
    return (x @ y).item() / scale if scale else 0.0


def spearman(predicted, labels) -> float:
    """Correlation of ranks."""
    from scipy.stats import rankdata

    return pearson(*(torch.from_numpy(rankdata(values.cpu().numpy())) for values in (predicted, labels)))


SCORES = {"test_accuracy": accuracy, "f1": f1, "matthews": pearson, "pearson": pearson, "spearman": spearman}


class ClassificationTask:
    """Telling texts apart with a RoBERTa whose encoder has been pre-trained, all its weights being trained.

    ``scores`` are the task's usual ones, of SCORES. Labels that are numbers, not classes, make it a regression.
    ``pretrained`` are the weights of a `language.MaskedTask`'s model, by name; without them the encoder is new.
    """

    def __init__(self, tensors, size: Size, name: str, scores, pretrained=None, device="cpu"):
        self.device = torch.device(device)
        self.known = fitting_vocabulary(tensors, size, "RoBERTa", text.SPECIAL)
        self.dimensions, self.scores, self.pretrained = size, scores, pretrained
        self.inputs, self.labels = self._padded(tensors, f"{name}-train")
        self.regression = self.labels.is_floating_point()
        self.classes = 1 if self.regression else int(self.labels.max()) + 1
        few = fixed_sample(len(self.inputs), SUBSET).to(self.device)  # not the first, which are often of one class
        self.subset = self._chunks(self.inputs[few], self.labels[few], NOISE_CHUNK)
        self.test = self._chunks(*self._padded(tensors, f"{name}-test"), CHUNK)

    @property
    def size(self) -> int:
        """Number of training texts."""
        return len(self.inputs)

    def model(self) -> nn.Module:
        """Return a network with the pre-trained encoder and a new head."""
        model = roberta(self.dimensions, self.known, labels=self.classes)
        if self.pretrained is not None:
            encoder = {key: value for key, value in self.pretrained.items() if key.startswith("roberta.")}
            there = {key: value.shape for key, value in model.state_dict().items() if key.startswith("roberta.")}
            wrong = [
                key for key in there.keys() | encoder if there.get(key) != getattr(encoder.get(key), "shape", None)
            ]
            if wrong:
                raise InputError(f"pretrained: weights of another model; {min(wrong)} does not fit")
            model.load_state_dict(encoder, strict=False)
        return model

    def noise(self, count, generator=None):
        """Return nothing: texts are taken as they are."""
        return ()

    def gather(self, indices):
        """Return tokens (texts, length + 2), padded, and labels (texts,)."""
        indices = indices.to(self.device)
        return self.inputs.index_select(0, indices), self.labels.index_select(0, indices)

    def loss(self, model, inputs, labels, weights=None):
        """Mean cross-entropy in nats, or squared error, or its weighted sum over the texts."""
        losses = self._losses(self._outputs(model, inputs), labels)
        return losses.mean() if weights is None else losses @ weights.to(losses.dtype)

    def measure(self, model, sigma, eps) -> dict[str, float]:
        """Return the test functions; see the glossary in measure.py."""
        model.eval()
        training = loss_and_gradient(model, self.loss, self.subset, sigma, eps)
        with torch.inference_mode():
            outputs = torch.cat([self._outputs(model, inputs) for inputs, _ in self.test])
        model.train()
        labels = torch.cat([labels for _, labels in self.test])
        predicted = outputs[:, 0] if self.regression else outputs.argmax(1)
        return {
            **training,
            "test_loss": self._losses(outputs, labels).mean().item(),
            **{score: SCORES[score](predicted, labels) for score in self.scores},
            "squared_norm": squared_norm(model),
        }

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
        """Return as many of a text's tokens as fit: the first, or of a pair of sentences those of the longer one."""
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


GLUE = {
    "cola": ("matthews",),
    "mrpc": ("f1", "test_accuracy"),
    "qqp": ("f1", "test_accuracy"),
    "stsb": ("pearson", "spearman"),
}


def load(name: str, tensors, pretrained=None, device="cpu") -> ClassificationTask:
    """Return the task called ``name`` on the arrays of its data set; of its scores the first is the one compared."""
    if name == "wiki-articles":
        return ClassificationTask(tensors, SIZES["roberta-mini"], "paragraphs", ("test_accuracy",), pretrained, device)
    scores = GLUE.get(name.removeprefix("glue-"), ("test_accuracy",))
    return ClassificationTask(tensors, SIZES["roberta-large"], "glue", scores, pretrained, device)
