"""Tell whether differences of gradients converge to something other than a product with the Hessian."""

from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.types import Field, Inputs

FIRST = 1e-7
"""l_2 length of the step that measures the noise of a gradient."""
STEPS = tuple(1e-6 * 10 ** (k / 2) for k in range(12))
"""l_2 lengths of the differences, from 1e-6 to 0.3."""
TOLERANCE = 1e-3
"""Relative difference that is truncation."""
ROUNDINGS = 10
"""Roundings of a gradient that are noise at least."""
IN_A_ROW = 4
"""Steps whose differences must agree, so that the longest is 30 times the shortest."""
CLEARLY, COARSELY = 10, 30
"""The disagreement with the product, in multiples of noise and of the differences' own spread.

The second is for single precision, whose noise hides the shorter lengths: some hundred kinks look like a curvature.
"""


def contradicts_differences(field: Field, x: Inputs, v: Tensor, product: Tensor) -> bool:
    """Return True if, for some example, differences of gradients converge to something other than its product H v.

    D(h) = (g(x + h v) - g(x)) / h is taken for h of both signs and many lengths. It contradicts the product only if the
    shortest four lengths at which the two differ beyond noise agree with each other, on both sides of x. They agree if they
    lie within a tenth of their own size and of the difference from the product. No honest field does that:

    * Before a kink D is H v up to rounding. From the kink on it decays as 1 / h, and on one side only.
    * At a kink D grows as 1 / h, and differs between the two sides.
    * Truncation grows with h: as h^2 where the third derivative is large or the second is zero, as h on each side.
    * Noise decays as 1 / h. It is measured at h = 1e-7, so it may be that of a function which computes in single precision.

    What no length decides is not contradicted. In single precision the longer lengths decide, so `verification` compares
    copies in double precision where it can.

    Cost: 5 gradients where the first length agrees, as for almost every field, and 27 at most.

    Args:
        field: Per-example loss as a function of the input.
        x: Inputs, shape (batch, ...).
        v: Directions of length 1, shape (batch, ...).
        product: H v, shape (batch, ...).

    Example:
        >>> x, v = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        >>> contradicts_differences(lambda x: x.square().sum(1), x, v, 2 * v)
        False
        >>> contradicts_differences(lambda x: x.square().sum(1), x, v, 0 * v)
        True
        >>> contradicts_differences(lambda x: x.pow(4).sum(1), x, v, 0 * v)  # D = 4 h^2
        False
    """
    clearly = CLEARLY if x.dtype == torch.float64 else COARSELY
    middle, product = gradient(field, x).double().flatten(1), product.double().flatten(1)

    def change(step: float) -> Tensor:
        """Return g(x + h v) - g(x) for h of both signs, shape (2, batch, d)."""
        ends = [gradient(field, x + sign * step * v).double().flatten(1) for sign in (1, -1)]
        return torch.stack(ends) - middle

    limits: Any = torch.finfo(x.dtype)
    size = middle.norm(dim=1)
    floor = ROUNDINGS * limits.eps * size + limits.tiny / limits.eps
    noise = torch.maximum(4 * change(FIRST).norm(dim=2).amax(0), floor)
    sides, differs = [], []
    agrees = torch.zeros_like(noise, dtype=torch.bool)
    for step in STEPS:
        both = change(step) / torch.tensor([step, -step]).to(middle)[:, None, None]
        central = both.mean(0)
        error = (central - product).norm(dim=1)
        differs.append(error >= clearly * noise / step)
        near = error <= TOLERANCE * central.norm(dim=1) + floor / step
        agrees |= near & (floor / step <= TOLERANCE * size + limits.tiny)
        sides.append(both)
        if bool(agrees.all()):
            return False
    return any(
        _converge_elsewhere(
            [both[:, i] for both in sides],
            [bool(one[i]) for one in differs],
            product[i],
            [float(floor[i]) / step for step in STEPS],
            clearly,
        )
        for i in range(len(product))
        if not bool(agrees[i])
    )


def _converge_elsewhere(
    sides: list[Tensor], differs: list[bool], product: Tensor, rounding: list[float], clearly: float
) -> bool:
    """Return True if one example's differences agree with each other from the first that clearly differs from H v."""
    if True not in differs:
        return False
    first = differs.index(True)
    window = torch.cat(sides[first : first + IN_A_ROW])
    if len(window) < 2 * IN_A_ROW:
        return False
    limit = window.mean(0)
    spread = clearly * (window - limit).norm(dim=1).amax()
    return bool((spread <= (limit - product).norm()) & (spread <= limit.norm() + clearly * rounding[first]))
