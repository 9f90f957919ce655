"""Plain convolutional networks: the study's small one, the two of yu2018interpreting, and a perceptron for the plane."""

from math import prod

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from lowcurve.models.layers import nonlinearity

Shape = tuple[int, ...]


def mlp(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """Two hidden layers, for points of the plane and anything else that is not an image."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), width),
        nonlinearity(act),
        nn.Linear(width, width),
        nonlinearity(act),
        nn.Linear(width, classes),
    )


def small_convnet(shape: Shape, classes: int, act: str, width: int = 32) -> nn.Sequential:
    """Three 3x3 convolutions (strides 1, 2, 2; width, 2 width, 2 width channels) and two linear layers, no BatchNorm."""
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
    """Two 5x5 convolutions with max-pooling and two linear layers.

    The nonlinearity stands behind the pooling, which with one that increases is the same function for a quarter of its
    work (with GELU or SiLU it is another one). The weights have their channels last, as the pooling is fastest. So a step
    of PGD-10 takes a tenth to a quarter less time, most of it on a busy machine.

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
    """Five 3x3 convolutions, the second and fourth with stride 2, global average pooling, one linear layer.

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
