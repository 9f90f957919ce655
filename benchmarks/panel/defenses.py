"""Defenses inside a network, behind it and around it, with twins as those before it have."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.preprocessing import Defense


class Winners(Defense):
    """k-winners-take-all: all but the largest share of a layer's units are 0. Its twin adds some slope for the others."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        count = max(1, int(self.share * flat.shape[1]))
        least = flat.topk(count, 1).values[:, -1:].view(-1, *[1] * (x.ndim - 1))
        return self.straight(F.leaky_relu(x, 0.3), torch.where(x >= least, x, 0))


class Sparse(Defense):
    """MeanSparse: what lies within some deviations of a channel's mean becomes the mean."""

    def __init__(self, channels: int, deviations: float) -> None:
        super().__init__()
        self.norm, self.deviations = nn.BatchNorm2d(channels, affine=False), deviations

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.norm(x)
            return x
        mean, width = self.norm.running_mean.view(1, -1, 1, 1), self.norm.running_var.sqrt().view(1, -1, 1, 1)
        return self.straight(x, torch.where((x - mean).abs() <= self.deviations * width, mean, x))


class Pruned(nn.Module):
    """Stochastic activation pruning: units are drawn in proportion to their size, the others become 0."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        size = x.abs().flatten(1)
        stays = 1 - torch.exp(-self.share * size.shape[1] * size / size.sum(1, keepdim=True).clamp_min(1e-9))
        keep = torch.rand_like(size) < stays
        return (x.flatten(1) * keep / stays.detach().clamp_min(1e-3)).view_as(x)


class Lying(torch.autograd.Function):
    """ReLU with the slope of its mirror image."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx, upper):
        (x,) = ctx.saved_tensors
        return upper * (x < 0)


class LyingReLU(Defense):
    """ReLU whose custom gradient is wrong."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.smooth or self.training else Lying.apply(x)


class Hooked(Defense):
    """A hook on the input's gradient: it changes the sign of most entries, by a fixed pattern."""

    def __init__(self, shape: tuple[int, ...], share: float) -> None:
        super().__init__()
        self.register_buffer("sign", torch.where(torch.rand(shape) < share, -1.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        if y.requires_grad and not self.smooth:
            y.register_hook(lambda slope: slope * self.sign)
        return y


class Halved(Defense):
    """Pixels scaled up into half precision and down again, so that small gradients underflow on their way back."""

    def forward(self, x: Tensor) -> Tensor:
        values = ((x * 6e4).half() / 6e4).float()
        return self.straight(x, values)


class Behind(Defense):
    """A function of the logits that keeps the class; its twin leaves it out."""

    def __init__(self, inner: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return z if self.smooth else self.function(z)


def clipped_probabilities(z: Tensor) -> Tensor:
    """Return log-probabilities that are cut at 1e-4, of logits times 20; the order stays by a detached trace."""
    return ((20 * z).softmax(1) + 1e-4).log() + 1e-4 * z.detach()


def half_probabilities(z: Tensor) -> Tensor:
    """Return log-probabilities from a softmax in half precision; the order stays by a detached trace."""
    return ((8 * z).half().softmax(1).float() + 1e-3).log() + 1e-4 * z.detach()


def rounded(z: Tensor) -> Tensor:
    """Return logits rounded to quarters of their largest size, with a detached trace."""
    return (z * 0.5).round() * 2 + 1e-3 * z.detach()


def squashed(z: Tensor) -> Tensor:
    """Return logits through a function that saturates, with a detached trace."""
    return torch.tanh(3 * z) + 1e-3 * z.detach()


class Cancelling(Defense):
    """The mean of two networks; the second one's gradient comes back with the opposite sign."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        mirrored = x if self.smooth else 2 * x.detach() - x
        return self.first(x) + self.second(mirrored)


class Voting(Defense):
    """The votes of several networks, each so sharp that its own gradient is 0 almost everywhere."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        sharp = 1 if self.smooth else 200
        logits = [member(x) for member in self.members]
        return torch.stack([(sharp * z).softmax(1) for z in logits]).mean(0) + 1e-3 * logits[0].detach() * (
            not self.smooth
        )


class Branching(Defense):
    """One of several networks, chosen by a digit of the image's brightness that changes with every step."""

    def __init__(self, *members: nn.Module, fineness: float = 1e4) -> None:
        super().__init__()
        self.members, self.fineness = nn.ModuleList(members), fineness

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([member(x) for member in self.members])
        if self.smooth:
            return logits.softmax(2).mean(0).log()
        which = (x.detach().flatten(1).mean(1) * self.fineness).floor().long() % len(self.members)
        return logits[which, torch.arange(len(x))]


class Detecting(Defense):
    """A detector: what an autoencoder reproduces badly is answered by the nearest mean of a class, without a gradient."""

    def __init__(self, inner: nn.Module, autoencoder: nn.Module, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.inner, self.autoencoder = inner, autoencoder
        self.register_buffer("means", torch.zeros(classes, torch.Size(shape).numel()))
        self.register_buffer("threshold", torch.tensor(math.inf))

    def error(self, x: Tensor) -> Tensor:
        """Return how badly each image is reproduced."""
        return (x - self.autoencoder(x)).square().flatten(1).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.error(x) > self.threshold
        far = (x.flatten(1)[:, None] - self.means[None]).square().sum(2)
        if self.smooth:
            return torch.where(found[:, None], -far, self.inner(x))
        answer = F.one_hot(far.argmin(1), len(self.means)).to(x) * 10
        return torch.where(found[:, None], answer.detach(), self.inner(x))
