"""Ways to differentiate a penalty on input gradients in the parameters: by double backward or by differences of losses."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import Jet, gradient, pullback, value_and_gradient
from lowcurve.analysis.norms import L2, per_example
from lowcurve.analysis.second_derivatives import graph_nodes
from lowcurve.errors import InputError
from lowcurve.losses import LossField, require_eval
from lowcurve.types import Field, Inputs, PerExample

Differentiation = Literal["exact", "detached", "first_order", "first_order_detached", "secant"]
DIFFERENTIATIONS = get_args(Differentiation)
DOUBLE_BACKWARD = ("exact", "detached")
"""The ways that differentiate an input gradient once more."""
KINKED = re.compile(r"relu|maxpool|hard|threshold|clamp|^abs|^(maximum|minimum)|shrink", re.IGNORECASE)


def require_graph(name: str, penalty: Tensor, loss: Tensor) -> None:
    """Refuse a penalty that would train nothing, as that of a compiled network, whose input gradient has no graph.

    Args:
        name: Name of the penalty.
        penalty: Its mean.
        loss: Mean of the loss.

    Raises:
        InputError: If only the loss depends on the parameters.
    """
    if loss.requires_grad and not penalty.requires_grad:
        hint = "give the network as it was before torch.compile"
        raise InputError(f"a network whose input gradient can be differentiated, for {name}", "one without", hint)


def require_deterministic(model: nn.Module, name: str, way: Differentiation) -> None:
    """Refuse a network whose forward passes depend on more than their inputs.

    Args:
        model: The network, in the mode of the training.
        name: Name of the penalty.
        way: How it is differentiated.

    Raises:
        InputError: If there is a layer that is random or depends on the batch.
    """
    hint = 'write Objective(..., statistics="frozen"), model.eval() in your own loop, or differentiation="exact"'
    try:
        require_eval(model)
    except InputError as error:
        raise InputError(f'frozen statistics with {name} by "{way}"', error.received, hint) from None


def apply_to_gradients(
    jet: Jet,
    function: Callable[..., PerExample],
    second_point: Callable[[Tensor], Inputs] | None = None,
    *,
    differentiation: Differentiation = "exact",
    step: float | None = None,
) -> PerExample:
    """Compute f(g(x)), or f(g(x), g(x')) with x' = second_point(g(x)) held constant, where g = grad l.

    The value is the same for every way. The derivative in the parameters is computed as follows:

    * exact: differentiate every gradient once more.
    * detached: the same with g(x) held constant. This is cheaper and has another direction than the gradient of the value.
    * first_order: sum_k <c_k, d g(x_k)> with c_k = df / dg_k held constant, where <c, g(x)> is the central difference of
      losses ||c|| (l(x + t u) - l(x - t u)) / (2 t), u = c / ||c||. No graph of an input gradient is kept, so every network
      with an ordinary backward pass supports it. For smooth fields in eval mode only.
    * first_order_detached: the same for the derivative of detached.
    * secant: the same for fields with kinks, at a `step` t of your choice. This is the gradient of another objective, which
      includes the kinks within t. Its cosine with the exact one is 0.01 to 0.25 on a ReLU network.

    Args:
        jet: Values and gradients of a field at x.
        function: f, from one or two gradients of shape (batch, ...) to one number per example.
        second_point: Function from g(x) to x'. Default: f has one argument.
        differentiation: The way.
        step: t, an l_2 length in pixel units. Default for first_order: `choose_step`. The gradient in the parameters then
            differs from the exact one by at most 2e-3 in float32 and 2e-8 in float64 for CURE and gradient norms. This was
            measured on small untrained smooth networks and on a trained ResNet-20 with softplus. On the ResNet it differs
            by 7e-3 for LLR and by 2e-2 for GradAlign in float32.

    Returns:
        One number per example.

    Raises:
        InputError: If first_order meets an operation with kinks, or if a difference meets a layer in training mode that
            depends on the batch or on random numbers. Kinks are searched in the graph of l(x). Kinks of torch.where,
            amax and custom or compiled functions are not found.

    Cost in forward passes F, in addition to the shared clean one. The final backward pass is included: exact 3 F with
    one gradient and 9 F with two, detached 7 F, first_order and secant 7 F and 15 F, first_order_detached 9 F. All but
    exact need 1 F less if the loss's own backward pass computes g(x) (`Jet.mean_with_gradients`).

    Example:
        >>> jet = Jet(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        >>> apply_to_gradients(jet, L2.length).tolist()
        [10.0]
        >>> apply_to_gradients(jet, L2.length, differentiation="first_order").tolist()
        [10.0]

    Reference: Finlay and Oberman 2021 (differences for gradient penalties, one-sided).
    """
    if differentiation in DOUBLE_BACKWARD:
        clean = jet.gradient if differentiation == "exact" else jet.detached_gradient
        second = () if second_point is None else (gradient(jet.field, second_point(clean.detach()), create_graph=True),)
        return function(clean, *second)
    _require_deterministic(jet.field)
    if differentiation != "secant":
        require_smooth(jet)
    return _apply_by_differences(jet, function, second_point, differentiation == "first_order_detached", step)


def _apply_by_differences(
    jet: Jet,
    function: Callable[..., PerExample],
    second_point: Callable[[Tensor], Inputs] | None,
    detached: bool,
    step: float | None,
) -> PerExample:
    """Compute f with a derivative by differences of losses at each point, or at x' only if `detached`."""
    points = [(jet.x.detach(), jet.values.detach(), jet.detached_gradient)]
    if second_point is not None:
        shifted = second_point(points[0][2])
        points.append((shifted, *value_and_gradient(jet.field, shifted)))
    leaves = [g.detach().requires_grad_() for _, _, g in points]
    with torch.enable_grad():
        value = function(*leaves)
    ones = torch.ones_like(value)
    surrogate = torch.zeros_like(value)
    for (x, level, g), leaf in list(zip(points, leaves, strict=True))[1 if detached else 0 :]:
        cotangent = pullback(value, leaf, ones, retain_graph=True)
        size = choose_step(level, g) if step is None else torch.full_like(level, step)
        surrogate = surrogate + directional_difference(jet.field, x, cotangent, size)
    return surrogate - surrogate.detach() + value.detach()


def directional_difference(field: Field, x: Inputs, direction: Tensor, step: PerExample) -> PerExample:
    """Compute ||v|| (l(x + t u) - l(x - t u)) / (2 t), u = v / ||v||, which approximates <grad l, v>.

    Args:
        field: l, from inputs to one number per example.
        x: Inputs, shape (batch, ...).
        direction: v, shape (batch, ...).
        step: t, an l_2 length in pixel units, one per example.

    Returns:
        One number per example, attached to the parameters.

    Cost: two forward passes.

    Example:
        >>> x, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]])
        >>> directional_difference(lambda x: x.square().sum(1), x, v, torch.tensor([0.5]))  # exact on quadratics for every t
        tensor([8.])
    """
    shift = L2.unit(direction) * per_example(step, x)
    return L2.length(direction) * (field(x + shift) - field(x - shift)) / (2 * step)


def choose_step(values: PerExample, gradients: Tensor) -> PerExample:
    """Compute the step t = eps^(1/3) min(|l|, 1) / ||g|| of central differences for each example.

    min(|l|, 1) / ||g|| is the distance over which the loss changes by its own value or by 1. With the factor eps^(1/3)
    truncation and rounding errors have the same size. The largest t is the diagonal of the pixel box times that factor. The
    smallest is 16 eps sqrt(d), so that x + t u is not rounded to x. In float32 t is 1e-4 on a trained ResNet-20 and 6e-2 on
    an untrained network. No single length works for both: 1e-2 is 25 % wrong on the first and 1e-4 90 % on the second.

    Args:
        values: l, one per example.
        gradients: g, shape (batch, ...).

    Returns:
        t, an l_2 length in pixel units, one per example.

    Example:
        >>> choose_step(torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]))  # 2^(-23/3) / 10
        tensor([0.0005])
    """
    eps, diagonal = torch.finfo(values.dtype).eps, torch.full_like(values, math.sqrt(gradients[:1].numel()))
    steepness, change = L2.length(gradients), torch.minimum(values.abs(), torch.ones_like(values))
    length = torch.where(steepness == 0, diagonal, change / torch.where(steepness == 0, 1, steepness))
    return torch.maximum(torch.minimum(length, diagonal) * eps ** (1 / 3), 16 * eps * diagonal)


def require_smooth(jet: Jet) -> None:
    """Raise an error for a field with ReLU, max-pooling or another operation with kinks.

    At kinks, differences say nothing about the exact derivative.

    Args:
        jet: Values of the field, with their graph.

    Raises:
        InputError: If the graph has an operation with kinks.
    """
    kink = next((name for name in graph_operations(jet.values) if KINKED.search(name)), None)
    if kink is not None:
        expected = "a smooth field for first_order differences"
        hint = 'write softplus and average pooling, differentiation="exact", or "secant" for another objective'
        raise InputError(expected, f"one made with {kink}", hint)


def require_differentiation(differentiation: str, step: float | None, *ways: str) -> None:
    """Raise an error for an unknown way, for a step that the way does not use, and for secant without a step.

    Args:
        differentiation: The way.
        step: The step of central differences.
        *ways: The ways that are possible.

    Raises:
        InputError: If way and step do not fit.
    """
    if differentiation not in ways:
        raise InputError(f"a differentiation among {', '.join(ways)}", repr(differentiation), 'write "exact"')
    if differentiation == "secant" and step is None:
        raise InputError("the step of a secant, an l_2 length in pixel units", step, "write step=0.1")
    if step is not None and differentiation in DOUBLE_BACKWARD:
        raise InputError('no step with differentiation "exact" or "detached"', step, "leave out step")
    if step is not None and not (math.isfinite(step) and step > 0):
        raise InputError("a step > 0 of central differences", step, "leave it out, or write step=1e-3")


def graph_operations(values: Tensor) -> Iterator[str]:
    """Yield the names of the operations in the autograd graph of a tensor, once per use.

    Args:
        values: Tensor with a graph.

    Example:
        >>> list(graph_operations(torch.ones(2, requires_grad=True).relu().square()))
        ['Pow', 'Relu', 'AccumulateGrad']
    """
    for node in graph_nodes(values):
        yield node.name().split("Backward")[0].rpartition(":")[2]


def _require_deterministic(field: Field) -> None:
    """The two passes of a difference must differ in x only, or every other change is divided by t."""
    if isinstance(field, LossField) and isinstance(field.model, nn.Module):
        require_eval(field.model)
