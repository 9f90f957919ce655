"""Compute certified radii: proven l_2 distances within which the decision cannot change."""

from dataclasses import dataclass

import torch

from lowcurve.analysis.calculus import jacobian
from lowcurve.analysis.norms import L2
from lowcurve.errors import InputError
from lowcurve.losses import require_loss_field
from lowcurve.models.smoothness import Smoothness
from lowcurve.types import Field, Inputs, PerExample


@dataclass(frozen=True)
class CertifiedRadius:
    """Measure a certified l_2 radius, in pixel units, within which every point is classified as y.

    The radius is min over j of max(m_j / L_j, 2 m_j / (||g_j|| + sqrt(||g_j||^2 + 2 K_j m_j))), with the margin m_j
    = z_y - z_j and its gradient g_j at x. First order: |m(x + r) - m(x)| <= L ||r||. Second order: m(x + r) >= m -
    ||g|| ||r|| - K ||r||^2 / 2. It is 0 for a misclassified image. The pixel box is ignored, which only makes the
    radius smaller. L and K are raised by 1e-5 and the margins lowered by 1e-6 of the largest logit to allow for
    rounding.

    Columns: "certified radius", and the results of each order alone: "certified radius, first order" and "certified
    radius, second order".

    Args:
        smoothness: L and K, the Lipschitz constants of every margin and of its gradient, from `models.smoothness`.
            The field must be of the same network.

    Cost: one input gradient per class.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> from lowcurve.models.smoothness import smoothness
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> x = torch.tensor([[1.0, 0.5]])  # z_0 - z_1 = 5, with a gradient of length 5: the boundary is at 1
        >>> certified = CertifiedRadius(smoothness(model, x))
        >>> round(certified(loss_field(model, torch.tensor([0])), x)["certified radius"].item(), 3)
        1.0

    Reference: Entesari, Sharifi and Fazlyab 2024; Singla and Feizi 2020 (second order).
    """

    smoothness: Smoothness

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Measure the radii at x."""
        field = require_loss_field(field)
        if tuple(x.shape[1:]) != self.smoothness.shape:
            hint = "compute smoothness(model, x[:1]) for this size"
            raise InputError(
                f"inputs of shape {self.smoothness.shape}, for which the bounds hold", tuple(x.shape[1:]), hint
            )
        rows = torch.arange(len(x), device=x.device)
        with torch.no_grad():
            logits = field.logits(x).double()
        jacobians = jacobian(field.logits, x).double()
        count = logits.shape[1]
        margins = logits[rows, field.y][:, None] - logits
        margins = margins - 1e-6 * logits.abs().amax(1, keepdim=True)
        gradients = jacobians[rows, field.y][:, None] - jacobians
        gradient_norms = L2.length(gradients.flatten(0, 1)).view(-1, count)
        lipschitz, curvature = (
            values.to(x.device)[field.y] for values in (self.smoothness.lipschitz, self.smoothness.curvature)
        )
        first = margins / lipschitz
        second = 2 * margins / (gradient_norms + (gradient_norms.square() + 2 * curvature * margins).sqrt())
        others = torch.ones_like(margins).scatter(1, field.y[:, None], 0).bool()

        def least(radii: torch.Tensor) -> PerExample:
            # A margin of at most 0 has no radius, whatever its bounds. NaN stays NaN.
            return torch.where(others, torch.where(margins <= 0, 0, radii), torch.inf).amin(1).to(x)

        return {
            "certified radius": least(torch.maximum(first, second)),
            "certified radius, first order": least(first),
            "certified radius, second order": least(second),
        }
