"""LCNN's bound on normalized curvature: a network as a composition of maps, each with its norm, its curvature and its width."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.models.gram import norm_bound
from lowcurve.models.layers import CenteredSoftplus, Normalize
from lowcurve.models.lcnn import ScaledBlock
from lowcurve.models.lipschitz import LipschitzBatchNorm, LipschitzWeight
from lowcurve.models.modes import set_training


@dataclass(frozen=True)
class Summand:
    """width * curvature * reach, of one nonlinearity: n_i, its largest |s''/s'|, and the product of the norms up to it.

    Example:
        >>> Summand("act", width=10, curvature=5.0, reach=2.0).value
        100.0
    """

    name: str
    width: int
    curvature: float
    reach: float

    @property
    def value(self) -> float:
        """The summand itself."""
        return self.width * self.curvature * self.reach


@dataclass(frozen=True)
class _Map:
    name: str
    norm: float
    width: int
    curvature: float = 0.0


@torch.no_grad()
def curvature_summands(model: nn.Module, x: Tensor) -> list[Summand]:
    """The summands n_i C_i prod_{j <= i} ||f_j|| of Theorem 1, one for each nonlinearity; their sum bounds ||H|| / ||g|| of any
    function of the network's outputs that is affine, as the theorem has it.

    For networks in a row, of linear layers, BatchNorm, pooling and softplus, and of LCNN's scaled blocks, whose two arms are
    one map of the larger norm. The norms are those of `norm_bound`, in eval mode. It is a statement about the method
    and no certificate: n_i, the number of outputs of the i-th map, makes it far too large for any real network, and the loss
    is not in it. `models.smoothness` bounds the curvature of margins themselves.

    x: one input, shape (1, ...), of which the size alone matters. The curvature of ReLU and max-pooling is infinite.
    Cost: one forward pass and `norm_bound` of each layer.

    Errors: InputError for a layer that is not among these.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 1), CenteredSoftplus(3.0), nn.Linear(1, 1))
        >>> network[0].weight.data.fill_(2.0)
        tensor([[2.]])
        >>> [round(one.value, 4) for one in curvature_summands(network, torch.zeros(1, 1))]
        [6.0]

    Reference: srinivas2022lcnn, Theorem 1.
    """
    sizes: dict[nn.Module, tuple[torch.Size, torch.Size]] = {}
    hooks = [module.register_forward_hook(partial(_note_sizes, sizes)) for module in model.modules()]
    try:
        with set_training(model, training=False):
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    found, reach = [], 1.0
    for one in _maps("", model, sizes):
        reach *= one.norm
        if one.curvature:
            found.append(Summand(one.name, one.width, one.curvature, reach))
    return found


Sizes = dict[nn.Module, tuple[torch.Size, torch.Size]]


def _note_sizes(sizes: Sizes, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    sizes[layer] = inputs[0].shape, output.shape


def _maps(name: str, module: nn.Module, sizes: Sizes) -> Iterator[_Map]:
    """The maps of a network in a row, a convolution and the BatchNorm behind it as one."""
    if isinstance(module, ScaledBlock):
        yield from _of_block(name, module, sizes)
        return
    if not isinstance(module, nn.Sequential):
        yield _of_layer(name, module, None, sizes)
        return
    layers = list(module.named_children())
    for place, (end, layer) in enumerate(layers):
        behind = layers[place + 1][1] if place + 1 < len(layers) else None
        if isinstance(behind, nn.modules.batchnorm._BatchNorm) and isinstance(
            layer, nn.Linear | nn.modules.conv._ConvNd
        ):
            continue
        before = layers[place - 1][1] if place else None
        label = f"{name}.{end}".lstrip(".")
        if isinstance(layer, nn.Sequential | ScaledBlock):
            yield from _maps(label, layer, sizes)
        else:
            yield _of_layer(label, layer, before, sizes)


def _of_block(name: str, block: ScaledBlock, sizes: Sizes) -> Iterator[_Map]:
    """X -> (x, x) / sqrt(2) -> (act(ConvBN x), shortcut x) -> (ConvBN, same) -> their mean -> act."""
    first = _of_layer(name, block.norm1, block.conv1, sizes)
    kept = math.prod(one.norm for one in _maps(name, block.shortcut, sizes))
    second = _of_layer(name, block.norm2, block.conv2, sizes)
    inner = _of_layer(f"{name}.act1", block.act1, None, sizes)
    yield _Map(name, max(first.norm, kept), 0)
    yield _Map(inner.name, 1.0, inner.width + sizes[block.shortcut][1].numel(), inner.curvature)
    yield _Map(name, max(second.norm, 1.0) * math.sqrt(0.5), 0)
    yield _of_layer(f"{name}.act2", block.act2, None, sizes)


def _of_layer(name: str, layer: nn.Module, before: nn.Module | None, sizes: Sizes) -> _Map:
    """One layer; a BatchNorm with the layer `before` it folded in."""
    came, left = sizes[layer]
    width = left.numel()
    if isinstance(layer, CenteredSoftplus):
        return _Map(name, 1.0, width, float(layer.beta))
    if isinstance(layer, nn.Softplus):
        return _Map(name, 1.0, width, float(layer.beta))
    if isinstance(layer, nn.ReLU | nn.MaxPool2d):
        return _Map(name, 1.0, width, math.inf)
    if isinstance(layer, nn.Identity | nn.Flatten | nn.Dropout):
        return _Map(name, 1.0, width)
    if isinstance(layer, nn.AdaptiveAvgPool2d | nn.AvgPool2d):
        return _Map(name, math.sqrt(width / came.numel()), width)
    if isinstance(layer, Normalize):
        return _Map(name, 1 / float(layer.std.min()), width)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return _Map(name, _norm_of_batchnorm(layer, before, sizes), width)
    if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        factor = float(layer.factor) if isinstance(layer, LipschitzWeight) else 1.0
        return _Map(name, factor * norm_bound(layer, came[2:]), width)
    expected = "a network in a row of linear layers, BatchNorm, pooling, softplus and scaled blocks"
    raise InputError(expected, type(layer).__name__, "use smoothness(model, example), which follows branches")


def _norm_of_batchnorm(layer: nn.modules.batchnorm._BatchNorm, before: nn.Module | None, sizes: Sizes) -> float:
    """The norm of a BatchNorm in eval mode, folded into the linear layer before it if there is one."""
    factor = float(layer.factor) if isinstance(layer, LipschitzBatchNorm) else 1.0
    if layer.running_var is None:
        raise InputError("a BatchNorm with running statistics", "none", "write track_running_stats=True")
    std = torch.as_tensor(layer.running_var + layer.eps).sqrt()
    scale = std.reciprocal() if layer.weight is None else layer.weight / std
    if isinstance(before, nn.Linear | nn.modules.conv._ConvNd):
        return factor * norm_bound(before, sizes[before][0][2:], scale=scale)
    return factor * float(scale.abs().max())
