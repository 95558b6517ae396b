"""Networks for images: two small ones of ours, and those of the paper for images of 32 by 32 pixels."""

from torch import nn
from torch.nn import functional as F


def fashion_cnn() -> nn.Module:
    """Two strided convolutions and a linear layer, no normalisation; 20,746 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        ChannelsLastFlatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def fashion_resnet() -> nn.Module:
    """Two strided residual blocks of widths 16 and 32 with batch norm, after a strided convolution; 18,626 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(8, 16, stride=2),
        Block(16, 32, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class ChannelsLastFlatten(nn.Module):
    """Flatten (images, channels, height, width) in the order in which channels-last memory holds it.

    nn.Flatten would copy, and hand the ReLU before it a gradient in another order than its output, whose backward
    pass then runs element by element: a training step took 7% (B = 32) to 25% (B = 512) longer.
    """

    def forward(self, x):
        """Map to (images, height * width * channels), without a copy if ``x`` is channels-last."""
        return x.permute(0, 2, 3, 1).flatten(1)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = self.shortcut_of(inputs, outputs, stride)

    @staticmethod
    def shortcut_of(inputs, outputs, stride) -> nn.Module:
        """Return what brings the block's input to its output's shape."""
        if stride == 1 and inputs == outputs:
            return nn.Identity()
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        """Map (images, inputs, height, width) to (images, outputs, height / stride, width / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))


def vgg16() -> nn.Module:
    """VGG-16 with batch norm for 32 x 32 images, one linear layer behind the convolutions; 14,728,266 weights.

    Convolutions and batch norms are torchvision's, with its initial weights. As in the authors' code there is no hidden
    linear layer, as which torchvision's 224 x 224 pixels need two.
    """
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
    network = nn.Sequential(features, nn.Flatten(), nn.Linear(512, 10))
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
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)  # as in the authors' code
    return network


def resnet50() -> nn.Module:
    """ResNet-50 for 32 x 32 images: torchvision's, whose first convolution keeps the size; 23,520,842 weights."""
    from torchvision.models import resnet50

    network = resnet50(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


class PaddedBlock(Block):
    """A block whose shortcut has no weights."""

    @staticmethod
    def shortcut_of(inputs, outputs, stride) -> nn.Module:
        """Return what strides, and pads the channels with zeros on both sides."""
        return nn.Identity() if stride == 1 and inputs == outputs else Padding((outputs - inputs) // 2, stride)


class Padding(nn.Module):
    """Every ``stride``-th pixel, with ``channels`` of zeros before and behind the channels."""

    def __init__(self, channels, stride):
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x):
        """Map (images, inputs, height, width) to (images, inputs + 2 channels, height / stride, width / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.channels, self.channels))
