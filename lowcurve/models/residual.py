"""Residual networks for 32 x 32 images, with one module for each nonlinearity."""

from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.models.convolutional import Shape
from lowcurve.models.layers import nonlinearity


def convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Build a convolution that keeps height and width at stride 1, without bias because BatchNorm follows.

    Args:
        before: Input channels.
        after: Output channels.
        size: Kernel size, odd.
        stride: Stride.

    Returns:
        The convolution.
    """
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: every `stride`-th pixel, and zeros for the new channels.

    Args:
        before: Input channels.
        after: Output channels.
        stride: Stride.

    Reference: He et al. 2016, section 4.2 (option A).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        """Return the shortcut of x, shape (batch, channels, height, width)."""
        front = self.extra // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.extra - front))


class BasicBlock(nn.Module):
    """The residual block act(shortcut(x) + BN(conv(act(BN(conv(x)))))).

    Args:
        before: Input channels.
        after: Output channels.
        stride: Stride of first convolution and shortcut.
        act: Name of the nonlinearity.
        projection: Use a 1x1 convolution as the shortcut where the shape changes. Otherwise a `PaddedShortcut` is used.
    """

    def __init__(self, before: int, after: int, stride: int, act: str, projection: bool) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = (
            convolution(before, after, 3, stride),
            nn.BatchNorm2d(after),
            nonlinearity(act),
        )
        self.conv2, self.bn2, self.act2 = convolution(after, after, 3), nn.BatchNorm2d(after), nonlinearity(act)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            projected = nn.Sequential(convolution(before, after, 1, stride), nn.BatchNorm2d(after))
            self.shortcut = projected if projection else PaddedShortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x, shape (batch, channels, height, width)."""
        inner = self.act1(self.bn1(self.conv1(x)))
        result: Tensor = self.act2(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return result


class PreActivationBlock(nn.Module):
    """The pre-activation block shortcut + conv(act(BN(conv(act(BN(x)))))).

    Where the shape changes, the shortcut is a 1x1 convolution of the first activation.

    Args:
        before: Input channels.
        after: Output channels.
        stride: Stride of first convolution and shortcut.
        act: Name of the nonlinearity.
    """

    def __init__(self, before: int, after: int, stride: int, act: str) -> None:
        super().__init__()
        self.bn1, self.act1, self.conv1 = (
            nn.BatchNorm2d(before),
            nonlinearity(act),
            convolution(before, after, 3, stride),
        )
        self.bn2, self.act2, self.conv2 = nn.BatchNorm2d(after), nonlinearity(act), convolution(after, after, 3)
        self.projection = convolution(before, after, 1, stride) if stride != 1 or before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x, shape (batch, channels, height, width)."""
        activated = self.act1(self.bn1(x))
        shortcut = x if self.projection is None else self.projection(activated)
        result: Tensor = shortcut + self.conv2(self.act2(self.bn2(self.conv1(activated))))
        return result


def resnet18(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """Build ResNet-18 for small images: a 3x3 stem, four stages of two blocks, projection shortcuts.

    It has 11.2 M parameters at width 64.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.

    Returns:
        The network, without a normalization layer.

    Reference: He et al. 2016, with the stem that is customary for CIFAR (the network of moosavi2019cure).
    """
    return _basic(shape, classes, act, widths=[width, 2 * width, 4 * width, 8 * width], blocks=2, projection=True)


def resnet20(shape: Shape, classes: int, act: str, width: int = 16) -> nn.Sequential:
    """Build ResNet-20: a 3x3 stem, three stages of three blocks, padded shortcuts.

    It has 0.27 M parameters at width 16.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.

    Returns:
        The network, without a normalization layer.

    Reference: He et al. 2016, section 4.2.
    """
    return _basic(shape, classes, act, widths=[width, 2 * width, 4 * width], blocks=3, projection=False)


def wide_resnet28(shape: Shape, classes: int, act: str, width: int = 160) -> nn.Sequential:
    """Build WideResNet-28-10: three stages of four pre-activation blocks.

    It has 36.5 M parameters at width 160 (10 times 16).

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.

    Returns:
        The network, without a normalization layer.

    Reference: Zagoruyko and Komodakis 2016, Table 1.
    """
    layers: list[nn.Module] = [convolution(shape[0], 16, 3)]
    before = 16
    for stage, after in enumerate((width, 2 * width, 4 * width)):
        for block in range(4):
            layers.append(PreActivationBlock(before, after, 2 if stage and not block else 1, act))
            before = after
    return nn.Sequential(*layers, nn.BatchNorm2d(before), nonlinearity(act), *_head(before, classes))


def _basic(shape: Shape, classes: int, act: str, widths: list[int], blocks: int, projection: bool) -> nn.Sequential:
    layers: list[nn.Module] = [convolution(shape[0], widths[0], 3), nn.BatchNorm2d(widths[0]), nonlinearity(act)]
    before = widths[0]
    for stage, after in enumerate(widths):
        for block in range(blocks):
            layers.append(BasicBlock(before, after, 2 if stage and not block else 1, act, projection))
            before = after
    return nn.Sequential(*layers, *_head(before, classes))


def _head(features: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)
