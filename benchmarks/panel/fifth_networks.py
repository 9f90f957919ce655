"""Networks of the fifth set: defenses whose gradients are wrong in part, and architectures that no other set has."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.analysis.norms import Ball
from lowcurve.randomness import temporary_seed
from panel.attacks import PLAIN, follow
from panel.networks import Centered, Shape, mlp
from panel.preprocessing import Defense, Levels


class WrongWay(torch.autograd.Function):
    """The identity with a gradient that is changed."""

    @staticmethod
    def forward(ctx, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x."""
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor, None]:
        """Return the changed gradient."""
        return ctx.change(slope), None


class Changed(Defense):
    """The identity whose gradient is changed."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return x if self.smooth or self.training else WrongWay.apply(x, self.change)


class Equals(Defense):
    """Two branches of equal weight, the first of which sees a detached image."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x if self.smooth or self.training else x.detach()) + self.other(x)


class Unseen(Defense):
    """Residual blocks; attacks see the shortcuts of all and the body of none."""

    def __init__(self, shape: Shape, classes: int, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, 2, 1)
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1))
            for _ in range(depth)
        )
        self.head = nn.Linear(width * ((shape[1] + 1) // 2) * ((shape[2] + 1) // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(2 * x - 1)
        for body in self.bodies:
            change = body(h)
            h = h + (change if self.smooth or self.training else change.detach())
        return self.head(F.relu(h).flatten(1))


class HalfDetached(Defense):
    """The image, with the left part of its pixels detached."""

    def forward(self, x: Tensor) -> Tensor:
        if self.smooth or self.training:
            return x
        left = torch.arange(x.shape[3]) < 5 * x.shape[3] // 8
        return torch.where(left, x.detach(), x)


class Sure(Defense):
    """A network that sees a detached image where it is sure of its class, beside a faint one that always sees it."""

    def __init__(self, main: nn.Module, side: nn.Module) -> None:
        super().__init__()
        self.main, self.side = main, side

    def forward(self, x: Tensor) -> Tensor:
        if self.smooth or self.training:
            return self.main(x) + 0.02 * self.side(x)
        with torch.no_grad():
            sure = self.main(x).softmax(1).amax(1) > 0.8
        return self.main(torch.where(sure.view(-1, 1, 1, 1), x.detach(), x)) + 0.02 * self.side(x)


class RoundedMain(nn.Module):
    """A network behind rounded pixels, and a faint one that sees them as they are."""

    def __init__(self, main: nn.Module, side: nn.Module) -> None:
        super().__init__()
        self.levels, self.main, self.side = Levels(5), main, side

    def forward(self, x: Tensor) -> Tensor:
        return self.main(self.levels(x)) + 0.1 * self.side(x)


@dataclass(frozen=True)
class Elsewhere:
    """An attack that by mistake follows the gradient of another network, one with random weights."""

    ball: Ball

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the attacked images."""
        del model, generator
        with temporary_seed(0, "elsewhere"):
            return follow(mlp(tuple(x.shape[1:]), 10), x, y, self.ball, steps=20, loss=PLAIN)


# --- honest networks


class Parallel(nn.Module):
    """Convolutions of three sizes side by side, twice."""

    def __init__(self, shape: Shape, classes: int, width: int = 6) -> None:
        super().__init__()
        sizes = (1, 3, 5)
        self.first = nn.ModuleList(nn.Conv2d(shape[0], width, k, padding=k // 2) for k in sizes)
        self.second = nn.ModuleList(nn.Conv2d(3 * width, width, k, 2, k // 2) for k in sizes)
        self.head = nn.Linear(3 * width * ((shape[1] + 1) // 2) * ((shape[2] + 1) // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(torch.cat([layer(2 * x - 1) for layer in self.first], 1))
        return self.head(F.relu(torch.cat([layer(h) for layer in self.second], 1)).flatten(1))


class Dense(nn.Module):
    """Convolutions each of which sees all before it."""

    def __init__(self, shape: Shape, classes: int, growth: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], growth, 3, 2, 1)
        self.layers = nn.ModuleList(nn.Conv2d((k + 1) * growth, growth, 3, 1, 1) for k in range(depth))
        self.head = nn.Linear((depth + 1) * growth * ((shape[1] + 1) // 2) * ((shape[2] + 1) // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(2 * x - 1)
        for layer in self.layers:
            h = torch.cat((h, layer(F.relu(h))), 1)
        return self.head(F.relu(h).flatten(1))


class Modern(nn.Module):
    """Blocks of a depthwise convolution, layer normalization, and two pointwise layers with GELU."""

    def __init__(self, shape: Shape, classes: int, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 2, 2)
        self.deep = nn.ModuleList(nn.Conv2d(width, width, 5, 1, 2, groups=width) for _ in range(depth))
        self.wide = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(2 * x - 1)
        for deep, wide in zip(self.deep, self.wide, strict=True):
            h = h + wide(deep(h).movedim(1, 3)).movedim(3, 1)
        return self.head(h.mean((2, 3)))


class Highway(nn.Module):
    """Fully connected layers with gates between the layer and its input."""

    def __init__(self, shape: Shape, classes: int, width: int = 80, depth: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(torch.Size(shape).numel(), width)
        self.layers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first((2 * x - 1).flatten(1)))
        for layer in self.layers:
            new, gate = layer(h).chunk(2, 1)
            h = h + gate.sigmoid() * (new.tanh() - h)
        return self.head(h)


class SquaredReLU(nn.Module):
    """The square of ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class Cosines(nn.Module):
    """Logits are cosines between features and classes, times a scale."""

    def __init__(self, inner: nn.Module, features: int, classes: int, scale: float = 12.0) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale
        self.classes = nn.Parameter(torch.randn(classes, features))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.normalize(self.inner(x), dim=1) @ F.normalize(self.classes, dim=1).T


class Distances(nn.Module):
    """Logits are minus squared distances between features and a center for each class."""

    def __init__(self, inner: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.inner, self.centers = inner, nn.Parameter(torch.randn(classes, features))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.inner(x), self.centers).square() / 8


class Fourier(nn.Module):
    """Tokens that are mixed by a Fourier transform in place of attention."""

    def __init__(self, shape: Shape, classes: int, patch: int = 2, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (shape[1] // patch) * (shape[2] // patch), width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(2 * x - 1).flatten(2).transpose(1, 2) + self.places
        for place, layer in enumerate(self.layers):
            h = h + torch.fft.fft2(self.norms[2 * place](h)).real / 8
            h = h + layer(self.norms[2 * place + 1](h))
        return self.head(h.mean(1))


class MeanToken(nn.Module):
    """A vision transformer without a class token, with GELU and the mean of all tokens."""

    def __init__(self, shape: Shape, classes: int, patch: int = 2, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (shape[1] // patch) * (shape[2] // patch), width))
        self.layer = nn.TransformerEncoderLayer(width, 3, 3 * width, 0.0, "gelu", batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(2 * x - 1).flatten(2).transpose(1, 2) + self.places).mean(1))


class Experts(nn.Module):
    """Several networks, weighted by a gate that sees the image."""

    def __init__(self, shape: Shape, classes: int, count: int = 3) -> None:
        super().__init__()
        self.gate = mlp(shape, count, depth=0)
        self.members = nn.ModuleList(mlp(shape, classes, width=48) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        return (self.gate(x).softmax(1)[:, None] * torch.stack([member(x) for member in self.members], 2)).sum(2)


def activated(shape: Shape, classes: int, act: Callable[[], nn.Module], width: int = 12) -> nn.Sequential:
    """Two convolutions with stride and instance normalization, and average pooling."""
    return nn.Sequential(
        Centered(), nn.Conv2d(shape[0], width, 3, 1, 1), nn.InstanceNorm2d(width, affine=True), act(),
        nn.Conv2d(width, 2 * width, 3, 2, 1), act(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(2 * width * ((shape[1] + 1) // 4) * ((shape[2] + 1) // 4), classes),
    )  # fmt: skip
