"""Plain networks without residual connections: a perceptron and convolutional networks."""

from math import prod

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from lowcurve.models.layers import nonlinearity

Shape = tuple[int, ...]


def mlp(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """Build a perceptron with two hidden layers, for inputs of any shape.

    Args:
        shape: Shape of one input, without the batch.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Width of the hidden layers.

    Returns:
        The network, without a normalization layer.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), width),
        nonlinearity(act),
        nn.Linear(width, width),
        nonlinearity(act),
        nn.Linear(width, classes),
    )


def small_convnet(shape: Shape, classes: int, act: str, width: int = 32) -> nn.Sequential:
    """Build a network of three 3x3 convolutions and two linear layers, without BatchNorm.

    The convolutions have strides 1, 2, 2 and width, 2 width, 2 width channels.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first convolution.

    Returns:
        The network, without a normalization layer.
    """
    channels, height, breadth = shape
    flat = 2 * width * (-(-height // 4)) * (-(-breadth // 4))
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nonlinearity(act),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nonlinearity(act),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
        nonlinearity(act),
        nn.Flatten(),
        nn.Linear(flat, 4 * width),
        nonlinearity(act),
        nn.Linear(4 * width, classes),
    )


def yu2018_mnist(shape: Shape, classes: int, act: str, width: int = 16) -> nn.Sequential:
    """Build a network of two 5x5 convolutions with max-pooling and two linear layers.

    Each nonlinearity follows the pooling. For an increasing nonlinearity this is the same function with a quarter of the
    work; for GELU and SiLU it is a different one. The weights are in channels-last format, in which the pooling is fastest.
    Both together save 10 to 25 % of the time of a PGD-10 step.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first convolution.

    Returns:
        The network, without a normalization layer.

    Reference: yu2018interpreting, section 8.3 ("four-layer"); the paper gives no widths, these are 16, 32 and 128.
    """
    channels, height, breadth = shape
    flat = 2 * width * (height // 4) * (breadth // 4)
    network = nn.Sequential(
        nn.Conv2d(channels, width, 5, padding=2),
        nn.MaxPool2d(2),
        nonlinearity(act),
        nn.Conv2d(width, 2 * width, 5, padding=2),
        nn.MaxPool2d(2),
        nonlinearity(act),
        nn.Flatten(),
        nn.Linear(flat, 8 * width),
        nonlinearity(act),
        nn.Linear(8 * width, classes),
    )
    return convert_conv2d_weight_memory_format(network, torch.channels_last)


def yu2018_cifar(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """Build a network of five 3x3 convolutions, global average pooling and one linear layer.

    The second and the fourth convolution have stride 2.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first convolution.

    Returns:
        The network, without a normalization layer.

    Reference: yu2018interpreting, section 8.3 ("five convolutional layers and one global average pooling layer"); the
    paper gives no widths, these are 64, 64, 128, 128, 256.
    """
    widths, strides = (width, width, 2 * width, 2 * width, 4 * width), (1, 2, 1, 2, 1)
    layers: list[nn.Module] = []
    before = shape[0]
    for after, stride in zip(widths, strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nonlinearity(act)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
