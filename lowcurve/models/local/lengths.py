"""Lengths in l_2 of the changes within a network, when the image moves in a region.

The change of a value is A d + e, with the image's change d, the coefficients A of the pass back, and an error e. If its input
changes by t_i, unit i of a nonlinearity differs from its line by at most D_i |t_i|. Let s be the largest slope of the units,

    a = max ||sqrt(D) A d||,    b = max ||D A d|| over the changes d of the image.

Then ||sqrt(D) t|| <= a + sqrt(max D) ||e||, and the error of the result is at most b + s ||e||: phi(z + A d) differs from the
line by at most ||D A d||, and phi(z + t) from phi(z + A d) by at most s ||e||. A linear operation multiplies the length of an
error by at most its operator norm. The product of these norms alone bounds A many times larger, because the largest changes
of two layers rarely meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from lowcurve.analysis.norms import L2
from lowcurve.errors import NotAvailable
from lowcurve.models.jacobians.graph import InputGraph, Node
from lowcurve.models.jacobians.rules import Operation, list_operations
from lowcurve.models.local.elementwise import Elementwise
from lowcurve.models.local.regions import ROUNDING, Part, Region, bound_top_eigenvalue
from lowcurve.models.local.relaxation import Relaxation
from lowcurve.models.smoothness import lipschitz_constants

UNKNOWN = 1e100
"""Length of an error that is not known. It is finite, so that 0 times it is 0."""


@dataclass(frozen=True)
class Norms:
    """Operator norms of a recorded network.

    Attributes:
        operations: The operation that computes each value, with its norm.
        lipschitz: A Lipschitz constant in l_2 of each value.
    """

    operations: dict[Node, Operation]
    lipschitz: dict[Node, float]

    @classmethod
    def of(cls, graph: InputGraph) -> "Norms | None":
        """Return the norms, or None if one of them is not known.

        Args:
            graph: The network.
        """
        with torch.no_grad():
            try:
                operations = {operation.node: operation for operation in list_operations(graph)}
                return cls(operations, lipschitz_constants(graph))
            except NotAvailable:
                return None


@dataclass(frozen=True)
class Lengths:
    """Lengths of changes in the region around each image.

    Args:
        norms: Operator norms of the network.
        region: The region around each image.
    """

    norms: Norms
    region: Region
    _errors: dict[Node, Tensor] = field(default_factory=dict, init=False)

    def enter(self, node: Node, relaxation: Relaxation, parts: Sequence[Part]) -> Relaxation:
        """Return the bounds of a nonlinearity with the length of its input's change; those before it must have entered.

        Args:
            node: The result of the nonlinearity.
            relaxation: Its bounds. Those of a pooling by maxima are returned unchanged, and no error behind it is known.
            parts: Its input as a function of the image's change and errors, empty if that is not known.
        """
        self._errors[node] = torch.full_like(self.region.radius, UNKNOWN)
        if not isinstance(relaxation, Elementwise):
            return relaxation
        ((_, parent),) = node.parents
        share = relaxation.deviation.flatten(1)
        most = share.amax(1).sqrt()
        reach = torch.maximum(-relaxation.low, relaxation.high).flatten(1)
        alone, moved = (share * reach.square()).sum(1).sqrt(), self.norms.lipschitz[parent] * self.region.radius
        length = torch.minimum(alone, most * moved)
        if parts:
            a = torch.minimum(most * moved, self._longest(squares_of(parts, share)))
            b = torch.minimum(most.square() * moved, self._longest(squares_of(parts, share.square())))
            before, rounding = self._error(parent), 2 * relaxation.rounding.flatten(1).norm(dim=1)
            length = torch.minimum(length, a + most * before)
            self._errors[node] = (b + relaxation.steepest * before + rounding) * (1 + ROUNDING)
        return replace(relaxation, length=length * (1 + ROUNDING))

    def _longest(self, squares: Tensor) -> Tensor:
        """Bound the largest ||B d|| in the region, given B^T B of each image."""
        if self.region.norm == L2:
            return bound_top_eigenvalue(squares).sqrt() * self.region.radius
        return self.region.largest_square(squares[:, None].double())[:, 0].sqrt()

    def _error(self, node: Node) -> Tensor:
        """Bound the length of a value's error."""
        if not node.parents:
            return torch.zeros_like(self.region.radius)
        if node not in self._errors:
            bounds = self.norms.operations[node].bounds
            found = torch.stack([self._error(parent) * bound.lipschitz for parent, bound in bounds.edges])
            self._errors[node] = found.norm(dim=0) if bounds.concatenates else found.sum(0)
        return self._errors[node]


def squares_of(parts: Sequence[Part], weights: Tensor) -> Tensor:
    """Return the matrix of the sum of weighted squares of linear functions: sum_i w_i a_i a_i^T.

    Args:
        parts: The functions a_i of an image's change.
        weights: w_i >= 0, shape (batch, elements).

    Returns:
        Shape (batch, pixels, pixels), in single precision.
    """
    window, rows = parts[0].window, parts[0].rows
    pixels = rows.shape[2] if window is None else rows.shape[3] * window.image[0] * window.image[1]
    total = torch.zeros(len(weights), pixels, pixels, dtype=torch.float32, device=weights.device)
    ends = list(accumulate(part.least.shape[1] for part in parts))
    for part, end in zip(parts, ends, strict=True):
        weight = weights[:, end - part.least.shape[1] : end].to(part.rows)
        if part.window is None:
            total += (part.rows * weight[..., None]).mT @ part.rows
            continue
        flat = part.rows.flatten(3)  # (batch, places, rows, pixels of a window)
        weight = weight.view(len(weights), flat.shape[2], flat.shape[1]).transpose(1, 2)
        local = (flat * weight[..., None]).mT @ flat
        numbers = part.window.pixel_numbers(part.rows.shape[3])
        index = numbers[:, :, None] * pixels + numbers[:, None]
        total.view(len(total), -1).index_add_(1, index.flatten(), local.flatten(1))
    return total
