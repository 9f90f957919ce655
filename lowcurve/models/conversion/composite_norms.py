"""BatchNorm layers of other libraries that apply further layers after the normalization, such as timm's BatchNormAct2d."""

import torch
from torch import nn

from lowcurve import randomness
from lowcurve.models.conversion.layer_kinds import has_own_forward
from lowcurve.models.modes import set_training

BatchNorm = nn.modules.batchnorm._BatchNorm
SHAPES = {nn.BatchNorm1d: (3,), nn.BatchNorm2d: (3, 3), nn.BatchNorm3d: (3, 3, 3)}
"""Sizes of the images on which such a layer is tried, for each kind."""


def applies_children(layer: nn.Module) -> bool:
    """Return True for a BatchNorm with a forward method of its own that equals BatchNorm and then its children in order.

    The layer is tried on random images in eval mode, which leaves its values, its mode and the global random state unchanged.

    Example:
        >>> class NormAndReLU(nn.BatchNorm1d):
        ...     def __init__(self, features):
        ...         super().__init__(features)
        ...         self.act = nn.ReLU()
        ...
        ...     def forward(self, x):
        ...         return self.act(nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias))
        >>> applies_children(NormAndReLU(2)), applies_children(nn.BatchNorm1d(2))
        (True, False)
    """
    kind = next((kind for kind in SHAPES if isinstance(layer, kind)), None)
    if kind is None or not has_own_forward(layer) or not isinstance(layer, BatchNorm) or layer.running_var is None:
        return False
    random, like = randomness.stream(0, "composite norm"), layer.running_var
    x = randomness.normal(like.new_empty(2, layer.num_features, *SHAPES[kind]), generator=random)
    x = x * 3 * like.sqrt().view(-1, *[1] * (x.ndim - 2))
    with torch.no_grad(), set_training(layer, training=False), randomness.temporary_seed(0, "composite norm"):
        try:
            found = type(layer).forward(layer, x.clone())
            expected = kind.forward(layer, x.clone())
            for part in layer.children():
                expected = part(expected)
        except Exception:  # whatever the user's layer raises; it is then looked into as any other module
            return False
    return isinstance(found, torch.Tensor) and torch.equal(found, expected)


def layers_after(norm: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that a recorded or a bounded BatchNorm applies after the normalization, by their names.

    Torch's own BatchNorm applies none: its children, if any, are parametrizations.

    Example:
        >>> layers_after(nn.utils.parametrizations.weight_norm(nn.BatchNorm1d(2)))
        {}
    """
    return dict(norm.named_children()) if has_own_forward(norm) else {}
