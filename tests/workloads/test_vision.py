"""tasks/vision.py and networks.py: the paper's networks are the known ones; images are mirrored and cropped right."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adasde.workloads import networks, vision

# He et al. 2015, table 6, gives 0.85 million for ResNet-56; the others follow from torchvision's networks by hand.
WEIGHTS = {"vgg16": 14_728_266, "resnet56": 853_018, "resnet50": 23_520_842, "cnn": 20_746, "resnet": 18_626}


@pytest.fixture(scope="module")
def cifar():
    """40 random images in CIFAR-10's form."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (40, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 10, (40,), generator=generator).to(torch.uint8)
    return {"train-images": images, "train-labels": labels, "test-images": images[:8], "test-labels": labels[:8]}


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


@pytest.mark.parametrize("name", ["cifar10-vgg16", "cifar10-resnet56", "cifar10-resnet50"])
def test_initial_outputs_are_of_the_size_of_their_inputs(name, cifar):
    torch.manual_seed(0)
    task = vision.load(name, cifar)
    images, labels = task.gather(torch.arange(16))
    assert images.shape == (16, 3, 32, 32)
    loss = task.loss(task.model().train(), images, labels)
    assert 1.5 < loss.item() < 6.0  # guessing costs log(10) = 2.3


def test_images_are_mirrored_and_shifted_by_up_to_four_pixels(cifar):
    task = vision.load("cifar10-vgg16", cifar)
    images = task.images[:4]
    framed = F.pad(images, (4, 4, 4, 4))
    mirrored, corners = torch.tensor([True, False, True, False]), torch.tensor([[0, 8], [4, 4], [8, 3], [1, 0]])
    found = task._augmented(images, mirrored, corners)
    for image, frame, flip, (row, column) in zip(found, framed, mirrored, corners, strict=True):
        wanted = frame[:, row : row + 32, column : column + 32]
        assert torch.equal(image, wanted.flip(2) if flip else wanted)
    assert torch.equal(found[1], images[1])


def test_the_noise_of_images_is_uniform(cifar):
    task = vision.load("cifar10-vgg16", cifar)
    mirrored, corners = task.noise(9_000, torch.Generator().manual_seed(0))
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / 9_000**0.5
    counts = corners.flatten().bincount().double()
    assert len(counts) == 9
    assert (counts - 2_000).abs().max() < 4 * (2_000 * 8 / 9) ** 0.5
    assert task.gather(torch.arange(3))[0].is_contiguous(memory_format=torch.channels_last)


def test_images_are_normalised_channel_by_channel(cifar):
    task = vision.load("cifar10-vgg16", cifar)
    still = (torch.zeros(1, dtype=torch.bool), torch.full((1, 2), 4))
    found = task.gather(torch.tensor([7]), *still)[0][0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in vision.PIXELS["cifar10"])
    assert torch.allclose(found, (cifar["train-images"][7] / 255.0 - mean) / std, atol=1e-5)


def test_fashion_mnist_is_framed_to_cifars_form(tensors):
    task = vision.load("fashion32-resnet56", tensors)
    assert task.images.shape[1:] == (3, 32, 32)
    assert torch.equal(task.images[5, 2, 2:30, 2:30], tensors["train-images"][5, 0])
    assert task.images[:, :, :2].max() == 0
    plain = vision.load("fashion-cnn", tensors)
    assert plain.noise(5) == ()
