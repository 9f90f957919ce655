"""The norm of the input gradient as a penalty."""

from dataclasses import dataclass

import torch

from lowcurve.analysis.calculus import Jet
from lowcurve.analysis.norms import L2, Norm
from lowcurve.types import PerExample


@dataclass(frozen=True)
class InputGradientNorm:
    """||grad l(x)||^2 (or its root where not `squared`), per example, in pixel units.

    norm: L2 (the default), or L1, whose penalty is the first-order loss increase under an l_inf attack divided by its
    radius.

    Cost: the shared clean forward pass and gradient, twice differentiated.

    Example:
        >>> x = torch.tensor([[0.5, 0.5]])
        >>> InputGradientNorm()(Jet(lambda x: 3 * x[:, 0] + 4 * x[:, 1], x), generator=torch.Generator())
        tensor([25.])

    Reference: Ross and Doshi-Velez 2018, Eq. (4); srinivas2022lcnn, section 4 (GradReg).
    """

    norm: Norm = L2
    squared: bool = True

    def __call__(self, jet: Jet, *, generator: torch.Generator) -> PerExample:  # noqa: ARG002 (the signature of Penalty)
        """One number per example, at least 0."""
        length = self.norm.length(jet.gradient)
        return length.square() if self.squared else length
