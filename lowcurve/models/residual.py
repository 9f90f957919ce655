"""Residual networks for 32 x 32 images: ResNet-18, ResNet-20, WideResNet-28-10. Every nonlinearity is its own module."""

from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.models.convolutional import Shape
from lowcurve.models.layers import nonlinearity


def convolution(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, since BatchNorm follows, that keeps height and width at stride 1."""
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros for the new channels: a shortcut without parameters (He et al., option A)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        front = self.extra // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.extra - front))


class BasicBlock(nn.Module):
    """act(shortcut(x) + BN(conv(act(BN(conv(x))))))."""

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
        inner = self.act1(self.bn1(self.conv1(x)))
        result: Tensor = self.act2(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return result


class PreActivationBlock(nn.Module):
    """shortcut + conv(act(BN(conv(act(BN(x)))))), the projection taken after the first activation."""

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
        ready = self.act1(self.bn1(x))
        kept = x if self.projection is None else self.projection(ready)
        result: Tensor = kept + self.conv2(self.act2(self.bn2(self.conv1(ready))))
        return result


def resnet18(shape: Shape, classes: int, act: str, width: int = 64) -> nn.Sequential:
    """ResNet-18 for small images: 3x3 stem, four stages of two blocks, projection shortcuts. 11.2 M parameters at width 64.

    Reference: He et al. 2016, with the stem that is customary for CIFAR (the network of moosavi2019cure).
    """
    return _basic(shape, classes, act, widths=[width, 2 * width, 4 * width, 8 * width], blocks=2, projection=True)


def resnet20(shape: Shape, classes: int, act: str, width: int = 16) -> nn.Sequential:
    """ResNet-20: 3x3 stem, three stages of three blocks, padded shortcuts. 0.27 M parameters at width 16.

    Reference: He et al. 2016, section 4.2.
    """
    return _basic(shape, classes, act, widths=[width, 2 * width, 4 * width], blocks=3, projection=False)


def wide_resnet28(shape: Shape, classes: int, act: str, width: int = 160) -> nn.Sequential:
    """WideResNet-28-10: three stages of four pre-activation blocks. 36.5 M parameters at width 160 (= 10 x 16).

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
