"""Architectures of the third set, which neither the first halves nor the package's tests use."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.networks import Centered, Shape


class Attending(nn.Module):
    """A convolutional stem and self-attention over places, with a mean over places."""

    def __init__(self, shape: Shape, classes: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(Centered(), nn.Conv2d(shape[0], width, 3, 2, 1), nn.GELU())
        self.attention, self.norm = nn.MultiheadAttention(width, 4, batch_first=True), nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        places = self.stem(x).flatten(2).transpose(1, 2)
        seen = self.norm(places)
        return self.head((places + self.attention(seen, seen, seen, need_weights=False)[0]).mean(1))


def depthwise(shape: Shape, classes: int, width: int = 24) -> nn.Sequential:
    """Depthwise and pointwise convolutions with ReLU6."""
    layers: list[nn.Module] = [Centered(), nn.Conv2d(shape[0], width, 3, 2, 1), nn.ReLU6()]
    for _ in range(2):
        layers += [nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.Conv2d(width, width, 1), nn.ReLU6()]
    places = ((shape[1] + 1) // 2) * ((shape[2] + 1) // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * places, classes))


class Gated(nn.Module):
    """Convolutions with gated linear units."""

    def __init__(self, shape: Shape, classes: int, width: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(shape[0], 2 * width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 1, 1)
        self.head = nn.Linear(width * ((shape[1] + 1) // 2) * ((shape[2] + 1) // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.glu(self.second(F.glu(self.first(2 * x - 1), 1)), 1).flatten(1))


class Grouped(nn.Module):
    """Residual blocks with group normalization."""

    def __init__(self, shape: Shape, classes: int, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)) for _ in range(depth)
        )
        self.head = nn.Linear(width * ((shape[1] + 1) // 2) * ((shape[2] + 1) // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(2 * x - 1)
        for block in self.blocks:
            h = h + block(h)
        return self.head(F.relu(h).flatten(1))


class Squeezing(nn.Module):
    """Convolutions with squeeze and excitation, and average pooling."""

    def __init__(self, shape: Shape, classes: int, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(Centered(), nn.Conv2d(shape[0], width, 3, 1, 1), nn.SiLU(), nn.AvgPool2d(2),
                                  nn.Conv2d(width, 2 * width, 3, 1, 1), nn.SiLU())  # fmt: skip
        self.gate = nn.Sequential(nn.Linear(2 * width, 8), nn.ReLU(), nn.Linear(8, 2 * width), nn.Sigmoid())
        self.head = nn.Linear(2 * width * (shape[1] // 2) * (shape[2] // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.head((h * self.gate(h.mean((2, 3)))[:, :, None, None]).flatten(1))


class Maxout(nn.Module):
    """Fully connected layers with maxout units."""

    def __init__(self, shape: Shape, classes: int, width: int = 64, pieces: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(torch.Size(shape).numel(), width * pieces)
        self.second, self.pieces = nn.Linear(width, width * pieces), pieces
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = (2 * x - 1).flatten(1)
        for layer in (self.first, self.second):
            h = layer(h).unflatten(1, (-1, self.pieces)).amax(2)
        return self.head(h)


class Columns(nn.Module):
    """An LSTM that reads an image column by column."""

    def __init__(self, shape: Shape, classes: int, width: int = 48) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(shape[0] * shape[1], width, batch_first=True), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent((2 * x - 1).permute(0, 3, 1, 2).flatten(2))[0][:, -1])


def dilated(shape: Shape, classes: int, width: int = 16) -> nn.Sequential:
    """Dilated convolutions with Mish and global average pooling."""
    return nn.Sequential(
        Centered(), nn.Conv2d(shape[0], width, 3, 1, 1), nn.Mish(), nn.Conv2d(width, 2 * width, 3, 2, 2, dilation=2),
        nn.Mish(), nn.Conv2d(2 * width, 4 * width, 3, 1, 1), nn.Mish(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16 * width, classes),
    )  # fmt: skip


class Sines(nn.Module):
    """Fully connected layers with sines."""

    def __init__(self, shape: Shape, classes: int, width: int = 96) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(torch.Size(shape).numel(), width), nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(2 * self.second(torch.sin(2 * self.first((2 * x - 1).flatten(1))))))


def normalized(shape: Shape, classes: int, width: int = 96) -> nn.Sequential:
    """Fully connected layers with layer normalization and leaky ReLU."""
    pixels = torch.Size(shape).numel()
    return nn.Sequential(
        Centered(), nn.Flatten(), nn.Linear(pixels, width), nn.LayerNorm(width), nn.LeakyReLU(0.1),
        nn.Linear(width, width), nn.LayerNorm(width), nn.LeakyReLU(0.1), nn.Linear(width, classes),
    )  # fmt: skip
