"""The terms of LCNN's Theorem 1, for networks that are a composition of known maps.

Their sum is no bound of normalized curvature in general; see `curvature_summands`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.models.layers import CenteredSoftplus, Normalize
from lowcurve.models.lcnn import ScaledBlock
from lowcurve.models.modes import set_training
from lowcurve.models.smoothness import lipschitz_constant
from lowcurve.network_calls import call, input_like


@dataclass(frozen=True)
class Summand:
    """The term of one nonlinearity in LCNN's Theorem 1: width * curvature * norm_product.

    Attributes:
        name: Name of the nonlinearity.
        width: Number of its outputs n_i.
        curvature: Largest |s''/s'| of the nonlinearity.
        norm_product: Product of the norms of all maps up to it.

    Example:
        >>> Summand("act", width=10, curvature=5.0, norm_product=2.0).value
        100.0
    """

    name: str
    width: int
    curvature: float
    norm_product: float

    @property
    def value(self) -> float:
        """The product of width, curvature and norm product."""
        return self.width * self.curvature * self.norm_product


@dataclass(frozen=True)
class _Map:
    name: str
    norm: float
    width: int
    curvature: float = 0.0


@torch.no_grad()
def curvature_summands(model: nn.Module, x: Tensor) -> list[Summand]:
    """Compute the terms n_i C_i prod_{j <= i} ||f_j|| of LCNN's Theorem 1, one for each nonlinearity.

    The theorem says that their sum bounds ||H|| / ||g|| of every affine function f of the network's outputs. This is false in
    general: contributions to the gradient may cancel where those to the Hessian do not. For f(x) = s0(x) + s0(-x) the ratio is
    beta / |sinh(beta x)|, which is infinite at 0, and the sum is 2 sqrt(2) beta. With z_k the inputs of nonlinearity k and
    J_k = dz_k/dx, the sum does bound the ratio

    * at an input where ||J_k|| max_i |df/dz_ki| <= n_k ||g|| for every k;
    * everywhere, if the condition number of every J_k is at most n_k at every input, as with one unit a layer. It is infinite
      for a layer that is wider than the input.

    Both follow from H = sum_k J_k^T diag(df/dz_k s''/s') J_k and g = J_k^T df/dz_k. Without any condition, ||H|| is at most
    the product of all norms times sum_k C_k prod_{j <= k} ||f_j||. `models.smoothness` has sharper bounds of that kind. No
    term includes the loss.

    The network must be a chain of linear layers, BatchNorm, pooling and softplus, and of LCNN's scaled blocks. The two
    branches of a block count as one map with the larger norm. Norms are those of `smoothness` in eval mode. The curvature of
    ReLU and max-pooling is infinite.

    Args:
        model: The network.
        x: One input, shape (1, ...); only its size is used.

    Returns:
        One term per nonlinearity, in their order.

    Raises:
        InputError: For any other layer, and for a layer that is called with inputs of different shapes.

    Cost: one forward pass and the operator norm of each layer.

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
            call(model, x[:1].to(input_like(model)))
    finally:
        for hook in hooks:
            hook.remove()
    found, product = [], 1.0
    for one in _maps("", model, sizes):
        product *= one.norm
        if one.curvature:
            found.append(Summand(one.name, one.width, one.curvature, product))
    return found


Sizes = dict[nn.Module, tuple[torch.Size, torch.Size]]


def _note_sizes(sizes: Sizes, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    found = inputs[0].shape, output.shape
    if sizes.setdefault(layer, found) != found:
        received = f"{type(layer).__name__} called with {tuple(sizes[layer][0])} and {tuple(found[0])}"
        raise InputError("layers with one shape of input", received, "give each call its own module")


def _maps(name: str, module: nn.Module, sizes: Sizes) -> Iterator[_Map]:
    """The maps of a chain of layers, in order. A convolution and the BatchNorm after it are one map."""
    if isinstance(module, ScaledBlock):
        yield from _block_maps(name, module, sizes)
        return
    if type(module).forward is not nn.Sequential.forward:
        yield _layer_map(name, module, None, sizes)
        return
    # named_children() leaves out the second call of a layer.
    layers = [(end, layer) for end, layer in module._modules.items() if layer is not None]
    for place, (end, layer) in enumerate(layers):
        after = layers[place + 1][1] if place + 1 < len(layers) else None
        if isinstance(after, nn.modules.batchnorm._BatchNorm) and isinstance(
            layer, nn.Linear | nn.modules.conv._ConvNd
        ):
            continue
        before = layers[place - 1][1] if place else None
        label = f"{name}.{end}".lstrip(".")
        if isinstance(layer, nn.Sequential | ScaledBlock):
            yield from _maps(label, layer, sizes)
        else:
            yield _layer_map(label, layer, before, sizes)


def _block_maps(name: str, block: ScaledBlock, sizes: Sizes) -> Iterator[_Map]:
    """The maps x -> (x, x) / sqrt(2) -> (act(ConvBN(.)), shortcut(.)) -> (ConvBN(.), .) -> mean -> act."""
    first = _layer_map(name, block.norm1, block.conv1, sizes)
    shortcut = math.prod(one.norm for one in _maps(name, block.shortcut, sizes))
    second = _layer_map(name, block.norm2, block.conv2, sizes)
    inner = _layer_map(f"{name}.act1", block.act1, None, sizes)
    yield _Map(name, max(first.norm, shortcut), 0)
    yield _Map(inner.name, 1.0, inner.width + sizes[block.shortcut][1].numel(), inner.curvature)
    yield _Map(name, max(second.norm, 1.0) * math.sqrt(0.5), 0)
    yield _layer_map(f"{name}.act2", block.act2, None, sizes)


def _layer_map(name: str, layer: nn.Module, before: nn.Module | None, sizes: Sizes) -> _Map:
    """The map of one layer. A BatchNorm is folded into the linear layer `before` it."""
    before_size, after_size = sizes[layer]
    width = after_size.numel()
    if isinstance(layer, CenteredSoftplus | nn.Softplus):
        return _Map(name, 1.0, width, float(layer.beta))
    if not isinstance(layer, LAYERS):
        expected = "a chain of linear layers, BatchNorm, pooling, softplus and scaled blocks"
        raise InputError(expected, type(layer).__name__, "use smoothness(model, example), which supports branches")
    part: nn.Module = layer
    start = before_size
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and isinstance(before, nn.Linear | nn.modules.conv._ConvNd):
        part, start = nn.Sequential(before, layer), sizes[before][0]
    like = next((tensor for tensor in layer.state_dict().values() if tensor.is_floating_point()), torch.zeros(0))
    kink = isinstance(layer, nn.ReLU | nn.MaxPool2d)
    return _Map(name, lipschitz_constant(part, like.new_zeros(start)), width, math.inf if kink else 0.0)


LAYERS = (
    nn.ReLU, nn.MaxPool2d, nn.Identity, nn.Flatten, nn.Dropout, nn.AdaptiveAvgPool2d, nn.AvgPool2d, Normalize,
    nn.modules.batchnorm._BatchNorm, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
)  # fmt: skip
"""Layers with a norm: linear ones, and those with a kink, whose curvature is infinite."""
