"""The base classes: what a workload and a data set must define, and what they get."""

import pytest
import torch

from adasde.common import InputError
from adasde.workloads import Dataset, Workload
from adasde.workloads.data.registry import DATASETS


class Line(Workload):
    """The least that a workload defines."""

    device = torch.device("cpu")
    size = 10

    def model(self):
        return torch.nn.Linear(1, 1)

    def gather(self, indices, *noise):
        return indices[:, None].float(), 2.0 * indices[:, None].float()

    def loss(self, model, inputs, targets, weights=None):
        losses = ((model(inputs) - targets) ** 2)[:, 0]
        return losses.mean() if weights is None else losses @ weights

    def measure(self, model, meter=None, tested=None):
        return {"train_loss": self.loss(model, *self.gather(torch.arange(10))).item()}


def test_a_workload_changes_no_examples_and_is_gathered_by_default():
    line = Line()
    assert line.randomness(5) == ()
    assert not line.streamed
    with line.kernels(1) as nothing:
        assert nothing is None
    draws = [(torch.tensor([1, 2]),), (torch.tensor([3]),)]
    found = list(line.stream(iter(draws)))
    assert all(torch.equal(a, b) for one, draw in zip(found, draws, strict=True)
               for a, b in zip(one, line.gather(*draw), strict=True))  # fmt: skip


def test_what_is_missing_is_said_when_a_workload_is_made():
    class Half(Workload):
        size = 10

    with pytest.raises(TypeError, match="gather.*loss.*measure.*model"):
        Half()


def test_every_data_set_says_what_it_is():
    for name, dataset in DATASETS.items():
        assert isinstance(dataset, Dataset)
        assert dataset.name == name
        assert dataset.licence
        assert dataset.unit
        assert min(dataset.download_bytes, dataset.prepared_bytes, dataset.train_size, dataset.test_size) > 0


def test_only_imagenet_has_a_packed_form():
    assert DATASETS["imagenet"].packed_form().packed
    with pytest.raises(InputError, match="packed: cifar-10 has no packed form; leave it out, or name imagenet"):
        DATASETS["cifar-10"].packed_form()
