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

    Cost: about 4 passes over memory for `push`, and 6 for `pull`.

    Attributes:
        z: The normalized entries, shape (batch, ..., entries).
        r: The factor, shape (batch, ..., 1).
        centered: Whether the mean is subtracted.
        e: 1 - mean(z^2), shape (batch, ..., 1).
        u: The adjoint r P g, which `receive` computes.
        c: r mean(z g), shape (batch, ..., 1).
    """

    z: Tensor
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
        self.u, self.c = self._project(g)

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return r P t."""
        batch = len(self.z)
        result = each_vector(lambda t: self._project(t)[0], batch, tangents[0])
        if not second_order or self.u is None:
            return result, None
        return result, (result, each_vector(self._moment, batch, tangents[0]))

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return r P g, plus the terms of second derivatives."""
        if saved is None:
            return (each_vector(lambda h: self._project(h)[0], len(self.z), g),)
        return (each_vector(self._pull, len(self.z), g, *saved),)

    def take(self, rows: Tensor) -> "Normalize":
        """Return the step of some examples."""
        u, c = (None if one is None else one[rows] for one in (self.u, self.c))
        return Normalize(self.z[rows], self.r[rows], self.centered, self.e[rows], u, c)

    def _moment(self, t: Tensor) -> Tensor:
        return (self.z * t).mean(-1, keepdim=True).mul_(self.r)

    def _project(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return r P t and r mean(z t)."""
        moment = self._moment(t)
        found = torch.addcmul(t * self.r, self.z, moment, value=-1)
        if self.centered:
            found.sub_(t.mean(-1, keepdim=True).mul_(self.r))
        return found, moment

    def _pull(self, g: Tensor, tangent: Tensor, moment: Tensor) -> Tensor:
        assert self.u is not None
        assert self.c is not None
        found, _ = self._project(g)
        common = torch.addcmul((tangent * self.u).mean(-1, keepdim=True), moment * self.c, self.e)
        found.addcmul_(self.z, common, value=-1)
        found.addcmul_(self.u, moment, value=-1)
        return found.addcmul_(tangent, self.c, value=-1)
