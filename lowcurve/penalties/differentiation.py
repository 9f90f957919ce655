"""How a penalty on input gradients comes by its derivative in the parameters: twice backwards, or by differences of losses."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import Jet, gradient, pullback, value_and_gradient
from lowcurve.analysis.norms import L2, per_example
from lowcurve.errors import InputError
from lowcurve.losses import LossField, require_eval
from lowcurve.types import Field, Inputs, PerExample

Differentiation = Literal["exact", "detached", "first_order", "first_order_detached", "secant"]
WAYS = get_args(Differentiation)
TWICE = ("exact", "detached")
"""The ways in which an input gradient is differentiated once more."""
KINKED = re.compile(r"relu|maxpool|hard|threshold|clamp|^abs|^(maximum|minimum)|shrink", re.IGNORECASE)


def of_gradients(
    jet: Jet,
    function: Callable[..., PerExample],
    moved: Callable[[Tensor], Inputs] | None = None,
    *,
    differentiation: Differentiation = "exact",
    step: float | None = None,
) -> PerExample:
    """f(g(x)), or f(g(x), g(x')) with x' = moved(g(x)) held constant; g = grad l. The value is the same in every way, and its
    derivative in the parameters

    exact: by differentiating every gradient once more.
    detached: likewise, but with g(x) held constant: another direction than the slope of the value, for less.
    first_order: sum_k <c_k, d g(x_k)> with c_k = df / dg_k held constant, where <c, g(x)> is the central difference of losses
        ||c|| (l(x + t u) - l(x - t u)) / (2 t), u = c / ||c||. Nothing is differentiated in x while a graph is kept, so
        whatever bears one ordinary backward pass bears this. For smooth fields in eval mode alone.
    first_order_detached: likewise, of the slope that detached has.
    secant: the same for fields with kinks, at a `step` t of your own: the slope of another objective, which sees the kinks
        within t and whose direction has little in common with the exact one (a cosine of 0.01 to 0.25 on a ReLU network).

    function: gradients, shape (batch, ...) -> one number an example. step: t, an l_2 length in pixel units; of first_order by
    default as `difference_step` has it. The parameters' gradient then differs from the exact one, for CURE and the norms
    of gradients, by 2e-3 or less in float32 and 2e-8 in float64, on small untrained smooth networks and on a trained
    ResNet-20 with softplus; there, for LLR by 7e-3 and for GradAlign, a difference of directions, by 2e-2 in float32.

    Cost beside the shared clean forward pass, in forward passes F, the final backward pass included: exact 3 F with one
    gradient and 9 F with two, detached 7 F, first_order and secant 7 F and 15 F, first_order_detached 9 F. All but exact need
    1 F less where the loss's own backward pass brings g(x) (`Jet.mean_with_gradients`).

    Errors: InputError where first_order meets an operation with kinks or either meets a layer in training mode that acts on
    the batch or by chance. Kinks are looked for in the graph of l(x), in whatever way the network was written; not
    seen are those that torch.where, amax or a custom or compiled function make.

    Example:
        >>> jet = Jet(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        >>> of_gradients(jet, L2.length).tolist(), of_gradients(jet, L2.length, differentiation="first_order").tolist()
        ([10.0], [10.0])

    Reference: Finlay and Oberman 2021 (differences for gradient penalties, one-sided).
    """
    if differentiation in TWICE:
        clean = jet.gradient if differentiation == "exact" else jet.detached_gradient
        ends = () if moved is None else (gradient(jet.field, moved(clean.detach()), create_graph=True),)
        return function(clean, *ends)
    _require_even_passes(jet.field)
    if differentiation != "secant":
        require_smooth(jet)
    return _by_differences(jet, function, moved, differentiation == "first_order_detached", step)


def _by_differences(
    jet: Jet,
    function: Callable[..., PerExample],
    moved: Callable[[Tensor], Inputs] | None,
    held: bool,
    step: float | None,
) -> PerExample:
    """The value of f, whose derivative in the parameters comes from losses beside each point, or beside x' alone (held)."""
    points = [(jet.x.detach(), jet.values.detach(), jet.detached_gradient)]
    if moved is not None:
        there = moved(points[0][2])
        points.append((there, *value_and_gradient(jet.field, there)))
    leaves = [g.detach().requires_grad_() for _, _, g in points]
    with torch.enable_grad():
        value = function(*leaves)
    ones = torch.ones_like(value)
    followed = torch.zeros_like(value)
    for (x, level, g), leaf in list(zip(points, leaves, strict=True))[1 if held else 0 :]:
        cotangent = pullback(value, leaf, ones, retain_graph=True)
        size = difference_step(level, g) if step is None else torch.full_like(level, step)
        followed = followed + along(jet.field, x, cotangent, size)
    return followed - followed.detach() + value.detach()


def along(field: Field, x: Inputs, direction: Tensor, step: PerExample) -> PerExample:
    """||v|| (l(x + t u) - l(x - t u)) / (2 t), u = v / ||v||: <grad l, v> from losses, attached to the parameters.

    step: t, an l_2 length in pixel units, one an example. Cost: two forward passes.

    Example:
        >>> x, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]])
        >>> along(lambda x: x.square().sum(1), x, v, torch.tensor([0.5]))  # exact on quadratics, whatever t is
        tensor([8.])
    """
    reach = L2.unit(direction) * per_example(step, x)
    return L2.length(direction) * (field(x + reach) - field(x - reach)) / (2 * step)


def difference_step(values: PerExample, gradients: Tensor) -> PerExample:
    """t = eps^(1/3) min(|l|, 1) / ||g||, of each example: the distance over which the loss changes by all of itself or by 1,
    times the cube root of the precision, where what is cut off and what is rounded off are of one size.

    Never more than the diagonal of the pixel box times that root, and never so little that x + t u would be rounded:
    16 eps sqrt(d). In float32 this is 1e-4 on a trained ResNet-20 and 6e-2 on an untrained network, and no one length
    does for both: 1e-2 is 25 % wrong on the first, 1e-4 90 % on the second.

    Example:
        >>> difference_step(torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]))  # 2^(-23/3) / 10
        tensor([0.0005])
    """
    eps, widest = torch.finfo(values.dtype).eps, torch.full_like(values, math.sqrt(gradients[:1].numel()))
    steepness, own = L2.length(gradients), torch.minimum(values.abs(), torch.ones_like(values))
    length = torch.where(steepness > 0, own / torch.where(steepness > 0, steepness, 1), widest)
    return torch.maximum(torch.minimum(length, widest) * eps ** (1 / 3), 16 * eps * widest)


def require_smooth(jet: Jet) -> None:
    """Refuse a field made with ReLU, max-pooling or another operation that has kinks, where differences tell nothing of the
    exact derivative."""
    kink = next((name for name in operations(jet.values) if KINKED.search(name)), None)
    if kink is not None:
        expected = "a smooth field for first_order differences"
        hint = 'write softplus and average pooling, differentiation="exact", or "secant" for another objective'
        raise InputError(expected, f"one made with {kink}", hint)


def require_differentiation(differentiation: str, step: float | None, *ways: str) -> None:
    """Refuse a way that is none of these, a step that no way asks for or that is no length, and a secant without one."""
    if differentiation not in ways:
        raise InputError(f"a differentiation among {', '.join(ways)}", repr(differentiation), 'write "exact"')
    if differentiation == "secant" and step is None:
        raise InputError("the step of a secant, an l_2 length in pixel units", step, "write step=0.1")
    if step is not None and differentiation in TWICE:
        raise InputError('no step beside differentiation "exact" or "detached"', step, "leave out step")
    if step is not None and not (math.isfinite(step) and step > 0):
        raise InputError("a step > 0 of central differences", step, "leave it out, or write step=1e-3")


def operations(values: Tensor) -> Iterator[str]:
    """The names of the operations in the graph behind these values, each as often as it was done.

    Example:
        >>> list(operations(torch.ones(2, requires_grad=True).relu().square()))
        ['Pow', 'Relu', 'AccumulateGrad']
    """
    waiting, known = [values.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known.add(node)
            yield node.name().split("Backward")[0].rpartition(":")[2]
            waiting += [following for following, _ in node.next_functions]


def _require_even_passes(field: Field) -> None:
    """The passes of a difference must differ in x alone, or what else moves is divided by t."""
    if isinstance(field, LossField) and isinstance(field.model, nn.Module):
        require_eval(field.model)
