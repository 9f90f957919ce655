"""Public trained networks in plain torch: factories for `--model`, to be given weights that others have trained.

From the folder that holds `examples`:

    lowcurve measure --model lowcurve.examples.public_networks:lenet5 --weights FILE --data mnist
    lowcurve attack --model lowcurve.examples.public_networks:resnet20 --weights FILE --data cifar10 --radius 1/255

lenet5: the MNIST network of advertorch (LGPL-3.0), files mnist_lenet5_clntrained.pt and mnist_lenet5_advtrained.pt of
github.com/BorealisAI/advertorch. resnet20: CIFAR-10 ResNet-20 of He et al. 2016, file resnet20-12fca82f.th of
github.com/akamaster/pytorch_resnet_cifar10 (BSD-2). Both take pixels in [0, 1]. soft_lenet5, soft_resnet20: the same
weights with softplus in place of ReLU.

A model of your own needs no more than this: a function without arguments that returns a torch.nn.Module.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Bend = Callable[[Tensor], Tensor]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LeNet5(nn.Module):
    """Two 3x3 convolutions with max-pooling, two linear layers; no normalization."""

    def __init__(self, bend: Bend = torch.relu) -> None:
        super().__init__()
        self.bend = bend
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(64 * 7 * 7, 200)
        self.linear2 = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bend(self.conv1(x)), 2)
        x = F.max_pool2d(self.bend(self.conv2(x)), 2)
        logits: Tensor = self.linear2(self.bend(self.linear1(x.flatten(1))))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights: every second pixel, new channels zero (option A)."""

    def __init__(self, before: int, after: int, stride: int, bend: Bend) -> None:
        super().__init__()
        self.bend = bend
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.padding = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        x = self.bend(self.bn1(self.conv1(x)))
        return self.bend(self.bn2(self.conv2(x)) + shortcut)


class ResNet20(nn.Module):
    """A stem of 16 channels, three stages of three blocks with 16, 32 and 64 channels, one linear layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, bend: Bend = torch.relu) -> None:
        super().__init__()
        self.bend = bend
        # Not in the state dict, since the public weights know nothing of it, and yet on the model's device.
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, bend)
        self.layer2 = _stage(16, 32, 2, bend)
        self.layer3 = _stage(32, 64, 2, bend)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bend(self.bn1(self.conv1((x - self.mean) / self.std)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def softplus(x: Tensor) -> Tensor:
    """ReLU made smooth: log(1 + exp(beta x)) / beta with beta = 10, which is at most 0.07 away."""
    return F.softplus(x, 10)


def lenet5() -> nn.Module:
    """A new LeNet5 for MNIST."""
    return LeNet5()


def resnet20() -> nn.Module:
    """A new ResNet-20 for CIFAR-10."""
    return ResNet20()


def soft_lenet5() -> nn.Module:
    """A new LeNet5 with softplus in place of ReLU."""
    return LeNet5(softplus)


def soft_resnet20() -> nn.Module:
    """A new ResNet-20 with softplus in place of ReLU."""
    return ResNet20(softplus)


def _stage(before: int, after: int, stride: int, bend: Bend) -> nn.Sequential:
    blocks = (
        BasicBlock(before, after, stride, bend),
        BasicBlock(after, after, 1, bend),
        BasicBlock(after, after, 1, bend),
    )
    return nn.Sequential(*blocks)
