"""The networks of the LCNN paper, in which every convolution has a learned norm bound gamma."""

import math

import torch
from torch import Tensor, nn

from lowcurve.models.convolutional import Shape
from lowcurve.models.layers import nonlinearity
from lowcurve.models.lipschitz import LipschitzBatchNorm2d, LipschitzLinear, prepare_norms
from lowcurve.models.residual import convolution


class ScaledBlock(nn.Module):
    """The residual block act2((norm2(conv2(act1(norm1(conv1(s))))) + shortcut(s)) / 2) with s = x / sqrt(2).

    Scaling the input and averaging the two branches keeps the Lipschitz constant of the sum from growing. BatchNorm divides
    the factor 1 / sqrt(2) out of its branch; an identity shortcut keeps it and passes on 0.354 x.

    Args:
        before: Input channels.
        after: Output channels.
        stride: Stride of first convolution and shortcut.
        act: Name of the nonlinearity.
        clipped: Bound each convolution with its BatchNorm by a learned gamma.

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
        """Return the block's output for x, shape (batch, channels, height, width)."""
        shared = x * math.sqrt(0.5)
        inner = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(shared)))))
        result: Tensor = self.act2((inner + self.shortcut(shared)) * 0.5)
        return result


def lcnn_resnet18(shape: Shape, classes: int, act: str, width: int = 64, clipped: bool = True) -> nn.Sequential:
    """Build LCNN's ResNet-18, with `ScaledBlock`s, BatchNorm without weights and a spectrally normalized head.

    It has 17 nonlinearities, 20 gammas, and 11.2 M parameters at width 64 and 100 classes.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.
        clipped: Bound norms by gammas. Without them it is the network on which the paper trains the other methods.

    Returns:
        The network, without a normalization layer.

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
    """Build LCNN's ResNet-18 without gammas, on which the paper trains the methods that it compares with.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.

    Returns:
        The network, without a normalization layer.
    """
    return lcnn_resnet18(shape, classes, act, width, clipped=False)


def lcnn_vgg11(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """Build LCNN's VGG-11: ten 3x3 convolutions, five 2x2 max-poolings and one linear layer.

    Each convolution has BatchNorm without weights and its own gamma; the linear layer is not normalized. Each nonlinearity has
    its own beta, whereas the paper's code shares one among all ten. The network has 9.5 M parameters at width 64 and 100
    classes.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.

    Returns:
        The network, without a normalization layer.

    Reference: srinivas2022lcnn, section 5; the widths are those of VGG's configuration B, Simonyan and Zisserman 2015, Table 1.
    """
    layers: list[nn.Module] = []
    before = shape[0]
    for after in (width, 2 * width, 4 * width, 8 * width, 8 * width):
        layers += [*_stage(before, after, act, True, bias=True), *_stage(after, after, act, True, bias=True)]
        layers.append(nn.MaxPool2d(2, ceil_mode=True))  # rounded up, so that small images keep at least one pixel
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
    if not x.is_meta:  # on the meta device there are no weights whose norms could be computed
        prepare_norms(network, x, steps=15)
    return network
