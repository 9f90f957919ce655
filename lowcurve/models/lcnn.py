"""LCNN's own networks: residual blocks that do not lengthen, BatchNorm without weights, every convolution with a gamma."""

import math

import torch
from torch import Tensor, nn

from lowcurve.models.convolutional import Shape
from lowcurve.models.layers import nonlinearity
from lowcurve.models.lipschitz import LipschitzBatchNorm2d, LipschitzLinear, prepare_norms
from lowcurve.models.residual import convolution


class ScaledBlock(nn.Module):
    """act2((norm2(conv2(act1(norm1(conv1(x / sqrt(2)))))) + shortcut(x / sqrt(2))) / 2): the mean of two arms, each of which
    gets its share of x, so that no sum lengthens.

    Behind BatchNorm nothing is left of the 1 / sqrt(2); an identity shortcut keeps it, and carries 0.354 x.

    Reference: srinivas2022lcnn, section 3 (the residual block of its code).
    """

    def __init__(self, before: int, after: int, stride: int, act: str, clipped: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolution(before, after, 3, stride), convolution(after, after, 3)
        self.norm1, self.norm2 = _norm(self.conv1, clipped), _norm(self.conv2, clipped)
        self.act1, self.act2 = nonlinearity(act), nonlinearity(act)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            projection = convolution(before, after, 1, stride)
            self.shortcut = nn.Sequential(projection, _norm(projection, clipped))

    def forward(self, x: Tensor) -> Tensor:
        shared = x * math.sqrt(0.5)
        inner = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(shared)))))
        result: Tensor = self.act2((inner + self.shortcut(shared)) * 0.5)
        return result


def lcnn_resnet18(shape: Shape, classes: int, act: str, width: int = 64, clipped: bool = True) -> nn.Sequential:
    """LCNN's ResNet-18: `ScaledBlock`s, BatchNorm without weights, a spectrally normalized head, 17 nonlinearities and 20
    gammas. 11.2 M parameters at width 64 and 100 classes.

    clipped: with gammas, else the same network without them, on which the paper trains what it compares with.

    Reference: srinivas2022lcnn, section 5.
    """
    layers: list[nn.Module] = _stage(shape[0], width, act, clipped)
    before = width
    for stage, after in enumerate((width, 2 * width, 4 * width, 8 * width)):
        for block in range(2):
            layers.append(ScaledBlock(before, after, 2 if stage and not block else 1, act, clipped))
            before = after
    head = LipschitzLinear(before, classes, clips=False)
    return _prepared(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), shape)


def lcnn_resnet18_plain(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """LCNN's ResNet-18 without gammas: the network of the methods that the paper compares with."""
    return lcnn_resnet18(shape, classes, act, width, clipped=False)


def lcnn_vgg11(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """LCNN's VGG-11: ten 3x3 convolutions, each with BatchNorm without weights and a gamma of its own, five 2x2
    max-poolings, one linear layer that is not normalized. 9.5 M parameters at width 64 and 100 classes.

    Each nonlinearity is its own, where the paper's code shares one beta among all ten.

    Reference: srinivas2022lcnn, section 5; the widths are those of VGG's configuration B, Simonyan and Zisserman 2015, Table 1.
    """
    layers: list[nn.Module] = []
    before = shape[0]
    for after in (width, 2 * width, 4 * width, 8 * width, 8 * width):
        layers += [*_stage(before, after, act, True, bias=True), *_stage(after, after, act, True, bias=True)]
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # that small images do not vanish
        before = after
    head = nn.Linear(before, classes)
    return _prepared(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), shape)


def _stage(before: int, after: int, act: str, clipped: bool, bias: bool = False) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, 3, padding=1, bias=bias)
    return [conv, _norm(conv, clipped), nonlinearity(act)]


def _norm(conv: nn.Conv2d, clipped: bool) -> nn.BatchNorm2d:
    return LipschitzBatchNorm2d(conv, affine=False) if clipped else nn.BatchNorm2d(conv.out_channels, affine=False)


def _prepared(network: nn.Sequential, shape: Shape) -> nn.Sequential:
    x = torch.zeros(1, *shape)
    if not x.is_meta:  # where there are no weights there are no norms
        prepare_norms(network, x, steps=15)
    return network
