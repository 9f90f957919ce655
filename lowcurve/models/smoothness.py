"""Lipschitz constants of a network's margins and of their gradients, which hold at every input.

A network of linear maps and elementwise nonlinearities is recorded once, for one shape of its input. Bounds are then propagated
through the record, forward from the input and backward from the logits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcurve.errors import NotAvailable
from lowcurve.models.jacobians.checking import record_logits, require_eval_mode, require_same
from lowcurve.models.jacobians.graph import InputGraph, Node
from lowcurve.models.jacobians.recording import record
from lowcurve.models.jacobians.rules import Operation, list_operations
from lowcurve.models.modes import frozen
from lowcurve.network_calls import gradients_enabled

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
        shape: Shape of one input. The bounds hold for this shape only.
    """

    lipschitz: Tensor
    curvature: Tensor
    terms: tuple[CurvatureTerm, ...]
    shape: tuple[int, ...]


@gradients_enabled()
def smoothness(model: nn.Module, example: Tensor) -> Smoothness:
    """Bound the Lipschitz constants of a network's margins and of their gradients at every input.

    Let h_k = phi_k(z_k) be the nonlinearities, J_k the Jacobian of z_k, and lambda_k = dm / dh_k. The Hessian of m = z_i - z_j
    is the sum over k of J_k^T diag(lambda_k phi_k''(z_k)) J_k, whatever branches and sums are in between. Therefore

        curvature_ij = sum_k sup|phi_k''| * sup||lambda_k||_inf * sup||J_k||_2^2.

    ||J_k|| is propagated forward. lambda_k is propagated backward in two norms, in l_2 by operator norms and in l_inf by
    column sums of the weights, and the smaller bound is used. The last linear layer is treated exactly for each pair of
    classes. BatchNorm in eval mode is folded into the convolution before it.

    The network runs once on a tensor that records each operation that depends on the input, with all shapes and arguments. The
    table `jacobians.rules.RULES` has a rule with a proof for each supported operation: convolutions, matrix products, BatchNorm
    in eval mode, elementwise nonlinearities, pooling, sums, concatenation, indexing, padding, interpolation and reshaping.
    Whatever no rule names is refused. So are hooks, random numbers, branches on values, and functions with a backward pass of
    their own. The record is compared with the network on three random images, in values and gradients.

    Args:
        model: The network.
        example: One input, shape (1, ...). Only its shape is used, and the bounds hold for this shape.

    Returns:
        The bounds for every pair of classes.

    Raises:
        NotAvailable: For a network that cannot be bounded, with the operation or the reason.

    Cost: the operator norm of each layer, and ten passes of one image.

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
    with frozen(model):
        graph = record_logits(model, example)
        with torch.no_grad():
            found = _propagate(graph, list_operations(graph), tuple(example.shape[1:]))
        known = int(found.curvature.isfinite().sum()) > len(found.curvature)  # more than the zeros of the diagonal
        require_same(model, graph, differentiable=known)
    return found


@gradients_enabled()
def lipschitz_constant(model: nn.Module, example: Tensor) -> float:
    """Bound the Lipschitz constant of a network's outputs in l_2, from its input to all of its outputs together.

    Args:
        model: The network, or a part of one whose output is a row of numbers.
        example: One input, shape (1, ...); only its shape is used.

    Returns:
        The bound.

    Raises:
        NotAvailable: For a network that cannot be bounded.

    Example:
        >>> round(lipschitz_constant(nn.Sequential(nn.AvgPool2d(2, stride=3), nn.Flatten()), torch.zeros(1, 1, 5, 5)), 3)
        0.5
    """
    with frozen(model), torch.no_grad():
        require_eval_mode(model)
        graph = record(model, example[:1])
        return lipschitz_constants(graph)[graph.nodes[-1]]


def lipschitz_constants(graph: InputGraph) -> dict[Node, float]:
    """Bound the Lipschitz constant in l_2 of every value of a recorded network as a function of its input.

    Args:
        graph: The network.

    Returns:
        The bounds.

    Raises:
        NotAvailable: For a network that cannot be bounded.
    """
    return _lipschitz_constants(graph, list_operations(graph))


def _lipschitz_constants(graph: InputGraph, operations: list[Operation]) -> dict[Node, float]:
    """Propagate Lipschitz constants forward from the input."""
    found = {graph.nodes[0]: 1.0}
    for operation in operations:
        before = [found[parent] * bound.lipschitz for parent, bound in operation.bounds.edges]
        found[operation.node] = math.hypot(*before) if operation.bounds.concatenates else sum(before)
    return found


def _propagate(graph: InputGraph, operations: list[Operation], shape: tuple[int, ...]) -> Smoothness:
    """Propagate Lipschitz constants forward and adjoints backward, and sum the terms of the nonlinearities."""
    lipschitz = _lipschitz_constants(graph, operations)
    start, rows = graph.nodes[-1], torch.eye(graph.nodes[-1].shape[1], dtype=torch.double)
    matrix = operations[-1].bounds.rows if operations else None
    if matrix is not None:
        # The last linear layer is treated exactly for each pair of classes.
        *operations, last = operations
        (start, _), rows = last.bounds.edges[0], matrix
    nothing = torch.zeros(len(rows), len(rows), dtype=torch.double)
    norms = torch.stack([(row - rows).norm(dim=1) for row in rows])
    adjoints = {start: (norms, torch.stack([(row - rows).abs().amax(1) for row in rows]))}
    total, terms = nothing, []
    for operation in reversed(operations):
        norm, largest = adjoints.pop(operation.node)
        for parent, bound in operation.bounds.edges:
            if bound.second_derivative:
                # A kink that no margin depends on, or that does not depend on the input, contributes nothing, not inf * 0.
                steepest = lipschitz[parent]
                bends = (largest > 0) & (steepest > 0)
                total = total + torch.where(bends, bound.second_derivative * steepest**2 * largest, 0)
                terms.append(CurvatureTerm(operation.name, bound.second_derivative, float(largest.max()), steepest))
            back = bound.pull_back(norm, largest)
            before = adjoints.get(parent, (nothing, nothing))
            adjoints[parent] = (before[0] + back[0], before[1] + back[1])
    slopes = adjoints[graph.nodes[0]][0]
    if bool(slopes.isnan().any()) or bool(total.isnan().any()):
        raise NotAvailable("a network with finite weights", "bounds that are not numbers", "check its weights")
    raised = 1 + ROUNDING
    return Smoothness(slopes * raised, total * raised, tuple(reversed(terms)), shape)
