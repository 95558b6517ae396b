"""Networks for images: two small ones of ours, and those of the paper for images of 32 by 32 pixels."""

from torch import Tensor, nn
from torch.nn import functional as F


def fashion_cnn() -> nn.Module:
    """Two strided convolutions and a linear layer without normalisation; 20,746 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        ChannelsLastFlatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def fashion_resnet() -> nn.Module:
    """A strided convolution and two strided residual blocks of widths 16 and 32, with batch norm; 18,626 weights."""
    first = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
    return _residual(first, [Block(8, 16, stride=2), Block(16, 32, stride=2)], 8, 32)


class ChannelsLastFlatten(nn.Module):
    """Flatten (images, channels, height, width) in the order in which channels-last memory holds it.

    nn.Flatten would copy, and give the ReLU before it a gradient in another memory order than its output. The ReLU's
    backward pass would then go element by element: a training step took 7% (B = 32) to 25% (B = 512) longer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map to (images, height * width * channels), without a copy if ``x`` is channels-last."""
        return x.permute(0, 2, 3, 1).flatten(1)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else self.shortcut_of(inputs, outputs, stride)

    @staticmethod
    def shortcut_of(inputs: int, outputs: int, stride: int) -> nn.Module:
        """Return the module that brings the block's input to its output's shape."""
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (images, inputs, height, width) to (images, outputs, height / stride, width / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))


def vgg16() -> nn.Module:
    """VGG-16 with batch norm for 32 x 32 images: torchvision's with one linear layer at the end; 14,728,266 weights.

    Initial weights are torchvision's. As in the authors' code there are no hidden linear layers; torchvision's 224 x
    224 images need two.
    """
    vgg = _torchvision().vgg
    network = nn.Sequential(vgg.make_layers(vgg.cfgs["D"], batch_norm=True), nn.Flatten(), nn.Linear(512, 10))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    nn.init.normal_(network[2].weight, 0.0, 0.01)
    nn.init.zeros_(network[2].bias)
    return network


def resnet56() -> nn.Module:
    """ResNet-56 of He et al. 2015 for 32 x 32 images: three stages of nine blocks; 853,018 weights.

    Where the shape changes, the shortcut takes every second pixel and pads the channels with zeros (their option A).
    """
    blocks, inputs = [], 16
    for width in (16, 32, 64):
        for number in range(9):
            blocks.append(PaddedBlock(inputs, width, stride=2 if width > 16 and number == 0 else 1))
            inputs = width
    network = _residual(nn.Conv2d(3, 16, 3, padding=1, bias=False), blocks, 16, 64)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)  # as in the authors' code
    return network


def resnet50() -> nn.Module:
    """ResNet-50 for 32 x 32 images: torchvision's, whose first convolution keeps the size; 23,520,842 weights."""
    network = _torchvision().resnet50(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


class PaddedBlock(Block):
    """A block whose shortcut has no weights."""

    @staticmethod
    def shortcut_of(inputs: int, outputs: int, stride: int) -> nn.Module:
        """Return a module that strides and pads the channels with zeros on both sides."""
        return Padding((outputs - inputs) // 2, stride)


class Padding(nn.Module):
    """Every ``stride``-th pixel, with ``channels`` channels of zeros before and after the others."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (images, inputs, height, width) to (images, inputs + 2 channels, height / stride, width / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.channels, self.channels))


def _residual(first, blocks, inputs, outputs):
    """Return a residual network for ten classes: ``first`` has ``inputs`` channels, the last block ``outputs``."""
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 10))
    return nn.Sequential(first, nn.BatchNorm2d(inputs), nn.ReLU(), *blocks, *end)


def _torchvision():
    from torchvision import models  # takes as long to import as torch, and most networks here do without it

    return models
