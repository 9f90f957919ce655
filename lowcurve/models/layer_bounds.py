"""Bounds of the Jacobian and the second derivative of each operation of a network, which `smoothness` combines."""

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
class OperationBound:
    """Upper bounds for one operation with Jacobian J.

    Attributes:
        lipschitz: Bound of ||J||_2.
        column_norm: Bound of the l_2 norm of every column of J.
        column_sum: Bound of the sum of absolute values of every column of J.
        second_derivative: sup |phi''| of an elementwise operation phi, else 0.
    """

    lipschitz: float
    column_norm: float
    column_sum: float
    second_derivative: float = 0.0

    def pull_back(self, norm: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Bound J^T a in two norms.

        Args:
            norm: Bound of ||a||_2.
            largest: Bound of ||a||_inf.

        Returns:
            Bounds of ||J^T a||_2 and ||J^T a||_inf.
        """
        return self.lipschitz * norm, torch.minimum(self.column_sum * largest, self.column_norm * norm)


@dataclass(frozen=True)
class Operation:
    """An operation in a traced network.

    Attributes:
        node: Node of the graph.
        parents: Its inputs that depend on the network's input.
        bound: Its bounds.
        concatenates: True if inputs are concatenated, not added.
        rows: The weights of a linear layer. They are used if it is the last operation.
    """

    node: fx.Node
    parents: tuple[fx.Node, ...]
    bound: OperationBound
    concatenates: bool = False
    rows: Tensor | None = None


def elementwise(lipschitz: float = 1.0, second_derivative: float = 0.0) -> OperationBound:
    """Return the bounds of an elementwise operation.

    Args:
        lipschitz: Bound of |phi'|.
        second_derivative: Bound of |phi''|.

    Returns:
        The bounds.
    """
    return OperationBound(lipschitz, lipschitz, lipschitz, second_derivative)


IDENTITY = elementwise()
_SIGMOID = 1 / (6 * math.sqrt(3))  # sup |sigmoid''|
RELU = elementwise(1.0, math.inf)
SIGMOID = elementwise(0.25, _SIGMOID)
TANH = elementwise(1.0, 8 * _SIGMOID)
NONLINEARITIES: dict[type[nn.Module], Callable[[Any], OperationBound]] = {
    nn.ReLU: lambda _: RELU,
    nn.LeakyReLU: lambda m: elementwise(max(1.0, abs(m.negative_slope)), math.inf),
    nn.Softplus: lambda m: elementwise(1.0, m.beta / 4),
    CenteredSoftplus: lambda m: elementwise(1.0, float(m.beta) / 4),
    nn.Tanh: lambda _: TANH,
    nn.Sigmoid: lambda _: SIGMOID,
    nn.GELU: lambda m: elementwise(1.129, 0.798) if m.approximate == "none" else elementwise(1.130, 0.800),
    nn.SiLU: lambda _: elementwise(1.1, 0.5),
    nn.ELU: lambda m: elementwise(max(1.0, m.alpha), m.alpha if m.alpha == 1 else math.inf),
}
"""The bounds sup |phi'| and sup |phi''| of each nonlinearity, rounded up."""
FUNCTIONS: dict[Any, OperationBound] = {
    torch.relu: RELU, F.relu: RELU, "relu": RELU, torch.tanh: TANH, F.tanh: TANH, "tanh": TANH,
    torch.sigmoid: SIGMOID, "sigmoid": SIGMOID, F.silu: elementwise(1.1, 0.5), F.gelu: elementwise(1.130, 0.800),
    torch.flatten: IDENTITY, "flatten": IDENTITY, "view": IDENTITY, "reshape": IDENTITY, "contiguous": IDENTITY,
    operator.getitem: IDENTITY, F.pad: IDENTITY, F.dropout: IDENTITY,
}  # fmt: skip
POOLS: dict[Any, type[nn.Module]] = {
    F.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d, F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d
}  # fmt: skip
PRODUCTS: dict[Any, Callable[[Any, Any], Tensor]] = {
    operator.mul: operator.mul, operator.truediv: operator.truediv, torch.mul: operator.mul, torch.div: operator.truediv,
    "mul": operator.mul, "div": operator.truediv,
}  # fmt: skip
"""Products with a constant. A product of two values that depend on the input has no Lipschitz constant."""
SUMS = (operator.add, torch.add, operator.iadd, "add", "add_", operator.sub, torch.sub)


def is_leaf(module: nn.Module) -> bool:
    """Return True for a module outside of torch that counts as one operation.

    Args:
        module: A module of the network.

    Returns:
        True if torch.fx must not trace into the module.
    """
    return isinstance(module, Normalize | PaddedShortcut | LipschitzLayer) or type(module) in NONLINEARITIES


def require_running_statistics(model: nn.Module) -> None:
    """Raise an error for BatchNorm without running statistics.

    Args:
        model: The network.

    Raises:
        InputError: If a BatchNorm has no running statistics, with its name.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is None:
            hint = "write track_running_stats=True"
            raise InputError("BatchNorm with running statistics", f"{name!r} without", hint)


def list_operations(traced: fx.GraphModule, values: dict[fx.Node, Tensor]) -> list[Operation]:
    """List the operations of a traced network in order.

    A BatchNorm is folded into the convolution or linear layer before it.

    Args:
        traced: The traced network.
        values: The value of each node at one input.

    Returns:
        The operations that depend on the input.

    Raises:
        InputError: For an operation without known bounds.
    """
    modules, found = dict(traced.named_modules()), dict[fx.Node, Operation]()
    moving: set[fx.Node] = set()  # the nodes that depend on the input
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
            scale = _batchnorm_scale(module)
            if folded and before is not None:
                (source,) = found.pop(parents[0]).parents
                found[node] = Operation(node, (source,), _linear_bound(before, values[source].shape, scale))
            else:
                found[node] = Operation(node, parents, elementwise(float(scale.abs().max())))
        else:
            found[node] = _operation(node, module, parents, values)
    return list(found.values())


def _operation(
    node: fx.Node, module: nn.Module | None, parents: tuple[fx.Node, ...], values: dict[fx.Node, Tensor]
) -> Operation:
    """Build one operation from its module or its function."""
    if node.target in (torch.cat, torch.concat):
        return Operation(node, parents, IDENTITY, concatenates=True)
    if node.target in SUMS:
        return Operation(node, parents, IDENTITY)
    if node.target in PRODUCTS and len(parents) == 1 and node.args[0] is parents[0]:
        other = values.get(node.args[1], node.args[1]) if isinstance(node.args[1], fx.Node) else node.args[1]
        return Operation(
            node, parents, elementwise(float(PRODUCTS[node.target](1.0, torch.as_tensor(other)).abs().max()))
        )
    before, after = values[parents[0]].shape, values[node].shape
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        rows = _factor(module) * module.weight.double().cpu() if isinstance(module, nn.Linear) else None
        return Operation(node, parents, _linear_bound(module, before, None), rows=rows)
    if node.target in POOLS:
        module = POOLS[node.target](*node.args[1:], **node.kwargs)
    bound = _module_bound(module, before) if module is not None else _function_bound(node, before, after)
    if bound is None:
        received = f"{type(module).__name__} {str(node.target)!r}" if module is not None else str(node.target)
        raise InputError("operations with known derivative bounds", received, "bound the network without it")
    return Operation(node, parents, bound)


def _module_bound(module: nn.Module, before: torch.Size) -> OperationBound | None:
    if type(module) in NONLINEARITIES:
        return NONLINEARITIES[type(module)](module)
    if isinstance(module, nn.Identity | nn.Flatten | nn.modules.dropout._DropoutNd | PaddedShortcut):
        return IDENTITY
    if isinstance(module, Normalize):
        return elementwise(float(1 / module.std.min()))
    if isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        return _average_pool_bound(module, before)
    if isinstance(module, nn.MaxPool2d):
        window, stride = _pair(module.kernel_size), _pair(module.stride)
        repeats = math.prod(-(-k // s) for k, s in zip(window, stride, strict=True))
        return OperationBound(math.sqrt(repeats), math.sqrt(repeats), repeats, math.inf)
    return None


def _function_bound(node: fx.Node, before: torch.Size, after: torch.Size) -> OperationBound | None:
    if node.target in (torch.mean, "mean"):
        share = math.prod(after) / math.prod(before)
        return OperationBound(share**0.5, share, share)
    if node.target is F.pad and "constant" not in (*node.args[2:3], node.kwargs.get("mode", "constant")):
        return None
    if node.target is F.softplus:
        beta = node.kwargs.get("beta", node.args[1] if len(node.args) > 1 else 1.0)
        return elementwise(1.0, float(beta) / 4) if isinstance(beta, int | float) else None
    return FUNCTIONS.get(node.target)


def _average_pool_bound(module: nn.Module, before: torch.Size) -> OperationBound:
    """Bound average pooling, whose matrix A has no negative entry.

    ||A||_2^2 is at most the largest row sum times the largest column sum. These are A and its transpose applied to ones.
    """
    ones = torch.ones(1, 1, *before[2:], dtype=torch.double, requires_grad=True)
    with torch.enable_grad():
        rows = module(ones)
        columns = pullback(rows, ones, torch.ones_like(rows))
    column = float(columns.max())
    return OperationBound(math.sqrt(float(rows.detach().max()) * column), column, column)


def _linear_bound(
    layer: nn.Linear | nn.modules.conv._ConvNd, before: torch.Size, scale: Tensor | None
) -> OperationBound:
    """Bound a convolution or linear layer with scaled outputs.

    An input element meets every weight of its channel at most once, because the image is padded with zeros and not with copies
    of its elements.
    """
    weight = layer.weight.double().cpu()
    scale = torch.ones(len(weight), dtype=torch.double) if scale is None else scale
    scale = scale * _factor(layer)
    weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    if isinstance(layer, nn.Linear):
        lipschitz = float(torch.linalg.matrix_norm(weight, 2))
    else:
        if layer.transposed or layer.padding_mode != "zeros":
            kind = "transposed" if layer.transposed else f"padded by {layer.padding_mode}"
            hint = "bound the network without it"
            raise InputError("convolutions with zero padding", f"one that is {kind}", hint)
        lipschitz = norm_bound(layer, before[2:], scale=scale)
    groups = getattr(layer, "groups", 1)
    # For each group and input channel, all weights that an element of the channel meets.
    columns = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(2)
    return OperationBound(lipschitz, float(columns.norm(dim=2).max()), float(columns.abs().sum(2).max()))


def _factor(layer: nn.Module) -> float:
    """The factor of a bounded layer, or 1 for a plain one."""
    return float(layer.factor) if isinstance(layer, LipschitzLayer) else 1.0


def _batchnorm_scale(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    """The factor of BatchNorm on each channel in eval mode."""
    assert norm.running_var is not None
    scale = _factor(norm) * (norm.running_var.double().cpu() + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.double().cpu()


def _pair(size: Any) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
