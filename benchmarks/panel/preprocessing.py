"""Defenses before a network. With `smooth` set, each is passed backwards in the way that an adaptive attack would choose."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Defense(nn.Module):
    """A layer or a wrapper with a twin that does not hide its gradient."""

    smooth = False

    def straight(self, x: Tensor, values: Tensor) -> Tensor:
        """Return the values, with the derivatives of x in a smooth twin."""
        return x + (values - x).detach() if self.smooth else values


def twin(model: nn.Module) -> nn.Module:
    """Return a copy whose defenses are passed backwards smoothly."""
    found = copy.deepcopy(model)
    for layer in found.modules():
        if isinstance(layer, Defense):
            layer.smooth = True
    return found


class Levels(Defense):
    """The input rounded to a few levels."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.steps = levels - 1

    def forward(self, x: Tensor) -> Tensor:
        return self.straight(x, (x * self.steps).round() / self.steps)


class Thermometer(Defense):
    """Each pixel as one channel per threshold that it exceeds."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        channels = []
        for k in range(self.levels):
            place = self.levels * x - k
            channels.append(self.straight(torch.sigmoid(4 * (place - 0.5)), (place > 0.5).to(x)))
        return torch.cat(channels, 1)


class Dct(Defense):
    """Blocks of 8 by 8 pixels in a cosine basis, with rounded coefficients, as JPEG has them."""

    def __init__(self, step: float) -> None:
        super().__init__()
        place, frequency = torch.arange(8)[None], torch.arange(8)[:, None]
        basis = torch.cos(math.pi * (place + 0.5) * frequency / 8) / 2
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis)
        self.register_buffer("table", step * (1 + 0.5 * (frequency + place)))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        padded = F.pad(x, (0, -w % 8, 0, -h % 8))
        rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
        blocks = padded.view(n, c, rows, 8, columns, 8).transpose(3, 4)
        scaled = self.basis @ blocks @ self.basis.T / self.table
        back = self.basis.T @ (self.straight(scaled, scaled.round()) * self.table) @ self.basis
        return back.transpose(3, 4).reshape(padded.shape)[:, :, :h, :w]


class Depth(Defense):
    """A median over 3 by 3 pixels and fewer bits."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.steps = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        near = F.unfold(F.pad(x, (1, 1, 1, 1), "replicate"), 3).view(len(x), x.shape[1], 9, *x.shape[2:])
        soft = near.median(2).values
        return self.straight(soft, torch.floor(soft * self.steps + 0.5) / self.steps)


class Resized(nn.Module):
    """A random size and a random place on a larger canvas, drawn once for each pass."""

    def __init__(self, smallest: int, canvas: int) -> None:
        super().__init__()
        self.smallest, self.canvas = smallest, canvas

    def forward(self, x: Tensor) -> Tensor:
        size = int(torch.randint(self.smallest, self.canvas + 1, ()))
        left, top = (int(torch.randint(0, self.canvas - size + 1, ())) for _ in range(2))
        small = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        return F.pad(small, (left, self.canvas - size - left, top, self.canvas - size - top))


class Noise(nn.Module):
    """Normal noise on the input."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x)


class Dropped(nn.Dropout):
    """Dropout that does not ask whether this is training."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=True)


class Uncoupled(Defense):
    """The input detached, with a decoy: a small random linear map through which a gradient still flows."""

    def __init__(self, inner: nn.Module, pixels: int, classes: int, size: float) -> None:
        super().__init__()
        self.inner, self.decoy, self.size = inner, nn.Linear(pixels, classes, bias=False), size

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if self.smooth else self.inner(x.detach()) + self.size * self.decoy(x.flatten(1))


class ThroughNumpy(Defense):
    """A blur in numpy, through which no gradient comes."""

    def forward(self, x: Tensor) -> Tensor:
        soft = (2 * x + x.roll(1, 3) + x.roll(-1, 3)) / 4
        values = x.detach().numpy()
        values = (2 * values + _rolled(values, 1) + _rolled(values, -1)) / 4
        return soft if self.smooth else torch.from_numpy(values).to(x)


def _rolled(values, by: int):
    import numpy

    return numpy.roll(values, by, 3)


class Purified(Defense):
    """The input moved by gradient descent towards what an autoencoder reproduces."""

    def __init__(self, autoencoder: nn.Module, steps: int, rate: float) -> None:
        super().__init__()
        self.autoencoder, self.steps, self.rate = autoencoder, steps, rate

    def forward(self, x: Tensor) -> Tensor:
        point = x.detach().clone()
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = point.requires_grad_()
                error = (leaf - self.autoencoder(leaf)).square().flatten(1).sum(1).sum()
                (down,) = torch.autograd.grad(error, leaf)
            point = (leaf - self.rate * down).clamp(0, 1).detach()
        return self.straight(x, point)


class Reproduced(Defense):
    """The image replaced by what an autoencoder makes of it, several times, with rounding in between."""

    def __init__(self, autoencoder: nn.Module, times: int) -> None:
        super().__init__()
        self.autoencoder, self.times = autoencoder, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            soft = self.autoencoder(x)
            x = self.straight(soft, (soft * 4).round() / 4)
        return x
