"""Defenses of the third set: stages before a network, layers inside it, and outputs. Twins as in `preprocessing`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.preprocessing import Defense


class LessVariation(Defense):
    """Denoising by descent on the total variation, on a detached image."""

    def __init__(self, weight: float, steps: int = 15) -> None:
        super().__init__()
        self.weight, self.steps = weight, steps

    def forward(self, x: Tensor) -> Tensor:
        point, given = x.detach(), x.detach()
        for _ in range(self.steps):
            down, right = (F.pad(point.diff(dim=d).sign(), pad) for d, pad in ((2, (0, 0, 0, 1)), (3, (0, 1))))
            steps = down - down.roll(1, 2) + right - right.roll(1, 3)
            point = point + 0.1 * (self.weight * steps + given - point)
        return self.straight(x, point)


class Table(Defense):
    """Each pixel is looked up in a table of values, by its level."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.values = nn.Embedding(levels, 1)
        self.values.weight.data = torch.linspace(-1, 1, levels)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        index = (x.detach() * self.levels).long().clamp(0, self.levels - 1)
        return self.straight(2 * x - 1, self.values(index)[..., 0])


class OneHot(Defense):
    """Each pixel as one channel per level, 1 where the pixel has that level."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        index = (x.detach() * self.levels).long().clamp(0, self.levels - 1)
        centers = (torch.arange(self.levels).to(x) + 0.5) / self.levels
        soft = (-(self.levels * (x[:, :, None] - centers.view(1, 1, -1, 1, 1))).square()).softmax(2).flatten(1, 2)
        return self.straight(soft, F.one_hot(index, self.levels).to(x).movedim(4, 2).flatten(1, 2))


class Ranks(Defense):
    """Each pixel replaced by its rank in the image."""

    def forward(self, x: Tensor) -> Tensor:
        ranks = x.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
        return self.straight(x, (ranks.to(x) / ranks.shape[1]).view_as(x))


class Sharpened(Defense):
    """Pixels through a steep sigmoid, nearly black and white."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return self.straight(x, torch.sigmoid(self.slope * (x - 0.5)))


class Projected(Defense):
    """The image from rounded coefficients in the largest principal components of the training images."""

    def __init__(self, images: Tensor, count: int, step: float) -> None:
        super().__init__()
        flat = images.flatten(1)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("basis", torch.linalg.svd(flat - self.mean, full_matrices=False)[2][:count])
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        exact = (x.flatten(1) - self.mean) @ self.basis.T
        rounded = self.straight(exact, (exact / self.step).round() * self.step)
        return (rounded @ self.basis + self.mean).view_as(x)


class Deflected(nn.Module):
    """Some pixels replaced by a random pixel nearby."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        shift = [int(k) for k in torch.randint(-2, 3, (2,))]
        return torch.where(torch.rand_like(x) < self.share, x.roll(shift, (2, 3)), x)


class Cropped(nn.Module):
    """The image at a random place in a frame, image by image."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor) -> Tensor:
        side, m = x.shape[2], self.margin
        padded = F.pad(x, (m, m, m, m))
        places = torch.randint(0, 2 * m + 1, (len(x), 2))
        return torch.stack(
            [p[:, i : i + side, j : j + side] for p, (i, j) in zip(padded, places.tolist(), strict=True)]
        )


class DroppedChannels(nn.Module):
    """Dropout of whole channels, also at test time."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.share, training=True)


class NoisyLogits(nn.Module):
    """Normal noise on the logits."""

    def __init__(self, inner: nn.Module, deviation: float) -> None:
        super().__init__()
        self.inner, self.deviation = inner, deviation

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return z if self.training else z + self.deviation * torch.randn_like(z)


class OneOf(nn.Module):
    """One of several networks, drawn for each image."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        which = torch.randint(len(self.members), (len(x),))
        return torch.stack([member(x) for member in self.members])[which, torch.arange(len(x))]


