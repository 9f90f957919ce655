"""Architectures of the panel, none of which the package's tests use."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Activation = Callable[[], nn.Module]


class Centered(nn.Module):
    """Pixels from [0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def conv(
    shape: Shape, classes: int, width: int = 12, act: Activation = nn.ReLU, *, norm: bool = False
) -> nn.Sequential:
    """Three convolutions, two of them with stride 2, and a linear layer."""
    layers: list[nn.Module] = [Centered()]
    channels, size = shape[0], [(side + 3) // 4 for side in shape[1:]]
    for out, stride in ((width, 1), (2 * width, 2), (2 * width, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1), *([nn.BatchNorm2d(out)] if norm else []), act()]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))


def pooled(shape: Shape, classes: int, width: int = 16, act: Activation = nn.ReLU) -> nn.Sequential:
    """Two convolutions of 5 by 5 with maximum pooling, and a hidden layer."""
    layers = [Centered(), nn.Conv2d(shape[0], width, 5, 1, 2), act(), nn.MaxPool2d(2), nn.Conv2d(width, width, 5, 1, 2)]
    hidden = width * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        *layers, act(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(hidden, 64), act(), nn.Linear(64, classes)
    )


def mlp(shape: Shape, classes: int, width: int = 128, depth: int = 2, act: Activation = nn.ReLU) -> nn.Sequential:
    """Fully connected layers."""
    sizes = [torch.Size(shape).numel(), *[width] * depth]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(Centered(), nn.Flatten(), *layers, nn.Linear(sizes[-1], classes))


class Block(nn.Module):
    """A residual block with batch normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, 1, 1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norms[1](self.second(torch.relu(self.norms[0](self.first(x))))))


def residual(shape: Shape, classes: int, width: int = 16) -> nn.Sequential:
    """Two residual blocks at half the size, and a mean over places."""
    stem = nn.Conv2d(shape[0], width, 3, 2, 1)
    return nn.Sequential(
        Centered(),
        stem,
        Block(width),
        Block(width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


class Transformer(nn.Module):
    """A vision transformer with a class token."""

    def __init__(self, shape: Shape, classes: int, patch: int = 2, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        count = (shape[1] // patch) * (shape[2] // patch)
        self.patches = nn.Conv2d(shape[0], width, patch, patch)
        self.token, self.places = (
            nn.Parameter(torch.zeros(1, 1, width)),
            nn.Parameter(0.02 * torch.randn(1, count + 1, width)),
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(2 * x - 1).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        return self.head(tokens[:, 0])


class Mixer(nn.Module):
    """An MLP-Mixer with two layers."""

    def __init__(self, shape: Shape, classes: int, patch: int = 2, width: int = 32) -> None:
        super().__init__()
        count = (shape[1] // patch) * (shape[2] // patch)
        self.patches = nn.Conv2d(shape[0], width, patch, patch)
        self.across = nn.ModuleList(
            nn.Sequential(nn.Linear(count, 32), nn.GELU(), nn.Linear(32, count)) for _ in range(2)
        )
        self.within = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(2 * x - 1).flatten(2)
        for across, within in zip(self.across, self.within, strict=True):
            tokens = tokens + across(tokens)
            tokens = tokens + within(tokens.transpose(1, 2)).transpose(1, 2)
        return self.head(tokens.mean(2))


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self, shape: Shape, classes: int, width: int = 48) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(shape[0] * shape[2], width, batch_first=True), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent((2 * x - 1).transpose(1, 2).flatten(2))[0][:, -1])


class Mean(nn.Module):
    """The mean of several networks' logits."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class Times(nn.Module):
    """A network with its logits multiplied."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale
