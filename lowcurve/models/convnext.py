"""ConvNeXt for small images, with one module for each nonlinearity. The parameters have timm's names."""

import torch
from torch import Tensor, nn

from lowcurve.models.convolutional import Shape
from lowcurve.models.vit import MLP, initialize, padding

SCALE = 1e-6
"""Initial factor of each channel of a block's branch."""


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of each pixel, for images of shape (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normalized at each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """The block x + gamma * mlp(norm(conv(x))) with a 7x7 convolution of each channel.

    Args:
        width: Number of channels.
        act: Name of the nonlinearity.
    """

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.mlp = nn.LayerNorm(width, eps=1e-6), MLP(width, 4 * width, act)
        self.gamma = nn.Parameter(torch.full((width,), SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x, shape (batch, channels, height, width)."""
        inner = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1))) * self.gamma
        result: Tensor = x + inner.permute(0, 3, 1, 2)
        return result


class Stage(nn.Module):
    """Blocks of one width, after a normalized convolution that halves height and breadth where `sizes` are given.

    Args:
        before: Input channels.
        width: Number of channels.
        blocks: Number of blocks.
        act: Name of the nonlinearity.
        sizes: Height and breadth of the input. None for a stage without this convolution.
    """

    def __init__(self, before: int, width: int, blocks: int, act: str, sizes: tuple[int, int] | None) -> None:
        super().__init__()
        self.pad = nn.Identity() if sizes is None else padding(sizes, 2)
        self.downsample: nn.Module = nn.Identity()
        if sizes is not None:
            self.downsample = nn.Sequential(ChannelNorm(before, eps=1e-6), nn.Conv2d(before, width, 2, stride=2))
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, act) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output for x, shape (batch, channels, height, width)."""
        result: Tensor = self.blocks(self.downsample(self.pad(x)))
        return result


class Head(nn.Module):
    """The mean over pixels, its layer normalization and a linear map.

    Args:
        width: Number of channels.
        classes: Number of classes.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.pool, self.norm, self.fc = (
            nn.AdaptiveAvgPool2d(1),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits for x, shape (batch, channels, height, width)."""
        result: Tensor = self.fc(self.norm(self.pool(x).flatten(1)))
        return result


class ConvNeXt(nn.Module):
    """Four stages of `ConvNeXtBlock`s after a convolution of patches.

    There are about 16 patches along a side, of at most 4 pixels: 2 for 32 pixels and 4 for 64 and 224.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage. Each further stage has twice as many.
        depths: Numbers of blocks.

    Reference: Liu et al. 2022, section 2.
    """

    def __init__(self, shape: Shape, classes: int, act: str, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, breadth = shape
        patch = min(4, max(1, min(height, breadth) // 16))
        self.pad = padding((height, breadth), patch)
        self.stem = nn.Sequential(nn.Conv2d(channels, width, patch, stride=patch), ChannelNorm(width, eps=1e-6))
        sizes, stages, before = (-(-height // patch), -(-breadth // patch)), [], width
        for number, blocks in enumerate(depths):
            stages.append(Stage(before, width, blocks, act, sizes if number else None))
            sizes = (-(-sizes[0] // 2), -(-sizes[1] // 2)) if number else sizes
            before, width = width, 2 * width
        self.stages, self.head = nn.Sequential(*stages), Head(before, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits for images x, shape (batch, channels, height, width)."""
        result: Tensor = self.head(self.stages(self.stem(self.pad(x))))
        return result


def convnext_tiny(shape: Shape, classes: int, act: str, width: int = 96) -> ConvNeXt:
    """Build ConvNeXt-Tiny: 3, 3, 9 and 3 blocks of width 96 to 768.

    It has 27.8 M parameters at width 96.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.

    Returns:
        The network, without a normalization layer.

    Reference: Liu et al. 2022, section 3.
    """
    return ConvNeXt(shape, classes, act, width, depths=(3, 3, 9, 3))


def convnext_atto(shape: Shape, classes: int, act: str, width: int = 40) -> ConvNeXt:
    """Build ConvNeXt-Atto: 2, 2, 6 and 2 blocks of width 40 to 320.

    It has 3.4 M parameters at width 40.

    Args:
        shape: Shape of one image: channels, height, width.
        classes: Number of classes.
        act: Name of the nonlinearity.
        width: Channels of the first stage.

    Returns:
        The network, without a normalization layer.

    Reference: Woo et al. 2023, section 4, with the blocks of Liu et al. 2022.
    """
    return ConvNeXt(shape, classes, act, width, depths=(2, 2, 6, 2))