class Skipping(nn.Module):
    """Residual blocks that are left out by chance, also at test time."""

    def __init__(
        self, shape: tuple[int, ...], classes: int, width: int = 16, depth: int = 4, share: float = 0.3
    ) -> None:
        super().__init__()
        self.stem, self.share = nn.Conv2d(shape[0], width, 3, 2, 1), share
        self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)) for _ in range(depth))
        self.head = nn.Linear(width * (shape[1] // 2) * (shape[2] // 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(2 * x - 1)
        for block in self.blocks:
            if torch.rand(()) >= self.share:
                h = h + block(h)
        return self.head(F.relu(h).flatten(1))


class VotesUnderNoise(Defense):
    """Randomized smoothing: shares of the votes over draws of noise."""

    def __init__(self, inner: nn.Module, deviation: float, draws: int) -> None:
        super().__init__()
        self.inner, self.deviation, self.draws = inner, deviation, draws

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.inner(x + self.deviation * torch.randn_like(x))
        logits = [self.inner(x + self.deviation * torch.randn_like(x)) for _ in range(self.draws)]
        if self.smooth:
            return torch.stack(logits).softmax(2).mean(0).log()
        return torch.stack([F.one_hot(z.argmax(1), z.shape[1]).to(x) for z in logits]).mean(0)


class FewLevels(Defense):
    """Activations rounded to a few levels; trained straight through."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        values = (x / self.step).round() * self.step
        return x + (values - x).detach() if self.smooth or self.training else values


class Signs(Defense):
    """The sign of each activation; trained straight through a clipped line."""

    def forward(self, x: Tensor) -> Tensor:
        line = x.clamp(-1, 1)
        return line + (x.sign() - line).detach() if self.smooth or self.training else x.sign()


class SteepSigmoid(Defense):
    """A sigmoid trained at slope 3 and used at a steep one, which underflows."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        slow = torch.sigmoid(3 * x)
        return slow if self.training else self.straight(slow, torch.sigmoid(self.slope * x))


class Blocked(Defense):
    """ReLU whose gradient a hook of the module blocks in most places."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.inner, self.share = nn.ReLU(), share
        self.inner.register_full_backward_hook(self._block)

    def _block(
        self, _layer: nn.Module, before: tuple[Tensor, ...], _after: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...] | None:
        if self.smooth or self.training:
            return None
        upper = before[0]
        pattern = torch.arange(upper[0].numel()).view(upper.shape[1:]) % 10
        return (torch.where(pattern < 10 * self.share, -upper, upper),)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.smooth or self.training else self.inner(x)


class TwoBranches(Defense):
    """Two branches, of which the one that decides has a detached input."""

    def __init__(self, main: nn.Module, side: nn.Module) -> None:
        super().__init__()
        self.main, self.side = main, side

    def forward(self, x: Tensor) -> Tensor:
        seen = x if self.smooth or self.training else x.detach()
        return self.main(seen) + 0.1 * self.side(x)


class Codes(Defense):
    """Output codes: saturated bits, compared with the code word of each class."""

    def __init__(self, inner: nn.Module, classes: int, bits: int, slope: float) -> None:
        super().__init__()
        self.inner, self.slope = inner, slope
        draws = torch.Generator().manual_seed(1)
        self.register_buffer("words", torch.where(torch.rand(classes, bits, generator=draws) < 0.5, -1.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        slope = 1.0 if self.smooth or self.training else self.slope
        return torch.tanh(slope * self.inner(x)) @ self.words.T / self.words.shape[1] ** 0.5


class Kernels(Defense):
    """Classes by exp(-width d^2) of the distance to a center, which underflows; the twin has the exponent."""

    def __init__(self, inner: nn.Module, features: int, classes: int, width: float) -> None:
        super().__init__()
        self.inner, self.width = inner, width
        self.centers = nn.Parameter(3 * torch.randn(classes, features))

    def forward(self, x: Tensor) -> Tensor:
        squares = (self.inner(x)[:, None] - self.centers).square().sum(2)
        return -squares / 2 if self.smooth or self.training else torch.exp(-self.width * squares)


class Neighbors(Defense):
    """The votes of the nearest training images in a network's features; the twin weighs all of them smoothly."""

    def __init__(self, inner: nn.Module, count: int, points: int, features: int, classes: int) -> None:
        super().__init__()
        self.inner, self.count = inner, count
        self.register_buffer("points", torch.zeros(points, features))
        self.register_buffer("labels", torch.zeros(points, classes))

    def forward(self, x: Tensor) -> Tensor:
        squares = torch.cdist(self.inner(x), self.points).square()
        if self.smooth:
            return (
                (-squares / squares.detach().amin(1, keepdim=True).clamp_min(0.1)).softmax(1) @ self.labels + 1e-9
            ).log()
        return self.labels[squares.topk(self.count, 1, largest=False).indices].mean(1)


class Prototypes(Defense):
    """The rounded distance to the mean features of each class."""

    def __init__(self, inner: nn.Module, features: int, classes: int, step: float) -> None:
        super().__init__()
        self.inner, self.step = inner, step
        self.register_buffer("points", torch.zeros(classes, features))

    def forward(self, x: Tensor) -> Tensor:
        far = -torch.cdist(self.inner(x), self.points)
        return self.straight(far, (far / self.step).round() * self.step + 1e-3 * far.detach())


def bfloat_logits(z: Tensor) -> Tensor:
    """Return logits through bfloat16 with a large offset, which leaves steps of 2; the order stays by a detached trace."""
    return (z + 300).bfloat16().float() - 300 + 1e-3 * z.detach()


def sharp_probabilities(z: Tensor) -> Tensor:
    """Return probabilities of logits times 10."""
    return (10 * z).softmax(1)
