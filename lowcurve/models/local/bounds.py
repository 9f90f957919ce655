"""Lower bounds of a network's margins in a ball around each image, from bounds of every nonlinearity's input there.

All bounds are of changes from the image, so they are exact to first order as the radius tends to 0. Rows of coefficients are
pulled back from a value to the input through the recorded network, as in CROWN.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import LINF, Norm
from lowcurve.errors import InputError
from lowcurve.models.jacobians.bounds import refusal
from lowcurve.models.jacobians.checking import record_logits, require_same
from lowcurve.models.jacobians.graph import Node
from lowcurve.models.local.curves import Curve
from lowcurve.models.local.lengths import Lengths, Norms
from lowcurve.models.local.linear import (
    LINEAR,
    for_each,
    parents_of,
    require_linear,
)
from lowcurve.models.local.passes import Passes, add_rows
from lowcurve.models.local.pooling import Windows
from lowcurve.models.local.regions import HALVINGS, ROUNDING, Part, Region
from lowcurve.models.local.relaxation import Relaxation
from lowcurve.models.local.relaxations import NONLINEAR, prepare, relax
from lowcurve.models.local.rewriting import rewrite
from lowcurve.models.modes import frozen
from lowcurve.network_calls import gradients_enabled
from lowcurve.types import Inputs, Labels, PerExample

ORDERS = ("zero", "first", "second")
NETWORK_ROUNDING = 1e-6
"""Share of the largest logit by which margins are lowered, for the rounding of the network's own forward pass."""
TOGETHER = 100
"""Multiplications in l_1 and l_2 for each nonlinearity and pair of pixels, measured on MNIST and CIFAR-10."""
MOST_PIXELS = 1024
"""Largest number of pixels for the second order, which needs a matrix of that size for each margin."""


@dataclass(frozen=True)
class Point:
    """A batch of images, with what does not depend on a radius.

    Attributes:
        values: Every value of the network, in double precision.
        rows: The coefficients of the margins in the logits, shape (batch, classes - 1, 1, classes).
        margins: z_y - z_k of the other classes k, lowered for rounding, shape (batch, classes - 1).
    """

    values: Mapping[Node, Tensor]
    rows: Tensor
    margins: Tensor

    def take(self, kept: Tensor) -> "Point":
        """Return some of the images.

        Args:
            kept: Their places.
        """
        values = {node: value[kept] for node, value in self.values.items()}
        return Point(values, self.rows[kept], self.margins[kept])


@dataclass(frozen=True)
class Inside:
    """The network inside the region around each image.

    Attributes:
        region: The region.
        relaxations: Bounds of each nonlinear operation.
        parts: The change of each nonlinearity's input, as coefficients of the image's change and errors.
    """

    region: Region
    relaxations: Mapping[Node, Relaxation]
    parts: Mapping[Node, list[Part]]


