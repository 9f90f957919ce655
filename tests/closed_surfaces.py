"""Surfaces whose curvature is known, as fields that are zero on them."""

import torch

SIZE, RADIUS = 6, 2.0


def sphere(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).square().sum(1) - RADIUS**2


def cylinder(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, :2].square().sum(1) - RADIUS**2


def hyperplane(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1) @ torch.arange(1.0, SIZE + 1, dtype=x.dtype) - 3


def quartic(x: torch.Tensor) -> torch.Tensor:
    """A surface without symmetry."""
    flat = x.flatten(1)
    weights = torch.arange(1.0, SIZE + 1, dtype=x.dtype)
    return flat.pow(4) @ weights + flat @ weights.flip(0).cos() + flat[:, 0] * flat[:, 1] - 1
