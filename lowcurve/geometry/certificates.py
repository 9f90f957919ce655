"""Radii within which no perturbation whatever changes the decision: proved, not searched for."""

from dataclasses import dataclass

import torch

from lowcurve.analysis.calculus import jacobian
from lowcurve.analysis.norms import L2
from lowcurve.losses import require_loss_field
from lowcurve.models.smoothness import Smoothness
from lowcurve.types import Field, Inputs, PerExample


@dataclass(frozen=True)
class CertifiedRadius:
    """min over j of max(m_j / L_j, 2 m_j / (||g_j|| + sqrt(||g_j||^2 + 2 K_j m_j))), m_j = z_y - z_j and g_j its gradient at x:
    an l_2 length, in pixel units, up to which every point is classified as y. 0 for an image that is classified wrongly.

    smoothness: L and K, the Lipschitz constants of every margin and of its gradient (`models.smoothness`); the field must be of
    the same network. First order: |m(x + r) - m(x)| <= L ||r||. Second order: m(x + r) >= m - ||g|| ||r|| - K ||r||^2 / 2. The
    pixel box is left aside, which only makes the radius smaller. For float arithmetic L and K are raised by 1e-5, and
    margins count from 1e-6 of the largest logit.

    Columns: "certified radius", and what each order gives by itself, "certified radius, first order" and ", second order".
    Cost: one input gradient a class.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> from lowcurve.models.smoothness import smoothness
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> x = torch.tensor([[1.0, 0.5]])  # z_0 - z_1 = 5, of slope 5: the boundary is at 1
        >>> certified = CertifiedRadius(smoothness(model, x))
        >>> round(certified(loss_field(model, torch.tensor([0])), x)["certified radius"].item(), 3)
        1.0

    Reference: Entesari, Sharifi and Fazlyab 2024; Singla and Feizi 2020 (second order).
    """

    smoothness: Smoothness

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        field = require_loss_field(field)
        rows = torch.arange(len(x), device=x.device)
        with torch.no_grad():
            logits = field.logits(x).double()
        slopes = jacobian(field.logits, x).double()
        count = logits.shape[1]
        margins = logits[rows, field.y][:, None] - logits
        margins = margins - 1e-6 * logits.abs().amax(1, keepdim=True)
        apart = slopes[rows, field.y][:, None] - slopes
        steep = L2.length(apart.flatten(0, 1)).view(-1, count)
        lipschitz, curvature = (
            values.to(x.device)[field.y] for values in (self.smoothness.lipschitz, self.smoothness.curvature)
        )
        inside = torch.where(margins > 0, margins, 0)
        first = inside / lipschitz
        second = 2 * inside / (steep + (steep.square() + 2 * curvature * inside).sqrt())
        others = torch.ones_like(margins).scatter(1, field.y[:, None], 0).bool()

        def least(radii: torch.Tensor) -> PerExample:
            # Where a margin has no slope at all, it never changes.
            known = torch.where(torch.isnan(radii), torch.where(inside > 0, torch.inf, 0), radii)
            return torch.where(others, known, torch.inf).amin(1).to(x)

        return {
            "certified radius": least(torch.fmax(first, second)),
            "certified radius, first order": least(first),
            "certified radius, second order": least(second),
        }
