"""What a network's betas and gammas have become, layer by layer."""

from dataclasses import dataclass

import torch
from torch import nn

from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzBatchNorm, LipschitzLayer
from lowcurve.models.spectral import Interval, norm_interval


@dataclass(frozen=True)
class Row:
    """A layer with a beta, or one with a gamma. norm: of its linear part, with BatchNorm folded in, before it is clipped.
    clipped: whether it is, by the norm that the layer follows.
    """

    name: str
    kind: str
    beta: float | None = None
    gamma: float | None = None
    norm: Interval | None = None
    clipped: bool | None = None


@torch.no_grad()
def summary(model: nn.Module, steps: int = 100) -> list[Row]:
    """A row for every nonlinearity with a beta and every layer with a gamma, in their order.

    steps: of power iteration for the lower end of each norm, from a start of its own. Cost: `norm_interval` of each layer.

    Example:
        >>> [(row.name, row.kind, row.beta) for row in summary(nn.Sequential(nn.Linear(2, 2), CenteredSoftplus(4.0)))]
        [('1', 'CenteredSoftplus', 4.0)]
    """
    rows = []
    for name, layer in model.named_modules():
        if isinstance(layer, CenteredSoftplus):
            rows.append(Row(name, type(layer).__name__, beta=round(float(layer.beta), 6)))
        elif isinstance(layer, LipschitzLayer):
            clipped, gamma = bool(layer.factor != 1), float(layer.gamma)
            rows.append(Row(name, type(layer).__name__, None, gamma, _interval(layer, steps), clipped))
    return rows


@torch.no_grad()
def levels(model: nn.Module) -> dict[str, float]:
    """What of `summary` costs nothing: "β LAYER", "γ LAYER" and "σ LAYER", the norm as power iteration has it, before it is
    clipped.

    Example:
        >>> levels(nn.Sequential(nn.Linear(2, 2), CenteredSoftplus(4.0)))
        {'β 1': 4.0}
    """
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, CenteredSoftplus):
            found[f"β {name}"] = round(float(layer.beta), 6)
        elif isinstance(layer, LipschitzLayer):
            found |= {f"γ {name}": float(layer.gamma), f"σ {name}": float(layer.sigma)}
    return found


def _interval(layer: LipschitzLayer, steps: int) -> Interval:
    """The norm of the linear part before its factor; in the published form that of the bound which is clipped."""
    if isinstance(layer, LipschitzBatchNorm) and layer.alone:
        exact = float(layer.scale.abs().max())
        return Interval(exact, exact)
    if not isinstance(layer, LipschitzBatchNorm):
        return norm_interval(layer.linear, layer.vector.shape[2:], steps=steps)
    if not layer.published:
        return norm_interval(layer.linear, layer.vector.shape[2:], scale=layer.scale, steps=steps)
    found, stretch = norm_interval(layer.linear, layer.vector.shape[2:], steps=steps), float(layer.scale.abs().max())
    return Interval(found.lower * stretch, found.upper * stretch)
