"""Lipschitz constants of a network's margins and of their gradients, which hold at every input.

torch.fx traces a network of linear maps and elementwise nonlinearities once. Bounds are then propagated through its graph,
forward from the input and backward from the logits. No image is used but for its shape.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lowcurve.errors import InputError
from lowcurve.models.layer_bounds import Operation, is_leaf, list_operations, require_running_statistics
from lowcurve.models.modes import frozen

ROUNDING = 1e-5
"""Relative increase of every bound, for the rounding of a network's forward pass in single precision."""


@dataclass(frozen=True)
class CurvatureTerm:
    """The term of one nonlinearity phi in the curvature of the margins: second_derivative * adjoint * lipschitz_before^2.

    Attributes:
        name: Name of the nonlinearity.
        second_derivative: sup |phi''|.
        adjoint: Bound of the derivative of a margin in one output of the nonlinearity. It is the largest over pairs of
            classes.
        lipschitz_before: Lipschitz constant of the nonlinearity's input.
    """

    name: str
    second_derivative: float
    adjoint: float
    lipschitz_before: float


@dataclass(frozen=True)
class Smoothness:
    """Bounds in l_2 of the margins m = z_i - z_j of every two classes and of their gradients, at every input.

    They satisfy |m(x) - m(x')| <= lipschitz_ij ||x - x'|| and ||grad m(x) - grad m(x')|| <= curvature_ij ||x - x'||.

    Attributes:
        lipschitz: Shape (classes, classes), 0 on the diagonal.
        curvature: Shape (classes, classes), 0 on the diagonal. Infinite where a nonlinearity has a kink.
        terms: The term of each nonlinearity, in order.
    """

    lipschitz: Tensor
    curvature: Tensor
    terms: tuple[CurvatureTerm, ...]


def smoothness(model: nn.Module, example: Tensor) -> Smoothness:
    """Bound the Lipschitz constants of a network's margins and of their gradients at every input.

    Let h_k = phi_k(z_k) be the nonlinearities, J_k the Jacobian of z_k, and lambda_k = dm / dh_k. The Hessian of m = z_i - z_j
    is the sum over k of J_k^T diag(lambda_k phi_k''(z_k)) J_k, whatever branches and sums are in between. Therefore

        curvature_ij = sum_k sup|phi_k''| * sup||lambda_k||_inf * sup||J_k||_2^2.

    ||J_k|| is propagated forward. lambda_k is propagated backward in two norms, in l_2 by operator norms and in l_inf by
    column sums of the weights, and the smaller bound is used. The last linear layer is treated exactly for each pair of
    classes. BatchNorm in eval mode is folded into the convolution before it.

    Supported are convolutions, linear layers, BatchNorm, the usual nonlinearities, average and max-pooling, sums,
    concatenation, slicing, padding and reshaping.

    Args:
        model: The network.
        example: One input, shape (1, ...); only its shape is used.

    Returns:
        The bounds for every pair of classes.

    Raises:
        InputError: For a network that torch.fx cannot trace, or one with any other operation, by its name.

    Cost: the operator norm of each layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)).eval()
        >>> for layer in (model[0], model[2]):
        ...     _ = layer.weight.data.copy_(torch.eye(2))
        >>> found = smoothness(model, torch.zeros(1, 2))
        >>> round(found.lipschitz[0, 1].item(), 3)  # sqrt(2)
        1.414
        >>> round(found.curvature[0, 1].item(), 3)  # sup|tanh''| = 4 / (3 sqrt(3))
        0.77

    Reference: Entesari, Sharifi and Fazlyab 2024 (compositional curvature bounds), whose recursion this is where adjoints are
    bounded in l_2 alone; srinivas2022lcnn, Theorem 1 (the sum over layers).
    """
    require_running_statistics(model)
    with frozen(model), torch.no_grad():
        traced = _traced(model)
        values = _values(traced, example)
        _require_same(model, traced, example[:1])
        return _propagate(traced.graph, list_operations(traced, values), values)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    root = nn.Sequential(model) if tracer.is_leaf_module(model, "") else model
    try:
        return fx.GraphModule(root, tracer.trace(root))
    except Exception as error:  # whatever the model's own code raises when torch.fx runs it on proxies
        reason = f"{type(model).__name__} ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
        hint = "write it without conditions on values, or bound its parts separately"
        raise InputError("a network that torch.fx can trace", reason, hint) from None


def _values(graph: fx.GraphModule, example: Tensor) -> dict[fx.Node, Tensor]:
    """Compute the value of every node at an input of zeros, which gives shapes and constants."""
    found: dict[fx.Node, Tensor] = {}

    class Shaped(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                found[n] = value
            return value

    like = next(graph.parameters(), example)
    try:
        Shaped(graph).run(torch.zeros_like(example[:1], dtype=like.dtype, device=like.device))
    except RuntimeError as error:
        received = f"{tuple(example.shape)} ({str(error).splitlines()[0][:80]})"
        raise InputError("one example of the network's inputs", received, "write example=x[:1]") from None
    return found


def _require_same(model: nn.Module, traced: fx.GraphModule, x: Tensor) -> None:
    """Raise an error if the traced network computes something else: torch.fx does not see torch function modes."""
    like = next(model.parameters(), x)
    x = x.to(like)
    found, expected = traced(x), model(x)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
        change = f"logits that differ by {float((found - expected).abs().max()):.2g}"
        hint = "write its nonlinearities as separate modules or functions"
        raise InputError("a network that torch.fx traces faithfully", change, hint)


def _propagate(graph: fx.Graph, operations: list[Operation], values: dict[fx.Node, Tensor]) -> Smoothness:
    """Propagate Lipschitz constants forward and adjoints backward, and sum the terms of the nonlinearities."""
    (entry,) = (node for node in graph.nodes if node.op == "placeholder")
    (end,) = (node for node in graph.nodes if node.op == "output")
    (logits,) = end.all_input_nodes
    lipschitz = {entry: 1.0}
    for operation in operations:
        before = [lipschitz[parent] for parent in operation.parents]
        lipschitz[operation.node] = operation.bound.lipschitz * (
            math.hypot(*before) if operation.concatenates else sum(before)
        )
    start, rows = logits, torch.eye(values[logits].shape[1], dtype=torch.double)
    if operations[-1].node is logits and operations[-1].rows is not None:
        # The last linear layer is treated exactly for each pair of classes.
        *operations, last = operations
        assert last.rows is not None
        (start,), rows = last.parents, last.rows
    apart = rows[:, None] - rows[None]
    nothing = torch.zeros(apart.shape[:2], dtype=torch.double)
    adjoints = dict.fromkeys(graph.nodes, (nothing, nothing))
    adjoints[start] = (apart.norm(dim=2), apart.abs().amax(2))
    total, terms = nothing, []
    for operation in reversed(operations):
        (norm, largest), bound = adjoints[operation.node], operation.bound
        if bound.second_derivative:
            steepest, name = max(lipschitz[parent] for parent in operation.parents), str(operation.node.target)
            # A kink that no margin depends on contributes nothing, not inf * 0.
            total = total + torch.where(largest > 0, bound.second_derivative * steepest**2 * largest, 0)
            terms.append(CurvatureTerm(name, bound.second_derivative, float(largest.max()), steepest))
        for parent in operation.parents:
            back = bound.pull_back(norm, largest)
            adjoints[parent] = (adjoints[parent][0] + back[0], adjoints[parent][1] + back[1])
    raised = 1 + ROUNDING
    return Smoothness(adjoints[entry][0] * raised, total * raised, tuple(reversed(terms)))
