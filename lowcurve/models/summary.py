"""The betas, gammas and operator norms of a network, layer by layer."""

from dataclasses import dataclass

import torch
from torch import nn

from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzBatchNorm, LipschitzLayer
from lowcurve.models.spectral import Interval, norm_interval


@dataclass(frozen=True, repr=False)
class LayerSummary:
    """The learned bound of one layer.

    Attributes:
        name: Name of the layer.
        kind: Its class.
        beta: Sharpness of a centered softplus.
        gamma: Bound of the operator norm.
        norm: Interval of the linear part's norm, with BatchNorm. It is taken before clipping.
        clipped: True if the layer clips its current norm.
    """

    name: str
    kind: str
    beta: float | None = None
    gamma: float | None = None
    norm: Interval | None = None
    clipped: bool | None = None

    def __repr__(self) -> str:
        words = [f"{self.name}: {self.kind}"]
        words += [
            f"{name} {value:.4g}" for name, value in (("beta", self.beta), ("gamma", self.gamma)) if value is not None
        ]
        words += [f"norm {self.norm.lower:.4g} to {self.norm.upper:.4g}"] if self.norm is not None else []
        return f"<{', '.join(words)}{', clipped' if self.clipped else ''}>"


@torch.no_grad()
def summary(model: nn.Module, steps: int = 100) -> list[LayerSummary]:
    """Summarize every nonlinearity with a beta and every layer with a gamma.

    Args:
        model: The network.
        steps: Steps of power iteration for the lower end of each norm, from a new start.

    Returns:
        One entry per layer, in the order of `named_modules`.

    Cost: `norm_interval` of each layer with a gamma.

    Example:
        >>> [(row.name, row.kind, row.beta) for row in summary(nn.Sequential(nn.Linear(2, 2), CenteredSoftplus(4.0)))]
        [('1', 'CenteredSoftplus', 4.0)]
        >>> summary(nn.Sequential(nn.Linear(2, 2), CenteredSoftplus(4.0)))
        [<1: CenteredSoftplus, beta 4>]
    """
    rows = []
    for name, layer in model.named_modules():
        if isinstance(layer, CenteredSoftplus):
            rows.append(LayerSummary(name, type(layer).__name__, beta=round(float(layer.beta), 6)))
        elif isinstance(layer, LipschitzLayer):
            clipped, gamma = bool(layer.factor != 1), float(layer.gamma)
            rows.append(LayerSummary(name, type(layer).__name__, None, gamma, _interval(layer, steps), clipped))
    return rows


@torch.no_grad()
def layer_values(model: nn.Module) -> dict[str, float]:
    """Return the betas, gammas and norms that cost no computation.

    Args:
        model: The network.

    Returns:
        The values "β LAYER", "γ LAYER" and "σ LAYER"; σ is the current estimate of the norm before it is clipped.

    Example:
        >>> layer_values(nn.Sequential(nn.Linear(2, 2), CenteredSoftplus(4.0)))
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
    """The norm of the linear part before its factor; in the published form, the norm's upper bound that is clipped."""
    if isinstance(layer, LipschitzBatchNorm) and layer.alone:
        exact = float(layer.scale.abs().max())
        return Interval(exact, exact)
    if not isinstance(layer, LipschitzBatchNorm):
        return norm_interval(layer.linear, layer.vector.shape[2:], steps=steps)
    if not layer.published:
        return norm_interval(layer.linear, layer.vector.shape[2:], scale=layer.scale, steps=steps)
    found, scale = norm_interval(layer.linear, layer.vector.shape[2:], steps=steps), float(layer.scale.abs().max())
    return Interval(found.lower * scale, found.upper * scale)
