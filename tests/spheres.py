"""Points on spheres and planes through images, in double precision."""

import torch
from closed_surfaces import RADIUS, SIZE
from torch import nn
from torch.testing import assert_close

from lowcurve import randomness
from lowcurve.analysis.norms import L2, dot
from lowcurve.geometry import (
    span,
)
from lowcurve.randomness import stream


def normal(*shape: int, name: str) -> torch.Tensor:
    return randomness.normal(torch.zeros(shape, dtype=torch.float64), generator=stream(0, "slices", name))


X = normal(4, SIZE, name="x")


U, V = normal(4, SIZE, name="u"), normal(4, SIZE, name="v")


ON_SPHERE = RADIUS * L2.unit(X).view(4, 2, 3)


T = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)


def network() -> nn.Module:
    with randomness.temporary_seed(0, "slices"):
        layers = (nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5))
    return nn.Sequential(*layers).double().eval()


IMAGES, LABELS = normal(3, 2, 4, 4, name="images"), torch.tensor([0, 3, 4])


PLANES = span(IMAGES, normal(3, 2, 4, 4, name="first"), normal(3, 2, 4, 4, name="second"))


A, B = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(0, 2, 3, dtype=torch.float64)


def assert_orthonormal(*vectors: torch.Tensor) -> None:
    for i, u in enumerate(vectors):
        for j, v in enumerate(vectors):
            assert_close(dot(u, v), torch.full((len(u),), float(i == j)).to(u), rtol=0, atol=1e-12)
