"""Small networks and points whose distance to the boundary is known."""

import torch
from torch import nn

from lowcurve.data import Examples
from lowcurve.randomness import stream, temporary_seed

CLASSES = ("a", "b", "c")


def linear() -> nn.Sequential:
    with temporary_seed(0, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()


def perceptron() -> nn.Sequential:
    with temporary_seed(0, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Softplus(), nn.Linear(16, 3)).eval()


def inner(count: int = 50) -> Examples:
    """Examples far enough from the pixel box that balls are whole; mostly classified right by `linear`."""
    x = 0.3 + 0.4 * torch.rand(count, 3, 2, 2, generator=stream(0, "images"))
    with torch.no_grad():
        y = linear()(x).argmax(1)
    y[::10] = (y[::10] + 1) % 3
    return Examples(x, y, CLASSES)


EXAMPLES = inner()


UNIFORM = Examples(torch.rand(20, 3, 2, 2, generator=stream(1, "images")), torch.arange(20) % 3, CLASSES)
