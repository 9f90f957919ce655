"""Public trained networks in plain torch: factories for `--model`, which take weights that others have trained.

    lowcurve measure --model lowcurve.examples.public_networks:lenet5 --weights FILE --data mnist
    lowcurve attack --model lowcurve.examples.public_networks:resnet20 --weights FILE --data cifar10 --radius 1/255

`lenet5` is the MNIST network of advertorch (LGPL-3.0). Its weights are the files mnist_lenet5_clntrained.pt and
mnist_lenet5_advtrained.pt of github.com/BorealisAI/advertorch. `resnet20` is the CIFAR-10 ResNet-20 of He et al. 2016. Its
weights are the file resnet20-12fca82f.th of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2). `soft_lenet5` and
`soft_resnet20` take the same weights and replace ReLU by softplus. All take pixels in [0, 1].

A model of your own needs only a function without arguments that returns a torch.nn.Module.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LeNet5(nn.Module):
    """Two 3x3 convolutions with max-pooling and two linear layers, without normalization.

    Args:
        activation: The elementwise nonlinearity.
    """

    def __init__(self, activation: Activation = torch.relu) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(64 * 7 * 7, 200)
        self.linear2 = nn.Linear(200, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = F.max_pool2d(self.activation(self.conv1(x)), 2)
        x = F.max_pool2d(self.activation(self.conv2(x)), 2)
        logits: Tensor = self.linear2(self.activation(self.linear1(x.flatten(1))))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights: strided, with zeros for new channels (option A).

    Args:
        before: Number of input channels.
        after: Number of output channels.
        stride: Stride of the first convolution.
        activation: The elementwise nonlinearity.
    """

    def __init__(self, before: int, after: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.padding = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        x = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(x)) + shortcut)


class ResNet20(nn.Module):
    """A stem of 16 channels, three stages of three blocks with 16, 32 and 64 channels, and one linear layer.

    Args:
        activation: The elementwise nonlinearity.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, activation: Activation = torch.relu) -> None:
        super().__init__()
        self.activation = activation
        # Not persistent, because the public weights do not contain them.
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, activation)
        self.layer2 = _stage(16, 32, 2, activation)
        self.layer3 = _stage(32, 64, 2, activation)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.activation(self.bn1(self.conv1((x - self.mean) / self.std)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(beta x)) / beta with beta = 10, which differs from ReLU by at most 0.07.

    Args:
        x: A tensor of any shape.
    """
    return F.softplus(x, 10)


def lenet5() -> nn.Module:
    """Return a new LeNet5 for MNIST."""
    return LeNet5()


def resnet20() -> nn.Module:
    """Return a new ResNet-20 for CIFAR-10."""
    return ResNet20()


def soft_lenet5() -> nn.Module:
    """Return a new LeNet5 with softplus instead of ReLU."""
    return LeNet5(softplus)


def soft_resnet20() -> nn.Module:
    """Return a new ResNet-20 with softplus instead of ReLU."""
    return ResNet20(softplus)


def _stage(before: int, after: int, stride: int, activation: Activation) -> nn.Sequential:
    blocks = (
        BasicBlock(before, after, stride, activation),
        BasicBlock(after, after, 1, activation),
        BasicBlock(after, after, 1, activation),
    )
    return nn.Sequential(*blocks)
