"""How much each operation of a network can lengthen and bend: what `smoothness` carries through its graph."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from lowcurve.analysis.calculus import pullback
from lowcurve.errors import InputError
from lowcurve.models.clipping import LipschitzLayer
from lowcurve.models.gram import norm_bound
from lowcurve.models.layers import CenteredSoftplus, Normalize
from lowcurve.models.residual import PaddedShortcut


@dataclass(frozen=True)
class Step:
    """What one operation does to lengths. slope: ||J||_2. length, total: the largest l_2 length and the largest sum of sizes of
    a column of J, that is, of what one number that comes in can do. bend: sup |phi''| of an elementwise one, else 0.
    """

    slope: float
    length: float
    total: float
    bend: float = 0.0

    def back(self, length: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """||J^T a||_2 and ||J^T a||_inf at most, given ||a||_2 and ||a||_inf at most."""
        return self.slope * length, torch.minimum(self.total * largest, self.length * length)


@dataclass(frozen=True)
class Layer:
    """An operation in its place. beside: what comes in is put side by side and not added. rows: the weights of a linear
    layer, where it might be the last.
    """

    node: fx.Node
    parents: tuple[fx.Node, ...]
    step: Step
    beside: bool = False
    rows: Tensor | None = None


def same(slope: float = 1.0, bend: float = 0.0) -> Step:
    """An elementwise operation."""
    return Step(slope, slope, slope, bend)


PASSING = same()
SIGMOID_BEND = 1 / (6 * math.sqrt(3))
NONLINEARITIES: dict[type[nn.Module], Callable[[Any], Step]] = {
    nn.ReLU: lambda _: same(1.0, math.inf),
    nn.LeakyReLU: lambda m: same(max(1.0, abs(m.negative_slope)), math.inf),
    nn.Softplus: lambda m: same(1.0, m.beta / 4),
    CenteredSoftplus: lambda m: same(1.0, float(m.beta) / 4),
    nn.Tanh: lambda _: same(1.0, 8 * SIGMOID_BEND),
    nn.Sigmoid: lambda _: same(0.25, SIGMOID_BEND),
    nn.GELU: lambda m: same(1.129, 0.798) if m.approximate == "none" else same(1.130, 0.800),
    nn.SiLU: lambda _: same(1.1, 0.5),
    nn.ELU: lambda m: same(max(1.0, m.alpha), m.alpha if m.alpha == 1 else math.inf),
}
"""sup |phi'| and sup |phi''|, rounded up."""
FUNCTIONS: dict[Any, Step] = {
    torch.relu: same(1.0, math.inf), F.relu: same(1.0, math.inf), "relu": same(1.0, math.inf),
    torch.tanh: same(1.0, 8 * SIGMOID_BEND), F.tanh: same(1.0, 8 * SIGMOID_BEND), "tanh": same(1.0, 8 * SIGMOID_BEND),
    torch.sigmoid: same(0.25, SIGMOID_BEND), "sigmoid": same(0.25, SIGMOID_BEND), F.silu: same(1.1, 0.5),
    F.gelu: same(1.130, 0.800),
    torch.flatten: PASSING, "flatten": PASSING, "view": PASSING, "reshape": PASSING, "contiguous": PASSING,
    operator.getitem: PASSING, F.pad: PASSING, F.dropout: PASSING,
}  # fmt: skip
POOLS: dict[Any, type[nn.Module]] = {
    F.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d, F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d
}  # fmt: skip
PRODUCTS: dict[Any, Callable[[Any, Any], Tensor]] = {
    operator.mul: operator.mul, operator.truediv: operator.truediv, torch.mul: operator.mul, torch.div: operator.truediv,
    "mul": operator.mul, "div": operator.truediv,
}  # fmt: skip
"""With a constant; a product of two things that move has no bound of its slope."""
SUMS = (operator.add, torch.add, operator.iadd, "add", "add_", operator.sub, torch.sub)


def is_leaf(module: nn.Module) -> bool:
    """Whether the module is taken as one operation, though it is not torch's own."""
    return isinstance(module, Normalize | PaddedShortcut | LipschitzLayer) or type(module) in NONLINEARITIES


