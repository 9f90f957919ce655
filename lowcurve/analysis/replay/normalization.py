# Some steps do not need every argument.
# ruff: noqa: ARG002
"""The step of a normalization of each example's own entries: LayerNorm and everything that is made of it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowcurve.analysis.replay.curved_steps import CurvedStep
from lowcurve.analysis.replay.stacking import each_vector


@dataclass
class Normalize(CurvedStep):
    """t -> r P t with P t = t - mean(t) - z mean(z t), the tangent of z = r (a - mean(a)) along the last axis.

    r is 1 / sqrt(var(a) + eps). Without a center, as in RMSNorm, the means of a and t are left out. P is symmetric.

    Let u = r P g be the adjoint and s = r P t the tangent of z. Second derivatives add
    -(z r mean(s g) + r mean(z t) u + r mean(z g) s), in which r mean(s g) = mean(s u) + r mean(z t) r mean(z g) e with
    e = 1 - mean(z^2), which is zero for eps = 0.

    Cost: a fused pass over memory and two more for `push`, a fused pass and five more for `pull`.

    Attributes:
        a: The input without its mean, z / r, shape (batch, ..., entries).
        r: The factor, shape (batch, ..., 1).
        centered: Whether the mean is subtracted.
        e: 1 - mean(z^2), shape (batch, ..., 1).
        u: The adjoint r P g, which `receive` computes.
        c: r mean(z g), shape (batch, ..., 1).
    """

    a: Tensor
    r: Tensor
    centered: bool
    e: Tensor
    u: Tensor | None = None
    c: Tensor | None = None
    push_allocates: ClassVar[bool] = False  # its result is stored

    @property
    def curved(self) -> bool:
        """True once the derivative at the result is known."""
        return self.u is not None

    def receive(self, g: Tensor) -> None:
        """Compute u and c.

        Args:
            g: The derivative, of the result's shape.
        """
        self.u, self.c = self._project(g), self._moment(g)

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return r P t."""
        result = each_vector(self._project, len(self.a), tangents[0])
        if not second_order or self.u is None:
            return result, None
        return result, (result, each_vector(self._moment, len(self.a), tangents[0]))

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return r P g, plus the terms of second derivatives."""
        if saved is None:
            return (each_vector(self._project, len(self.a), g),)
        return (each_vector(self._pull, len(self.a), g, *saved),)

    def take(self, rows: Tensor) -> "Normalize":
        """Return the step of some examples."""
        u, c = (None if one is None else one[rows] for one in (self.u, self.c))
        return Normalize(self.a[rows], self.r[rows], self.centered, self.e[rows], u, c)

    def _moment(self, t: Tensor) -> Tensor:
        """Return r mean(z t)."""
        return (self.a * t).sum(-1, keepdim=True).mul_(self.r.square() / self.a.shape[-1])

    def _project(self, t: Tensor) -> Tensor:
        """Return r P t."""
        if not self.centered:
            return torch.addcmul(t * self.r, self.a, self._moment(t) * self.r, value=-1)
        shape = [self.a.shape[-1]]  # the gradient of LayerNorm in its input is the same map in one pass
        found: Tensor = torch.ops.aten.native_layer_norm_backward(
            t.contiguous(), self.a, shape, torch.zeros_like(self.r), self.r, None, None, [True, False, False]
        )[0]
        return found

    def _pull(self, g: Tensor, tangent: Tensor, moment: Tensor) -> Tensor:
        assert self.u is not None
        assert self.c is not None
        found = self._project(g)
        common = (tangent * self.u).sum(-1, keepdim=True).div_(self.a.shape[-1]).addcmul_(moment * self.c, self.e)
        found.addcmul_(self.a, common.mul_(self.r), value=-1)
        found.addcmul_(self.u, moment, value=-1)
        return found.addcmul_(tangent, self.c, value=-1)
