"""Find points of the decision boundary {F = 0} of a decision function F, and distances to it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import L2, dot, per_example
from lowcurve.errors import InputError
from lowcurve.geometry.level_sets import tangent_space
from lowcurve.losses import require_eval
from lowcurve.network_calls import call
from lowcurve.types import Classifier, Field, Inputs, Labels, Logits, PerExample


@dataclass(frozen=True)
class LogitDifference:
    """The decision function F(x) = z_i(x) - z_j(x) of each example, positive on the side of class i.

    It exposes its two parts, x -> z and z -> F, as `losses.LossField` does.

    Args:
        model: The network.
        i: The first class of each example.
        j: The second class of each example.
    """

    model: Classifier
    i: Labels
    j: Labels

    def __call__(self, x: Inputs) -> PerExample:
        """Compute F(x)."""
        return self.from_logits(self.logits(x))

    def logits(self, x: Inputs) -> Logits:
        """Compute the logits z of x, the first part."""
        return call(self.model, x)

    def from_logits(self, logits: Logits) -> PerExample:
        """Compute z_i - z_j from the logits, the second part."""
        if len(logits) != len(self.i):
            raise InputError(
                f"{len(logits)} pairs of classes, one an example",
                len(self.i),
                "call take(rows) on the decision function too",
            )
        return (logits.gather(1, self.i[:, None]) - logits.gather(1, self.j[:, None])).squeeze(1)

    @property
    def kind(self) -> str:
        """Name of the function of the logits."""
        return "logit difference"

    def with_model(self, model: Classifier) -> "LogitDifference":
        """Return the same difference of another network."""
        return LogitDifference(model, self.i, self.j)

    def take(self, rows: Tensor) -> "LogitDifference":
        """Select the decision functions of some examples."""
        return LogitDifference(self.model, self.i[rows], self.j[rows])


def logit_difference(model: Classifier, i: Labels, j: Labels) -> LogitDifference:
    """Return the decision function F = z_i - z_j between two classes of each example.

    Unlike the margin it has no kinks where the second-largest class changes.

    Args:
        model: The network, in eval mode.
        i: The first class of each example.
        j: The second class of each example.

    Returns:
        F as a function of the input; it can be restricted to some examples.

    Raises:
        InputError: If the two classes of an example are equal, or the model is in training mode.

    Example:
        >>> logit_difference(nn.Identity(), torch.tensor([0]), torch.tensor([2]))(torch.tensor([[5.0, 1.0, 2.0]]))
        tensor([3.])

    Reference: Fawzi et al. 2018, curvature of the decision boundary.
    """
    if i.shape != j.shape or bool((i == j).any()):
        raise InputError("two different classes for each example", "the same or none", "give i and j of one length")
    if isinstance(model, nn.Module):
        require_eval(model)
    return LogitDifference(model, i, j)


@dataclass(frozen=True)
class BoundaryPoint:
    """Points on the segments from x to other points, as found by `find_boundary_point`.

    Attributes:
        point: A point with F = 0, or the end of the segment where F did not change its sign.
        crossed: True where F changed its sign along the segment. NaN has no sign.
    """

    point: Inputs
    crossed: Tensor


def find_boundary_point(
    decision: Field, x: Inputs, end: Inputs, *, steps: int = 60, tolerance: float = 0
) -> BoundaryPoint:
    """Find a point with F = 0 on the segment from x to `end`, by bisection.

    If there are several crossings, one of them is found.

    Args:
        decision: The decision function F.
        x: Starting points, shape (batch, ...).
        end: Points on the other side of the boundary, such as adversarial images. Where F has one sign at both, `point`
            is `end` and `crossed` is False.
        steps: Maximum number of bisections.
        tolerance: Length of the last interval, as a share of the segment. At 0 it continues down to rounding: about 24
            steps in float32, 53 in float64, more near x. The end of the last interval with the smaller |F| is returned.

    Returns:
        The points and whether each is a crossing.

    Raises:
        InputError: If `steps` is below 1 or `tolerance` is outside [0, 1).

    Cost: at most `steps` + 2 forward passes.

    Example:
        >>> found = find_boundary_point(lambda x: 1 - x.square().sum(1), torch.zeros(1, 2), torch.tensor([[4.0, 0.0]]))
        >>> found.point, found.crossed
        (tensor([[1., 0.]]), tensor([True]))
    """
    if steps < 1 or not 0 <= tolerance < 1:
        raise InputError("a step and a tolerance from 0 to 1", (steps, tolerance), "write steps=60, tolerance=0")
    offset = end - x

    def at(share: PerExample) -> PerExample:
        with torch.no_grad():
            return decision(x + per_example(share, offset) * offset)

    low, high = torch.zeros(len(x)).to(x), torch.ones(len(x)).to(x)
    value_low, value_high = at(low), at(high)
    side = value_low.sign()
    crossed = (side * value_high.sign() <= 0) & ~(value_low + value_high).isnan()  # the sign of NaN is 0
    for _ in range(steps):
        middle = (low + high) / 2
        if bool(((middle == low) | (middle == high) | (high - low <= tolerance)).all()):
            break
        value = at(middle)
        before = value.sign() == side
        low, value_low = torch.where(before, middle, low), torch.where(before, value, value_low)
        high, value_high = torch.where(before, high, middle), torch.where(before, value_high, value)
    crossed &= ~(value_low + value_high).isnan()
    share = torch.where(value_low.abs() < value_high.abs(), low, high)
    point = x + per_example(share, offset) * offset
    return BoundaryPoint(torch.where(per_example(crossed, x), point, end), crossed)


def boundary_distances(
    decision: Field, x: Inputs, boundary: BoundaryPoint, *, h: float | None = None
) -> dict[str, PerExample]:
    """Compute the distance from x to the boundary in four approximations, from one boundary point z.

    With s = <x - z, n> and t = P (x - z), the distance to the osculating circle is |kappa ||x - z||^2 + 2 s| / (1 +
    sqrt(kappa^2 ||t||^2 + (1 + kappa s)^2)), where the circle of curvature kappa lies in the plane of n and t. It
    is exact for spheres and hyperplanes wherever the segment crosses them.

    Args:
        decision: The decision function F.
        x: Points, shape (batch, ...).
        boundary: Boundary points z, from `find_boundary_point`.
        h: Scale; see `tangent_space`. None means the exact Hessian.

    Returns:
        Columns: "distance along the way", ||x - z||, an upper bound; "distance to the tangent plane", |s|;
        "distance to the osculating circle"; "normal curvature", kappa at z along t. Lengths are l_2 in pixel units.
        Where nothing was crossed, the lengths are infinite and kappa is 0. Where x - z is along n, kappa is 0 and
        the three lengths agree.

    Cost: one gradient and one Hessian product.

    Example:
        >>> x, z = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> found = boundary_distances(lambda x: x.square().sum(1) - 1, x, BoundaryPoint(z, torch.tensor([True])))
        >>> found["distance along the way"], found["distance to the osculating circle"]  # of (3, 0) and the unit circle
        (tensor([3.1623]), tensor([2.]))
    """
    offset = x - boundary.point
    tangents = tangent_space(decision, boundary.point, h)
    length, normal_part, curvature = L2.length(offset), dot(offset, tangents.normal), tangents.curvature(offset)
    tangent_length = L2.length(tangents.project(offset))
    osculating = (curvature * length.square() + 2 * normal_part).abs() / (
        1 + torch.hypot(curvature * tangent_length, 1 + curvature * normal_part)
    )
    lengths = {
        "distance along the way": length,
        "distance to the tangent plane": normal_part.abs(),
        "distance to the osculating circle": osculating,
    }
    columns = {name: torch.where(boundary.crossed, column, torch.inf) for name, column in lengths.items()}
    return columns | {"normal curvature": torch.where(boundary.crossed, curvature, 0)}
