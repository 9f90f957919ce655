"""Lipschitz constants of a network's margins and of their gradients, which hold at every input.

A network of linear maps and elementwise nonlinearities is recorded once, for one shape of its input. Bounds are then propagated
through the record, forward from the input and backward from the logits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.calculus import pullback
from lowcurve.errors import NotAvailable
from lowcurve.models.jacobians.graph import InputGraph, Node
from lowcurve.models.jacobians.recording import record
from lowcurve.models.jacobians.rules import Operation, list_operations
from lowcurve.models.layers import CENTERED_SOFTPLUS
from lowcurve.models.modes import frozen
from lowcurve.network_calls import gradients_enabled

TINY = 1e-30
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
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), example)
    x = torch.zeros_like(example[:1], dtype=like.dtype, device=like.device)
    with frozen(model):
        _require_eval_mode(model)
        _require_shape(model, x)
        graph = record(model, x)
        logits = graph.nodes[-1].shape
        if len(logits) != 2 or logits[0] != 1:
            hint = "bound the part that gives the logits"
            raise NotAvailable("logits of shape (1, classes) for one input", tuple(logits), hint)
        with torch.no_grad():
            found = _propagate(graph, list_operations(graph), tuple(x.shape[1:]))
        known = int(found.curvature.isfinite().sum()) > len(found.curvature)  # more than the zeros of the diagonal
        _require_same(model, graph, differentiable=known)
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
        _require_eval_mode(model)
        graph = record(model, example[:1])
        return _lipschitz_constants(graph, list_operations(graph))[graph.nodes[-1]]


def _require_eval_mode(model: nn.Module) -> None:
    """Raise an error for a BatchNorm that uses its batch's statistics in eval mode too."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_var is None):
            hint = "write track_running_stats=True"
            raise NotAvailable("a BatchNorm with running statistics", f"{name!r} that uses its batch's", hint)


def _require_shape(model: nn.Module, x: Tensor) -> None:
    """Raise an error for an input that the network does not accept."""
    try:
        with torch.no_grad():
            model(x.clone())
    except Exception as error:  # whatever the network raises
        received = f"{tuple(x.shape)} ({_first_line(error)})"
        raise NotAvailable("one example of the network's inputs", received, "write example=x[:1]") from None


def _require_same(model: nn.Module, graph: InputGraph, *, differentiable: bool) -> None:
    """Raise an error if the network computes something else than was recorded, or differentiates something else.

    The network computes three random images together, and the record computes them one by one in double precision. So a network
    that depends on its batch, on chance, on rounding or on whether gradients are on is refused. So is one with a backward pass
    that is not its derivative.
    """
    start = graph.nodes[0]
    x = torch.zeros(3, *start.shape[1:], dtype=start.dtype, device=start.device)
    x = randomness.uniform(x, 0.0, 1.0, generator=randomness.stream(0, "compare", tuple(x.shape)))
    leaf, own = x.clone().requires_grad_(), x.double().requires_grad_()
    with torch.enable_grad():
        recorded = torch.cat([graph(one) for one in torch.split(own, 1)])
        try:
            logits = model(leaf.clone())  # a copy, because the network may write into its input
            with torch.no_grad():
                plain = model(x.clone())
        except Exception as error:  # whatever the network raises on three images
            received = f"{type(model).__name__} ({_first_line(error)})"
            raise NotAvailable("a network for batches of three", received, "bound its parts separately") from None
    change = max(_relative_change(recorded, found) for found in (logits, plain))
    if math.isnan(change):
        raise NotAvailable("a network with finite logits", "NaN or infinite ones", "check its weights")
    if not change < 1e-3:
        hint = "remove what depends on chance, on the batch, on the mode or on rounding"
        raise NotAvailable("a network that always computes the same", f"logits that differ by {change:.1%}", hint)
    if differentiable:
        _require_true_gradient(logits, leaf, recorded, own)


def _require_true_gradient(logits: Tensor, leaf: Tensor, recorded: Tensor, own: Tensor) -> None:
    """Raise an error for a network whose backward pass is its own, or is not that of its recorded operations."""
    waiting, seen = [logits.grad_fn], set()
    while waiting:
        step = waiting.pop()
        function = getattr(step, "_forward_cls", None)  # the user's class of an autograd function in Python
        if function is not None and function not in CENTERED_SOFTPLUS:
            hint = "write it with torch's functions"
            raise NotAvailable("gradients by torch's own rules", f"the backward pass of {function.__name__}", hint)
        seen.add(step)
        waiting += [before for before, _ in getattr(step, "next_functions", ()) if before not in seen]
    weights = torch.linspace(1.0, 2.0, logits.shape[1], device=logits.device).expand_as(logits)
    change = _relative_change(pullback(recorded, own, weights.to(recorded)), pullback(logits, leaf, weights.to(logits)))
    if not change < 1e-2:
        hint = "remove detach and hooks on tensors"
        raise NotAvailable("a network with the gradient of its values", f"one that differs by {change:.1%}", hint)


def _relative_change(expected: Tensor, found: Tensor) -> float:
    """Compute the length of the difference relative to the longer of both; 1 for another shape."""
    if expected.shape != found.shape:
        return 1.0
    longest = max(float(expected.detach().norm()), float(found.detach().norm()), TINY)
    return float((found - expected).detach().norm()) / longest


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


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
