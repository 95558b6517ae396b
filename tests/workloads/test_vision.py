"""Images are mirrored, cropped and normalised right, networks start well, and few images do without oneDNN."""

import pytest
import torch
from torch.nn import functional as F

from adasde.workloads import vision


@pytest.fixture(scope="module")
def cifar():
    """40 random images in CIFAR-10's form."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (40, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 10, (40,), generator=generator).to(torch.uint8)
    return {"train-images": images, "train-labels": labels, "test-images": images[:8], "test-labels": labels[:8]}


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
    mirrored, corners = task.randomness(9_000, torch.Generator().manual_seed(0))
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
    assert plain.randomness(5) == ()


@pytest.fixture
def settings():
    """Torch's present choice of convolutions: whether oneDNN and NNPACK may do them."""
    before = torch.backends.mkldnn.enabled
    yield lambda: (torch.backends.mkldnn.enabled, torch._C._get_nnpack_enabled())
    torch.backends.mkldnn.enabled = before


@pytest.mark.parametrize("network", vision.WITHOUT_ONEDNN)
def test_few_images_do_without_onednn_and_nothing_stays_changed(network, tensors, settings):
    task, most = vision.load(f"fashion-{network}", tensors), vision.WITHOUT_ONEDNN[network]
    usual = settings()
    for examples, wanted in ((1, (False, False)), (most, (False, False)), (most + 1, usual)):
        with task.kernels(examples):
            assert settings() == wanted
        assert settings() == usual
    with pytest.raises(ZeroDivisionError), task.kernels(1):
        _ = 1 / 0
    assert settings() == usual
    torch.backends.mkldnn.enabled = False
    with task.kernels(1):
        pass
    assert not torch.backends.mkldnn.enabled


def test_gradients_without_onednn_are_those_with_it_up_to_rounding(tensors):
    for network in vision.WITHOUT_ONEDNN:
        task = vision.load(f"fashion-{network}", tensors)
        torch.manual_seed(0)
        model, batch, found = task.model().train(), task.gather(torch.arange(4)), []
        for examples in (4, 4, 1000):
            with task.kernels(examples):
                found.append(torch.autograd.grad(task.loss(model, *batch), list(model.parameters())))
        assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
        for a, b in zip(found[0], found[2], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_other_networks_and_devices_leave_the_choice_to_torch(cifar, tensors, settings):
    usual = settings()
    for task in (
        vision.load("cifar10-vgg16", cifar),
        vision.ImageWorkload(tensors, vision.BUILDERS["cnn"], 0.5, 0.3, device="meta", small=6),
    ):
        with task.kernels(1):
            assert settings() == usual