def require_statistics(model: nn.Module) -> None:
    """Refuse BatchNorm that knows no statistics but those of the batch."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None:
            hint = "write track_running_stats=True"
            raise InputError("BatchNorm with running statistics", f"{name!r} without", hint)


def layers_of(traced: fx.GraphModule, values: dict[fx.Node, Tensor]) -> list[Layer]:
    """Every operation of a traced network in its order, a BatchNorm folded into the convolution or linear layer before it."""
    modules, found = dict(traced.named_modules()), dict[fx.Node, Layer]()
    moving: set[fx.Node] = set()  # what changes with the input, and is not a constant
    for node in traced.graph.nodes:
        if node.op == "placeholder" or moving.intersection(node.all_input_nodes):
            moving.add(node)
        if node.op in ("placeholder", "output") or node not in moving:
            continue
        module = modules[str(node.target)] if node.op == "call_module" else None
        parents = tuple(parent for parent in node.all_input_nodes if parent in moving)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            before = modules.get(str(parents[0].target)) if parents[0].op == "call_module" else None
            folded = isinstance(before, nn.Linear | nn.modules.conv._ConvNd) and len(parents[0].users) == 1
            scale = _scale(module)
            if folded and before is not None:
                (source,) = found.pop(parents[0]).parents
                found[node] = Layer(node, (source,), _weighted(before, values[source].shape, scale))
            else:
                found[node] = Layer(node, parents, same(float(scale.abs().max())))
        else:
            found[node] = _layer(node, module, parents, values)
    return list(found.values())


def _layer(
    node: fx.Node, module: nn.Module | None, parents: tuple[fx.Node, ...], values: dict[fx.Node, Tensor]
) -> Layer:
    """One operation, by its module or its function."""
    if node.target in (torch.cat, torch.concat):
        return Layer(node, parents, PASSING, beside=True)
    if node.target in SUMS:
        return Layer(node, parents, PASSING)
    if node.target in PRODUCTS and len(parents) == 1 and node.args[0] is parents[0]:
        other = values.get(node.args[1], node.args[1]) if isinstance(node.args[1], fx.Node) else node.args[1]
        return Layer(node, parents, same(float(PRODUCTS[node.target](1.0, torch.as_tensor(other)).abs().max())))
    before, after = values[parents[0]].shape, values[node].shape
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        rows = _factor(module) * module.weight.double().cpu() if isinstance(module, nn.Linear) else None
        return Layer(node, parents, _weighted(module, before, None), rows=rows)
    if node.target in POOLS:
        module = POOLS[node.target](*node.args[1:], **node.kwargs)
    step = _of_module(module, before) if module is not None else _of_function(node, before, after)
    if step is None:
        received = f"{type(module).__name__} {str(node.target)!r}" if module is not None else str(node.target)
        raise InputError("operations whose slope and bend are known", received, "bound the network without it")
    return Layer(node, parents, step)


def _of_module(module: nn.Module, before: torch.Size) -> Step | None:
    if type(module) in NONLINEARITIES:
        return NONLINEARITIES[type(module)](module)
    if isinstance(module, nn.Identity | nn.Flatten | nn.modules.dropout._DropoutNd | PaddedShortcut):
        return PASSING
    if isinstance(module, Normalize):
        return same(float(1 / module.std.min()))
    if isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        return _averaged(module, before)
    if isinstance(module, nn.MaxPool2d):
        window, stride = _pair(module.kernel_size), _pair(module.stride)
        often = math.prod(-(-k // s) for k, s in zip(window, stride, strict=True))
        return Step(math.sqrt(often), math.sqrt(often), often, math.inf)
    return None


def _of_function(node: fx.Node, before: torch.Size, after: torch.Size) -> Step | None:
    if node.target in (torch.mean, "mean"):
        share = math.prod(after) / math.prod(before)
        return Step(share**0.5, share, share)
    if node.target is F.pad and "constant" not in (*node.args[2:3], node.kwargs.get("mode", "constant")):
        return None
    if node.target is F.softplus:
        beta = node.kwargs.get("beta", node.args[1] if len(node.args) > 1 else 1.0)
        return same(1.0, float(beta) / 4) if isinstance(beta, int | float) else None
    return FUNCTIONS.get(node.target)


def _averaged(module: nn.Module, before: torch.Size) -> Step:
    """Average pooling, whose matrix has no negative entry: ||A||_2^2 is at most its largest row sum times its largest column
    sum, which are what it and its adjoint make of ones.
    """
    ones = torch.ones(1, 1, *before[2:], dtype=torch.double, requires_grad=True)
    with torch.enable_grad():
        rows = module(ones)
        columns = pullback(rows, ones, torch.ones_like(rows))
    column = float(columns.max())
    return Step(math.sqrt(float(rows.detach().max()) * column), column, column)


def _weighted(layer: nn.Linear | nn.modules.conv._ConvNd, before: torch.Size, scale: Tensor | None) -> Step:
    """A convolution or linear layer, its outputs scaled. One number that comes in meets every weight of its channel at most
    once, where nothing is padded with copies of it.
    """
    weight = layer.weight.double().cpu()
    scale = torch.ones(len(weight), dtype=torch.double) if scale is None else scale
    scale = scale * _factor(layer)
    weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    if isinstance(layer, nn.Linear):
        slope = float(torch.linalg.matrix_norm(weight, 2))
    else:
        if layer.transposed or layer.padding_mode != "zeros":
            kind = "transposed" if layer.transposed else f"padded by {layer.padding_mode}"
            hint = "bound the network without it"
            raise InputError("convolutions with zeros around the image", f"one that is {kind}", hint)
        slope = norm_bound(layer, before[2:], scale=scale)
    groups = getattr(layer, "groups", 1)
    columns = (
        weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(2)
    )  # group, channel in, all that it meets
    return Step(slope, float(columns.norm(dim=2).max()), float(columns.abs().sum(2).max()))


def _factor(layer: nn.Module) -> float:
    """What a layer with a bound multiplies its linear part by, 1 of a plain one."""
    return float(layer.factor) if isinstance(layer, LipschitzLayer) else 1.0


def _scale(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """What BatchNorm multiplies each channel by in eval mode."""
    assert norm.running_var is not None
    scale = _factor(norm) * (norm.running_var.double().cpu() + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.double().cpu()


def _pair(size: Any) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
