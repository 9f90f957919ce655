"""How steep and how curved a network can be anywhere: Lipschitz constants of its margins and of their gradients, without data.

A network of linear maps and elementwise nonlinearities is traced once (torch.fx); then numbers are carried through its graph,
from the input forwards and from the logits backwards. Nothing here looks at an image but for its shape.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lowcurve.errors import InputError
from lowcurve.models.layer_bounds import Layer, is_leaf, layers_of, require_statistics
from lowcurve.models.modes import frozen

ROUNDING = 1e-5
"""Every bound is raised by this share, for what single precision rounds in a network's own forward pass."""


@dataclass(frozen=True)
class Bend:
    """What one nonlinearity adds to the curvature of the margins: at most bend * adjoint * slope_before^2.

    bend: the largest |phi''|. adjoint: of the pair of classes where it is largest, how much the margin can change with one
    number behind the nonlinearity. slope_before: the Lipschitz constant of what comes in.
    """

    name: str
    bend: float
    adjoint: float
    slope_before: float


@dataclass(frozen=True)
class Smoothness:
    """For every two classes i, j: |m(x) - m(x')| <= lipschitz_ij ||x - x'|| and ||grad m(x) - grad m(x')|| <= curvature_ij
    ||x - x'||, m = z_i - z_j, everywhere, in l_2. Shape (classes, classes) each; 0 on the diagonal.

    curvature is infinite where a nonlinearity has a kink. bends: the nonlinearities in their order.
    """

    lipschitz: Tensor
    curvature: Tensor
    bends: tuple[Bend, ...]


def smoothness(model: nn.Module, example: Tensor) -> Smoothness:
    """Bounds of a network's margins that hold at every input: of slope and, where it is smooth, of curvature.

    With h_k = phi_k(z_k) its nonlinearities, the Hessian of m = z_i - z_j is the sum over k of
    J_k^T diag(lambda_k phi_k''(z_k)) J_k, where J_k is the Jacobian of z_k and lambda_k = dm / dh_k, whatever branches and sums
    lie between. So

        curvature_ij = sum_k sup|phi_k''| * sup||lambda_k||_inf * sup||J_k||_2^2.

    ||J_k|| is carried forwards, lambda_k backwards in two norms: in l_2 by operator norms, in l_inf by column sums of the
    weights, whichever is less. The last linear layer is taken exactly, pair by pair; BatchNorm in eval mode is folded into
    the convolution before it.

    example: one input, shape (1, ...); its values play no part. Known are convolutions, linear layers, BatchNorm, the usual
    nonlinearities, average and max-pooling, sums, concatenation, slicing, padding, reshaping.
    Cost: the operator norms of the layers, once. Errors: InputError for a network that cannot be traced or has anything
    else, by its name.

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
    require_statistics(model)
    with frozen(model), torch.no_grad():
        traced = _traced(model)
        values = _values(traced, example)
        _require_same(model, traced, example[:1])
        return _carried(traced.graph, layers_of(traced, values), values)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    root = nn.Sequential(model) if tracer.is_leaf_module(model, "") else model
    try:
        return fx.GraphModule(root, tracer.trace(root))
    except Exception as error:  # whatever the model's own code raises when it is run on stand-ins
        reason = f"{type(model).__name__} ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
        hint = "write it without conditions on values, or bound its parts"
        raise InputError("a network that torch.fx can trace", reason, hint) from None


def _values(graph: fx.GraphModule, example: Tensor) -> dict[fx.Node, Tensor]:
    """Of every node, at an input of zeros: their shapes, and what is constant."""
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
    """Refuse a network that computes otherwise than its operations say: torch function modes are not seen by torch.fx."""
    like = next(model.parameters(), x)
    x = x.to(like)
    found, expected = traced(x), model(x)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
        change = f"logits that differ by {float((found - expected).abs().max()):.2g}"
        hint = "write its nonlinearities as modules or functions of their own"
        raise InputError("a network that computes what torch.fx sees of it", change, hint)


def _carried(graph: fx.Graph, layers: list[Layer], values: dict[fx.Node, Tensor]) -> Smoothness:
    """Slopes forwards, adjoints backwards, and the sum over the nonlinearities."""
    (entry,) = (node for node in graph.nodes if node.op == "placeholder")
    (end,) = (node for node in graph.nodes if node.op == "output")
    (logits,) = end.all_input_nodes
    slopes = {entry: 1.0}
    for layer in layers:
        before = [slopes[parent] for parent in layer.parents]
        slopes[layer.node] = layer.step.slope * (math.hypot(*before) if layer.beside else sum(before))
    start, rows = logits, torch.eye(values[logits].shape[1], dtype=torch.double)
    if layers[-1].node is logits and layers[-1].rows is not None:
        # The last linear layer is known pair by pair.
        *layers, last = layers
        assert last.rows is not None
        (start,), rows = last.parents, last.rows
    apart = rows[:, None] - rows[None]
    nothing = torch.zeros(apart.shape[:2], dtype=torch.double)
    adjoints = dict.fromkeys(graph.nodes, (nothing, nothing))
    adjoints[start] = (apart.norm(dim=2), apart.abs().amax(2))
    total, bends = nothing, []
    for layer in reversed(layers):
        length, largest = adjoints[layer.node]
        if layer.step.bend:
            steepest = max(slopes[parent] for parent in layer.parents)
            # Nothing comes of a kink that no margin sees.
            total = total + torch.where(largest > 0, layer.step.bend * steepest**2 * largest, 0)
            bends.append(Bend(str(layer.node.target), layer.step.bend, float(largest.max()), steepest))
        for parent in layer.parents:
            back = layer.step.back(length, largest)
            adjoints[parent] = (adjoints[parent][0] + back[0], adjoints[parent][1] + back[1])
    raised = 1 + ROUNDING
    return Smoothness(adjoints[entry][0] * raised, total * raised, tuple(reversed(bends)))
