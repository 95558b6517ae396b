"""The paper's networks are the known ones."""

import pytest
import torch
from torch import nn

from adasde.workloads import networks, vision

# He et al. 2015, table 6, gives 0.85 million for ResNet-56; the others follow from torchvision's networks by hand.
WEIGHTS = {"vgg16": 14_728_266, "resnet56": 853_018, "resnet50": 23_520_842, "cnn": 20_746, "resnet": 18_626}


@pytest.mark.parametrize("name", WEIGHTS)
def test_networks_have_the_known_numbers_of_weights(name):
    assert sum(p.numel() for p in vision.BUILDERS[name]().parameters()) == WEIGHTS[name]


def test_vgg16_is_torchvisions_up_to_its_classifier():
    from torchvision.models import vgg16_bn

    ours, theirs = networks.vgg16(), vgg16_bn()
    ours[0].load_state_dict(theirs.features.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours[0].eval()(x), theirs.features.eval()(x))
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in ours.modules()) == 14  # 16 less two hidden linear layers


def test_resnet56_has_56_layers_and_shortcuts_without_weights():
    torch.manual_seed(0)
    network = networks.resnet56().eval()
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == 56
    block = next(m for m in network if isinstance(m, networks.PaddedBlock) and not isinstance(m.shortcut, nn.Identity))
    x = torch.randn(2, 16, 8, 8)
    padded = block.shortcut(x)
    assert padded.shape == (2, 32, 4, 4)
    assert torch.equal(padded[:, 8:24], x[:, :, ::2, ::2])
    assert padded[:, :8].abs().max() == padded[:, 24:].abs().max() == 0
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
