"""Layers with a norm bound, of every kind."""

import torch
from torch import nn

from lowcurve.models import (
    prepare_norms,
)
from lowcurve.models.lipschitz import (
    LipschitzBatchNorm1d,
    LipschitzBatchNorm2d,
    LipschitzBatchNorm3d,
    LipschitzConv1d,
    LipschitzConv2d,
    LipschitzConv3d,
    LipschitzLinear,
)
from lowcurve.randomness import normal, stream, temporary_seed

# A small layer of each kind with the layers that turn its output into logits, and the input shape.
KINDS = {
    "linear": (lambda: LipschitzLinear(6, 5, gamma=1.0), (6,)),
    "conv1d": (lambda: LipschitzConv1d(2, 4, 3, stride=2, gamma=1.0), (2, 9)),
    "conv2d": (lambda: LipschitzConv2d(2, 4, 3, padding=1, groups=2, gamma=1.0), (2, 5, 6)),
    "conv3d": (lambda: LipschitzConv3d(2, 3, 2, gamma=1.0), (2, 4, 3, 3)),
    "learned": (lambda: LipschitzConv2d(2, 4, 3, gamma=1.5, learn=True), (2, 5, 6)),
    "always divided": (lambda: LipschitzLinear(6, 5, gamma=2.0, clips=False), (6,)),
    "bn1d": (lambda: behind(nn.Linear(6, 5), LipschitzBatchNorm1d), (6,)),
    "bn2d": (lambda: behind(nn.Conv2d(2, 4, 3), LipschitzBatchNorm2d), (2, 5, 6)),
    "bn3d": (lambda: behind(nn.Conv3d(2, 3, 2), LipschitzBatchNorm3d), (2, 4, 3, 3)),
    "bn2d without weights": (lambda: behind(nn.Conv2d(2, 4, 3), LipschitzBatchNorm2d, affine=False), (2, 5, 6)),
    "bn2d, published": (lambda: behind(nn.Conv2d(2, 4, 3), LipschitzBatchNorm2d, published=True), (2, 5, 6)),
}


def behind(before: nn.Module, kind: type, gamma: float = 1.2, **settings) -> nn.Sequential:
    return nn.Sequential(before, kind(before, gamma=gamma, **settings))


def made(kind: str, scale: float = 3.0) -> tuple[nn.Module, torch.Tensor]:
    """Return the layer in eval mode, with weights so large that it clips, and a batch of inputs."""
    build, shape = KINDS[kind]
    with temporary_seed(0, kind):
        layer = build()
        for module in layer.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.running_var, 0.1, 1)
                nn.init.uniform_(module.running_mean)
                if module.affine:
                    nn.init.uniform_(module.weight, -1.5, 1.5)
                    nn.init.uniform_(module.bias)
            elif hasattr(module, "weight"):
                module.weight.data *= scale
    x = normal(torch.zeros(3, *shape), generator=stream(0, "inputs", kind))
    prepare_norms(layer, x, steps=200)
    return layer.eval(), x


def jacobian_norm(layer: nn.Module, x: torch.Tensor) -> float:
    matrix = torch.func.jacrev(lambda x: layer(x[None])[0].flatten())(x[0]).flatten(1).detach()
    return float(torch.linalg.matrix_norm(matrix.double(), 2))
