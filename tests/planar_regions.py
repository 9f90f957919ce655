"""Classification regions in the plane whose shapes are known, and what finds paths in them."""

import torch
from torch import nn

from lowcurve import randomness
from lowcurve.attacks import DeepFool
from lowcurve.geometry.paths import PathSearch
from lowcurve.geometry.regions import RegionProjection
from lowcurve.randomness import stream

BOX = (-3.0, 3.0)


PLANE = RegionProjection(DeepFool(box=BOX), box=BOX)


SEARCH = PathSearch(PLANE, spacing=0.01)


def draw(*shape: int, name: str) -> torch.Tensor:
    return randomness.uniform(torch.zeros(shape, dtype=torch.float64), -1, 1, generator=stream(0, "paths", name))


def two_classes(depth):
    """Logits (0, depth): class 1 where depth is above 0."""
    return lambda x: torch.stack([torch.zeros(len(x)).to(x), depth(x)], 1)


def norm(x):
    return x.square().sum(1).sqrt()


DISCS = two_classes(lambda x: 0.5 - torch.minimum(norm(x - torch.tensor([1.0, 0])), norm(x + torch.tensor([1.0, 0]))))


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.long)


def network(classes: int = 3, width: int = 16) -> nn.Module:
    with randomness.temporary_seed(3, "network"):
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes)).eval()