class LocalBounds:
    """Lower bounds of a network's margins in the part of a ball that lies in the pixel box.

    The network is recorded once. For a batch of images and a radius, each nonlinearity's input is bounded first, in order: the
    coefficients of that input are pulled back to the image through chords of the nonlinearities before it. Units that cannot
    change their slope in the region are exact. Then there are three bounds of each margin:

    * zero order: CROWN. The margin's own coefficients are pulled back, with the better line below or above each nonlinearity.
      In l_1 and l_2 the changes of a layer's units are also bounded together, because they cannot all be the largest at once
      (`together`, `lengths`). For a network on digits this gains 8 percent of a radius, on MNIST three quarters.
    * first order: m(x) plus the least product of a change with the margin's gradient, whose entries are bounded in the region.
    * second order: m(x + d) >= m(x) + <g, d> + errors - sum_i q_i t_i^2. Each nonlinearity is its tangent at x plus
      a remainder phi'' t^2 / 2, with phi'' bounded in the region. Remainders reach the margin with the derivatives of the
      linearized network, exactly. The sum of squares is bounded by the largest eigenvalue of sum_k A_k^T Q_k A_k in l_2, and by
      the sum of its absolute entries in l_inf.

    Args:
        model: The network. It is used in eval mode.
        example: One input, shape (1, ...). Only its shape is used.

    Attributes:
        shape: Shape of one input.
        width: Number of rows that are pulled back for an image and a radius.
        work: Number of multiplications for an image and a radius, of convolutions and matrix products.
        is_smooth: True if a nonlinearity has a bounded second derivative, without which the second order is not tried.

    Raises:
        NotAvailable: For a network with an operation that is not supported, with the operation and its layer.

    Cost: for an image and a radius, one pass back from each unit before a nonlinearity, and four for each class. In l_1 and l_2
    the time is 1.3 times that on digits, 3 times on MNIST and 5 to 13 times on CIFAR-10.

    Example:
        >>> from lowcurve.analysis.norms import L2
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
        >>> for layer in (model[0], model[2]):
        ...     _ = layer.weight.data.copy_(torch.eye(2)), layer.bias.data.zero_()
        >>> bounds = LocalBounds(model, torch.zeros(1, 2))
        >>> x = torch.tensor([[0.9, 0.2]])  # the margin is 0.7; it falls by 0.1 sqrt(2) in the ball of radius 0.1
        >>> found = bounds.margins(bounds.at(x, torch.tensor([0])), x, torch.tensor([0.1]), L2)
        >>> [round(bound.item(), 3) for bound in found.values()]
        [0.559, 0.559, -inf]

    Reference: Zhang et al. 2018 (CROWN: linear bounds, pulled back); Zhang et al. 2019 (RecurJac: bounds of the gradient in a
    ball); Singla and Feizi 2020 (second order); Chiu, Wang and Zhang 2025 (SDP-CROWN: changes of a layer together).
    """

    @gradients_enabled()
    def __init__(self, model: nn.Module, example: Inputs) -> None:
        with frozen(model):
            recorded = record_logits(model, example)
            require_same(model, recorded, differentiable=False)
        self.graph = rewrite(recorded)
        self.shape, self.start, self.end = tuple(example.shape[1:]), self.graph.nodes[0], self.graph.nodes[-1]
        self.prepared: dict[Node, Curve | Windows] = {}
        for node in self.graph.nodes[1:]:
            if node.call.name in NONLINEAR:
                self.prepared[node] = prepare(node)
            elif node.call.name in LINEAR:
                require_linear(node)
            else:
                raise refusal(node)
        self.passes = Passes(self.graph, self.prepared)
        self.width, self.work = sum(node.shape.numel() for node in self.passes.inputs), self.passes.count_work()
        curves = [known for known in self.prepared.values() if isinstance(known, Curve)]
        self.is_smooth = any(curve.bend is not None or curve.most_bent < math.inf for curve in curves)

    def work_in(self, norm: Norm) -> int:
        """Return the cost of an image and a radius in multiplications of convolutions and matrix products.

        Args:
            norm: Norm of the radius.
        """
        together = TOGETHER * len(self.passes.inputs) * math.prod(self.shape) ** 2
        return self.work + (0 if norm == LINF else together)

    @property
    def costliest(self) -> tuple[str, int]:
        """The layer that computes the most inputs of a nonlinearity, and their number; 0 without a nonlinearity."""
        if not self.passes.inputs:
            return "no layer", 0
        largest = max(self.passes.inputs, key=lambda node: node.shape.numel())
        return f"layer {largest.call.layer!r}", largest.shape.numel()

    @cached_property
    def _norms(self) -> Norms | None:
        return Norms.of(self.graph)

    def _bounds_together(self, region: Region) -> bool:
        """Return True if the changes of a layer's units are also bounded together."""
        return region.norm != LINF and self._norms is not None

    @torch.no_grad()
    def at(self, x: Inputs, y: Labels) -> Point:
        """Compute what does not depend on a radius.

        Args:
            x: Images, shape (batch, ...), pixel units.
            y: Labels.
        """
        self._require_shape(x)
        values = {self.start: x.double()[:, None]}
        for node in self.graph.nodes[1:]:
            parents = parents_of(node)
            values[node] = for_each(partial(_evaluate, node, parents), *(values[parent] for parent in parents))
        logits = values[self.end][:, 0]
        classes = logits.shape[1]
        others = torch.arange(classes - 1, device=x.device) + (torch.arange(classes - 1, device=x.device) >= y[:, None])
        identity = torch.eye(classes, dtype=torch.double, device=x.device)
        rows = identity[y][:, None] - identity[others]
        margins = (rows * logits[:, None]).sum(2) - NETWORK_ROUNDING * logits.abs().amax(1, keepdim=True)
        return Point(values, rows[:, :, None], margins)

    @torch.no_grad()
    def margins(
        self, point: Point, x: Inputs, radius: PerExample, norm: Norm, orders: tuple[str, ...] = ORDERS
    ) -> dict[str, Tensor]:
        """Bound the margins from below in the region around each image.

        Args:
            point: What `at` returned for these images.
            x: The images.
            radius: One radius for each image, in pixel units.
            norm: l_1, l_2 or l_inf.
            orders: Which bounds, of "zero", "first" and "second".

        Returns:
            A tensor of shape (batch, classes - 1) for each order. NaN or -inf where nothing is known, as in second order for a
            network that has kinks only or more than 1,024 pixels.
        """
        region = Region(x.double(), radius.double(), norm)
        pixels = self.start.shape.numel()
        inside = self._enter(point, region, keep="second" in orders and self.is_smooth and pixels <= MOST_PIXELS)
        ways = {"zero": self._zero, "first": self._first, "second": self._second}
        return {order: point.margins + ways[order](point, inside) for order in orders}

    def _require_shape(self, x: Inputs) -> None:
        if tuple(x.shape[1:]) != self.shape:
            hint = "make LocalBounds(model, x[:1]) for this size"
            raise InputError(f"inputs of shape {self.shape}, for which the bounds hold", tuple(x.shape[1:]), hint)

    # Bounds of the inputs of the nonlinearities

    def _enter(self, point: Point, region: Region, *, keep: bool) -> Inside:
        """Bound the input of each nonlinearity in the region, in order."""
        relaxations: dict[Node, Relaxation] = {}
        parts: dict[Node, list[Part]] = {}
        intervals: dict[Node, tuple[Tensor, Tensor]] = {}
        norms = self._norms if self._bounds_together(region) else None
        lengths = None if norms is None else Lengths(norms, region)
        for node, prepared in self.prepared.items():
            parent = node.parents[0][1]
            if self.passes.follows_nonlinearity(node):
                intervals[parent] = relaxations[parent].reach()
            elif parent not in intervals:
                found: Iterable[Part] = self.passes.linear_parts(parent, relaxations, region, whole=keep)
                if keep or lengths is not None:
                    found = parts[parent] = list(found)
                intervals[parent] = region.interval(found, parent.shape)
            relaxation = relax(prepared, parent, point.values[parent], *intervals[parent], together=lengths is not None)
            relaxations[node] = (
                relaxation if lengths is None else lengths.enter(node, relaxation, parts.get(parent, []))
            )
        return Inside(region, relaxations, parts if keep else {})

    def _zero(self, point: Point, inside: Inside) -> Tensor:
        """Bound the change of each margin from below by CROWN, and by bounds of each layer together."""

        def lower(node: Node, rows: Tensor) -> tuple[Tensor, Tensor]:
            return inside.relaxations[node].lower(rows)

        def together(node: Node, rows: Tensor) -> tuple[Tensor, Tensor]:
            return inside.relaxations[node].lower_together(rows)

        found = self.passes.lower_bound(point.rows, inside.region, lower, HALVINGS)
        if self._bounds_together(inside.region):
            found = torch.maximum(found, self.passes.lower_bound(point.rows, inside.region, together, HALVINGS))
        return found

    def _first(self, point: Point, inside: Inside) -> Tensor:
        """Bound the change of each margin from below by bounds of its gradient in the region."""
        waiting = {self.end: (point.rows, torch.zeros_like(point.rows))}
        for node in reversed(self.graph.nodes[1:]):
            if node not in waiting:
                continue
            middle, away = waiting.pop(node)
            if node in inside.relaxations:
                least, most = inside.relaxations[node].derivative(middle - away, middle + away)
                found = {node.parents[0][1]: ((least + most) / 2, (most - least) / 2)}
            else:
                middles: dict[Node, Tensor] = {}
                aways: dict[Node, Tensor] = {}
                self.passes.pull_linear(node, middle, middles)
                self.passes.pull_linear(node, away, aways, absolute=True)
                found = {parent: (middles[parent], aways[parent]) for parent in middles}
            for parent, (a, b) in found.items():
                before = waiting.get(parent)
                waiting[parent] = (a, b) if before is None else (before[0] + a, before[1] + b)
        middle, away = (values.flatten(2) for values in waiting[self.start])
        region = inside.region
        if region.norm == LINF:
            low, high = region.low[:, None], region.high[:, None]
            ends = [slope * end for slope in (middle - away, middle + away) for end in (low, high)]
            return torch.stack(ends).amin(0).sum(2) * (1 + ROUNDING)
        lengths = region.norm.dual.length((middle.abs() + away).flatten(0, 1)).view(middle.shape[:2])
        return -lengths * region.radius[:, None] * (1 + ROUNDING)

    def _second(self, point: Point, inside: Inside) -> Tensor:
        """Bound the change of each margin from below by its gradient, and by the squares of the changes within the network."""
        region, pixels = inside.region, self.start.shape.numel()
        if not inside.parts:
            return torch.full_like(point.margins, -torch.inf)
        waiting, constant = {self.end: point.rows}, torch.zeros_like(point.margins)
        weights: dict[Node, Tensor] = {}
        for node in reversed(self.graph.nodes[1:]):
            if node not in waiting:
                continue
            rows = waiting.pop(node)
            if node in inside.relaxations:
                parent = node.parents[0][1]
                before, offset, remainder = inside.relaxations[node].expand(rows)
                constant = constant + offset
                add_rows(waiting, parent, before)
                if remainder is not None:
                    add_rows(weights, parent, remainder)
            else:
                self.passes.pull_linear(node, rows, waiting)
        squares = point.margins.new_zeros(*point.margins.shape, pixels, pixels, dtype=torch.float32)
        error = torch.zeros_like(point.margins)
        for target, weight in weights.items():
            parts = inside.parts[target]
            pieces = torch.split(weight.flatten(2), [part.rows.shape[1] for part in parts], 2)
            for part, piece in zip(parts, pieces, strict=True):
                rows, largest = part.rows[:, None], torch.maximum(-part.least, part.most).double()
                squares += (rows * piece[..., None].float()).mT @ rows
                error += (piece * largest.square()[..., None, :]).sum(2)
        root = (region.largest_square(squares.double()) * (1 + ROUNDING)).sqrt() + error.sqrt() * (1 + ROUNDING)
        return region.least(waiting[self.start].flatten(2), HALVINGS) + constant - root.square()


def _evaluate(node: Node, parents: tuple[Node, ...], *values: Tensor) -> Tensor:
    return node.evaluate(dict(zip(parents, values, strict=True)))
