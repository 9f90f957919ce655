"""Rules of linear operations without weights: selections, copies, averages, sums and products with constants."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from lowcurve.analysis.calculus import pullback
from lowcurve.models.jacobians.bounds import IDENTITY, Bounded, OperationBound, Unsupported, constants
from lowcurve.models.jacobians.graph import Node

BOTH = ("self", "other")


def rearrangement(node: Node) -> Bounded:
    """Bound an operation whose outputs are its inputs in another order: J is a permutation, and all its norms are 1.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    ((_, parent),) = node.parents
    if parent.shape.numel() != node.shape.numel():
        raise Unsupported(" that changes the number of elements")
    return Bounded(((parent, IDENTITY),))


def one_sign(node: Node) -> Bounded:
    """Bound a linear operation whose matrix A has entries of one sign.

    By Schur's test ||A||_2^2 is at most the largest row sum times the largest column sum of |A|. As all entries have one sign,
    these are |A 1| and |A^T 1|, so one pass forward and one back at ones give them. The pass at zeros is subtracted, which
    removes constants such as the value of a padding. No entry exceeds its row or its column sum, so the squared norm of a
    column is at most its sum times the smaller of the two.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    ((_, parent),) = node.parents
    ones = torch.ones(parent.shape, dtype=torch.double, device=node.device).requires_grad_()
    with torch.enable_grad():
        rows = node.evaluate({parent: ones})
        columns = pullback(rows, ones, torch.ones_like(rows))
    constant = node.evaluate({parent: torch.zeros_like(ones.detach())})
    row = float(torch.where(constant.isfinite(), rows.detach() - constant, 0).abs().max())
    column = float(columns.abs().max())
    bound = OperationBound(math.sqrt(row * column), math.sqrt(column * min(row, column)), column)
    return Bounded(((parent, bound),))


def _copies(node: Node, coefficients: Mapping[str, Any], kink: bool = False) -> Bounded:
    """Bound y = sum over arguments of c * x, or a y that follows one of the c * x at each place, with broadcasting.

    Each output depends on one element of x, so J^T J is diagonal. Its entry is the sum of c^2 over the copies that broadcasting
    makes of the element. The largest entry is ||J||_2^2 and the largest squared norm of a column.
    """
    found = []
    for name, parent in node.parents:
        factor = torch.as_tensor(coefficients[name], dtype=torch.double).detach()
        if factor.ndim == 0 and parent.shape == node.shape:
            norm = total = abs(float(factor))
        else:
            factor = factor.expand(node.shape)
            norm = float(factor.square().sum_to_size(parent.shape).max().sqrt())
            total = float(factor.abs().sum_to_size(parent.shape).max())
        found.append((parent, OperationBound(norm, norm, total, math.inf if kink else 0.0)))
    return Bounded(tuple(found))


def plus(node: Node) -> Bounded:
    """Bound x + alpha y or x - alpha y. The coefficients are 1 and alpha; their signs change no bound.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    return _copies(node, {"self": 1.0, "other": constants(node, BOTH, ("alpha",)).get("alpha", 1)})


def reversed_minus(node: Node) -> Bounded:
    """Bound y - alpha x, which is rsub(x, y). The coefficients are alpha and 1; their signs change no bound.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    return _copies(node, {"self": constants(node, BOTH, ("alpha",)).get("alpha", 1), "other": 1.0})


def multiple(node: Node) -> Bounded:
    """Bound c * x; the coefficients are c. A product of two values that depend on the input has no Lipschitz constant.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    constants(node, BOTH, ())
    names = [name for name, _ in node.parents]
    if len(names) > 1:
        raise Unsupported(", a product of two values that depend on the input")
    return _copies(node, {names[0]: node.call.arguments["other" if names == ["self"] else "self"]})


def quotient(node: Node) -> Bounded:
    """Bound x / c; the coefficients are 1 / c.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    other = constants(node, ("self",), ("other",))["other"]
    return _copies(node, {"self": torch.as_tensor(other, dtype=torch.double).detach().reciprocal()})


def choice(node: Node) -> Bounded:
    """Bound where(c, x, y); the coefficients are 1 and 0 by the constant c.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    chosen = constants(node, BOTH, ("condition",))["condition"].bool()
    return _copies(node, {"self": chosen, "other": ~chosen})


def masked(node: Node) -> Bounded:
    """Bound masked_fill(x, mask, value); the coefficients are 0 where the constant mask is true, else 1.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    return _copies(node, {"self": ~constants(node, ("self",), ("mask", "value"))["mask"].bool()})


def extremum(node: Node) -> Bounded:
    """Bound max(x, y) and min(x, y): each output follows x or y, and has a kink where they meet.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    constants(node, BOTH, ())
    return _copies(node, {"self": 1.0, "other": 1.0}, kink=True)


def concatenation(node: Node) -> Bounded:
    """Bound cat and stack: each part has outputs of its own, so ||J||^2 is at most the sum of the parts' squares.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    return Bounded(tuple((parent, IDENTITY) for _, parent in node.parents), concatenates=True)
