"""Record the logits of a network, and refuse a network that computes something else than was recorded."""

import math

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.calculus import pullback
from lowcurve.errors import NotAvailable
from lowcurve.models.jacobians.graph import InputGraph
from lowcurve.models.jacobians.recording import record
from lowcurve.models.layers import CENTERED_SOFTPLUS

TINY = 1e-30


def record_logits(model: nn.Module, example: Tensor) -> InputGraph:
    """Record the operations from one input to the logits.

    Args:
        model: The network, in eval mode.
        example: One input, shape (1, ...). Only its shape is used.

    Returns:
        The operations.

    Raises:
        NotAvailable: For a network that cannot be recorded, or without a row of logits.
    """
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), example)
    x = torch.zeros_like(example[:1], dtype=like.dtype, device=like.device)
    require_eval_mode(model)
    _require_shape(model, x)
    graph = record(model, x)
    logits = graph.nodes[-1].shape
    if len(logits) != 2 or logits[0] != 1:
        hint = "bound the part that gives the logits"
        raise NotAvailable("logits of shape (1, classes) for one input", tuple(logits), hint)
    return graph


def require_eval_mode(model: nn.Module) -> None:
    """Raise an error for a BatchNorm that uses its batch's statistics in eval mode too.

    Args:
        model: The network.

    Raises:
        NotAvailable: For such a BatchNorm.
    """
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


def require_same(model: nn.Module, graph: InputGraph, *, differentiable: bool) -> None:
    """Raise an error if the network computes something else than was recorded, or differentiates something else.

    The network computes three random images together, and the record computes them one by one in double precision. So a network
    that depends on its batch, on chance, on rounding or on whether gradients are on is refused. So is one with a backward pass
    that is not its derivative.

    Args:
        model: The network.
        graph: Its record.
        differentiable: Compare gradients too.

    Raises:
        NotAvailable: If values or gradients differ.
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
