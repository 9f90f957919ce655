"""The fourth set of the panel: mostly l_1, because the third has two entries there, and l_inf and l_2 of kinds that no set has.

It was committed before its first audit, with the protocol, the scoring and the thresholds of the third set.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.analysis.norms import L1, L2, LINF, Ball
from panel.data import Data
from panel.entries import Build, Entry, Train
from panel.fresh import PLAIN_FIT, RANDOM, depthwise, entry, in_turn, members, three_values, weak
from panel.fresh_defenses import TwoBranches
from panel.honest import lcnn, linear
from panel.masked import around, behind, inner_first, plain, teacher_first
from panel.networks import Shape, Times, Transformer, mlp, pooled, residual
from panel.preprocessing import Levels, Noise
from panel.training import Fit, adversarial, curvature, entropy, input_gradient


def l1(
    name: str, kind: str, radius: float, build: Build, fit: Train = PLAIN_FIT, data: str = "digits", **more: Any
) -> Entry:
    """Return an entry in l_1."""
    return entry(name, kind, Ball(L1, radius), build, fit, data, **more)


def pgd(radius: float, epochs: int = 12, steps: int = 4) -> Fit:
    """Return adversarial training in l_1."""
    return Fit(epochs, loss=adversarial(Ball(L1, radius), steps))


def squared_error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distance of the logits to one-hot labels."""
    z = model(x)
    return (z - F.one_hot(y, z.shape[1])).square().sum(1).mean()


def mixed_images(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of mixtures of two images (mixup)."""
    share, other = torch.rand(1), torch.randperm(len(x))
    z = model(share * x + (1 - share) * x[other])
    return share.item() * F.cross_entropy(z, y) + (1 - share.item()) * F.cross_entropy(z, y[other])


def with_noise(deviation: float) -> Fit:
    """Return a training on noisy images."""
    return Fit(15, loss=lambda model, x, y: entropy(model, (x + deviation * torch.randn_like(x)).clamp(0, 1), y))


class RandomFeatures(nn.Module):
    """Cosines of random projections, and a linear layer, which alone is trained."""

    def __init__(self, shape: Shape, classes: int, count: int = 400, width: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("directions", width * torch.randn(count, torch.Size(shape).numel()))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(count))
        self.head = nn.Linear(count, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cos(F.linear(x.flatten(1), self.directions, self.phases)))


def spectral(data: Data) -> nn.Module:
    """Return fully connected layers with spectral normalization, and logits that are scaled up."""
    model = mlp(data.shape, data.classes)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.utils.parametrizations.spectral_norm(layer)
    return Times(model, 8.0)


def dropped() -> nn.Module:
    """Return ReLU with dropout, which is off in eval mode."""
    return nn.Sequential(nn.ReLU(), nn.Dropout(0.3))


LARGE = Ball(LINF, 0.14)
ROUND = Ball(L2, 0.9)

DEFENDED: tuple[Entry, ...] = (
    l1("5 levels, pooling", "quantized input", 4, behind(lambda: Levels(5), network=pooled)),
    l1("detached main branch, pooling", "blocked gradient", 3, members(TwoBranches, pooled, mlp)),
    l1("distilled at 40", "defensive distillation", 3, plain(mlp), teacher_first(40, mlp)),
    l1("one step alone in l_1", "weak evaluation", 4, plain(width=16), pgd(3), weak=weak(steps=1)),
    l1("logits x 200", "saturated logits", 3, around(partial(Times, scale=200.0)), inner_first(Fit(12))),
    l1("steps of three radii", "weak evaluation", 5, plain(depthwise), pgd(3), weak=weak(size=3.0)),
    l1("radius of 255 in l_1", "weak evaluation", 3, plain(pooled), weak=weak(share=1 / 255)),
    l1("noise of 0.3, fully connected", "input noise", 3, behind(lambda: Noise(0.3), network=mlp), Fit(20), **RANDOM),
)  # fmt: skip
"""Networks that hide their gradients, and networks whose evaluation is too weak."""

STURDY: tuple[Entry, ...] = (
    l1("fully connected, smallest ball", "standard", 1, plain(mlp)),
    l1("convolutions, PGD in l_1", "adversarially trained", 3, plain(width=16), pgd(3)),
    l1("fully connected, PGD in l_1", "adversarially trained", 6, plain(mlp), pgd(5)),
    l1("convolutions, PGD in l_inf, for l_1", "adversarially trained", 4, plain(),
       Fit(12, loss=adversarial(Ball(LINF, 0.11), 4))),
    entry("mixup", "mixtures of images", Ball(LINF, 0.08), plain(), Fit(15, loss=mixed_images)),
    l1("pooling, PGD in l_2, for l_1", "adversarially trained", 5, plain(pooled), Fit(12, loss=adversarial(ROUND, 4))),
    l1("CURE, convolutions", "CURE", 2, plain(act=nn.SiLU), Fit(12, loss=curvature(3.0, 0.2))),
    l1("gradient norm, tanh", "gradient norm", 3, plain(mlp, act=nn.Tanh), Fit(15, loss=input_gradient(0.2))),
    entry("squared error", "squared error", Ball(L2, 0.6), plain(mlp), Fit(12, loss=squared_error)),
    l1("LCNN in l_1", "LCNN", 2.5, lcnn, Fit(12)),
    l1("ViT in l_1", "other architecture", 1.5, plain(Transformer), Fit(20)),
    l1("tanh, largest ball", "standard", 12, plain(mlp, act=nn.Tanh), Fit(15)),
    entry("noise in training", "noise in training", ROUND, plain(pooled), with_noise(0.25)),
    l1("linear in l_1", "standard", 1.5, linear, Fit(15)),
    l1("three classes, PGD in l_1", "3 classes", 8, plain(), pgd(6), "digits:3"),
    l1("odd or even in l_1", "2 classes", 2, plain(mlp, act=nn.GELU), PLAIN_FIT, "digits:2"),
    entry("random features", "random features", Ball(LINF, 0.05), plain(RandomFeatures), Fit(20, 1e-2)),
    l1("weights of three values, convolutions", "quantized weights", 3, plain(), three_values),
    entry("spectral normalization", "spectral normalization", ROUND, spectral, Fit(15)),
    l1("residual in l_1", "standard", 7, plain(residual), Fit(3), "mnist"),
    entry("dropout in training, PGD", "dropout in training", LARGE, plain(mlp, act=dropped),
          Fit(12, loss=adversarial(LARGE, 3))),
    l1("pooling, PGD in l_1, MNIST", "adversarially trained", 10, plain(pooled, width=8), pgd(10, 4, 3), "mnist"),
    l1("colors, ELU, in l_1", "standard", 3, plain(act=nn.ELU), Fit(4), "cifar10"),
    l1("colors, PGD in l_1", "adversarially trained", 12, plain(norm=True), pgd(12, 4, 3), "cifar10"),
)  # fmt: skip
"""Networks that hide nothing: 18 in l_1, from a pixel's range to twelve of them, and 6 in l_inf and l_2."""


def fourth() -> Sequence[Entry]:
    """Return the fourth set in the order in which it is run; see `panel.fresh.in_turn`."""
    sides = ([replace(one, declared="fourth") for one in side] for side in (DEFENDED, STURDY))
    return in_turn(*sides)
