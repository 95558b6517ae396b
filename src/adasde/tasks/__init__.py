"""Tasks: data, model, loss and test functions under one name. The registry imports no torch.

A task is an object with
  ``size``                 number of training examples
  ``model()``              a new torch module, its weights drawn from torch's global generator
  ``gather(indices)``      the training examples at ``indices``, a tuple of tensors of that length
  ``loss(model, *batch, weights=None)``
                           mean loss of a minibatch, a scalar tensor; with weights, a tensor of one number per example,
                           the sum of the weights times the examples' losses: what SVAG needs, and nothing else
  ``measure(model, sigma, eps)``  test functions of the current weights: metric name -> float; for predictions from
                           the gradient's noise it is told the run's noise scale sigma = 1 / sqrt(batch size) and eps
and is made by ``load(name, tensors)`` of its module from the arrays of its data set. A new task is one entry here
and one module with that function; train.py does not change.
"""

from dataclasses import dataclass
from importlib import import_module

from .. import data
from ..errors import InputError


@dataclass(frozen=True)
class Entry:
    """Where a task is made and which data set it learns; ``title`` is its name in figures."""

    title: str
    data: str
    module: str

    @property
    def dataset(self):
        """Registry entry of the task's data set."""
        return data.dataset_named(self.data)


TASKS = {
    "fashion-cnn": Entry("CNN on Fashion-MNIST", "fashion-mnist", "adasde.tasks.vision"),
    "fashion-resnet": Entry("ResNet on Fashion-MNIST", "fashion-mnist", "adasde.tasks.vision"),
}


def task_named(name: str) -> Entry:
    """Return the registry entry called ``name``; an unknown name is an InputError that lists the known ones."""
    if name not in TASKS:
        raise InputError(f"task = {name!r}: must be one of {', '.join(TASKS)}")
    return TASKS[name]


def load(name: str, root):
    """Return the task called ``name`` on its prepared data under ``root``."""
    entry = task_named(name)
    return import_module(entry.module).load(name, data.load(entry.data, root))
