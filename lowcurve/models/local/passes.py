"""Passes back through a recorded network: coefficients of a value become coefficients of the image's change, and errors."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from lowcurve.models.jacobians.graph import InputGraph, Node
from lowcurve.models.local.curves import Curve
from lowcurve.models.local.linear import (
    Transpose,
    elements,
    multiplications,
    parents_of,
    transpose,
    transpose_windows,
)
from lowcurve.models.local.pooling import Windows
from lowcurve.models.local.regions import Part, Region
from lowcurve.models.local.relaxation import Relaxation
from lowcurve.models.local.windows import DIAGONAL, Window, plan_windows

AT_ONCE = 2**21
"""Number of coefficients that are pulled back together, few enough for a processor's cache."""
KEPT = 2**25
"""Number of coefficients of a value that are kept where they are the same for all images."""


class Passes:
    """Passes back through a recorded network.

    Args:
        graph: The network.
        prepared: Its nonlinear operations, each with what does not depend on the image.

    Attributes:
        inputs: The values whose elements are pulled back, because a nonlinearity is applied to them.
        windows: For each of these, the windows of earlier values on which its pixels depend.
    """

    def __init__(self, graph: InputGraph, prepared: Mapping[Node, Curve | Windows]) -> None:
        self.graph, self.prepared = graph, prepared
        self.start, self.end = graph.nodes[0], graph.nodes[-1]
        pulled = [node for node in prepared if not self.follows_nonlinearity(node)]
        self.inputs = tuple(dict.fromkeys(node.parents[0][1] for node in pulled))
        self._transposes: dict[tuple[Node, torch.dtype, bool], Transpose] = {}
        self._begun: dict[Node, tuple[int, list[dict[Node, Tensor]]]] = {}
        self._window_transposes: dict[tuple[object, ...], Callable[[Tensor], Tensor]] = {}
        self.windows = {
            node: plan_windows(graph.nodes, node, lambda node: isinstance(prepared.get(node), Curve))
            for node in self.inputs
        }

    def follows_nonlinearity(self, node: Node) -> bool:
        """Return True for a pooling of a nonlinearity's results, whose intervals need no pass of their own.

        Args:
            node: The value that a nonlinear operation computes.
        """
        return isinstance(self.prepared[node], Windows) and isinstance(self.prepared.get(node.parents[0][1]), Curve)

    def count_work(self) -> int:
        """Count the multiplications for an image and a radius."""
        before: dict[Node, set[Node]] = {self.start: set()}  # the operations between a value and the image
        behind: dict[Node, set[Node]] = {self.start: set()}  # those behind the first nonlinearities on the way
        for node in self.graph.nodes[1:]:
            parents = parents_of(node)
            before[node] = set().union({node}, *(before[parent] for parent in parents))
            sources = before if node in self.prepared else behind
            behind[node] = set().union(*(sources[parent] for parent in parents))
        total = 0.0
        for target in self.inputs:
            windows = self.windows[target]
            shares = {node: windows[node].share if node in windows else 1.0 for node in behind[target]}
            total += target.shape.numel() * sum(share * multiplications(node) for node, share in shares.items())
        return round(total) + 4 * self.end.shape.numel() * sum(map(multiplications, before[self.end]))

    def linear_parts(
        self, target: Node, relaxations: Mapping[Node, Relaxation], region: Region, *, whole: bool
    ) -> Iterator[Part]:
        """Write the change of each element of a value as a linear function of the image's change and an error, in parts.

        Args:
            target: The value.
            relaxations: Bounds of the nonlinear operations before it.
            region: The region around each image.
            whole: Return coefficients of whole images, not of windows.
        """
        windows = self.windows[target]
        for begun in self._begin(target, len(region.x)):
            part = self._pull(dict(begun), windows, relaxations)
            if whole and part.window is not None:
                part = Part(part.window.spread(part.rows).flatten(2), part.least, part.most)
            yield part

    def _begin(self, target: Node, count: int) -> Iterator[dict[Node, Tensor]]:
        """Pull the elements of a value back to the nonlinearities before it, which is the same for all images.

        Yields:
            For some elements at a time, their coefficients in the results of nonlinearities, with a batch of one.
        """
        if target in self._begun and self._begun[target][0] >= count:
            yield from self._begun[target][1]
            return
        kept: list[dict[Node, Tensor]] | None = []
        windows = self.windows[target]
        for first in self._first_rows(target, windows, count):
            waiting = first
            for node in reversed(self.graph.nodes[1:]):
                if node in waiting and node not in self.prepared:
                    self._pull_windows(node, waiting.pop(node), windows, waiting)
            yield waiting
            if kept is not None:
                kept.append(waiting)
                if sum(rows.numel() for part in kept for rows in part.values()) > KEPT:
                    kept = None
        if kept is not None:
            self._begun[target] = (count, kept)

    def _first_rows(self, target: Node, windows: Mapping[Node, Window], count: int) -> Iterator[dict[Node, Tensor]]:
        """Return the rows that are 1 at one element of a value, as many at a time as fit into memory for `count` images."""
        if not windows:
            widest = max(node.shape.numel() for node in self.graph.nodes)
            numbers = torch.arange(target.shape.numel(), device=target.device)
            for places in torch.split(numbers, max(1, AT_ONCE // (count * widest))):
                yield {parent: rows[None] for parent, rows in elements(target, places)}
            return
        channels, grid = target.shape[1], target.shape[2] * target.shape[3]
        of_windows = [node.shape[1] * window.size[0] * window.size[1] for node, window in windows.items()]
        identity = torch.eye(channels, device=target.device).view(1, 1, channels, channels, 1, 1)
        for rows in torch.split(identity, max(1, AT_ONCE // (count * grid * max(of_windows))), 2):
            yield {target: rows.expand(-1, grid, -1, -1, -1, -1)}

    def _pull(
        self, waiting: dict[Node, Tensor], windows: Mapping[Node, Window], relaxations: Mapping[Node, Relaxation]
    ) -> Part:
        """Pull coefficients of values back to the image through chords."""
        least: Tensor | float = 0.0
        most: Tensor | float = 0.0
        for node in reversed(self.graph.nodes[1:]):
            if node not in waiting:
                continue
            rows = waiting.pop(node)
            if node in relaxations:
                parent, window = node.parents[0][1], windows.get(node)
                before = self._natural(node, window)
                if window is not None and before is None:
                    rows, window = window.spread(rows), None
                found, low, high = relaxations[node].parallel(rows, window, before)
                least, most = least + low, most + high
                self._add(waiting, parent, found, before, windows)
            else:
                self._pull_windows(node, rows, windows, waiting)
        window, rows = windows.get(self.start), waiting[self.start]
        rows = rows.flatten(2) if window is None else rows
        nothing = rows.new_zeros(1, rows.shape[1] if window is None else rows.shape[1] * rows.shape[2])
        return Part(rows, least + nothing, most + nothing, window)

    def _natural(self, node: Node, window: Window | None) -> Window | None:
        """Return the windows of an operation's input, None for whole images."""
        if window is None:
            return None
        return window if isinstance(self.prepared.get(node), Curve) else window.before(node)

    def _add(
        self,
        waiting: dict[Node, Tensor],
        node: Node,
        rows: Tensor,
        window: Window | None,
        windows: Mapping[Node, Window],
    ) -> None:
        """Add coefficients of a value to those that it has, in the windows that are planned for it."""
        add_rows(waiting, node, rows if window is None else window.fit(rows, windows.get(node)))

    def _pull_windows(
        self, node: Node, rows: Tensor, windows: Mapping[Node, Window], waiting: dict[Node, Tensor]
    ) -> None:
        """Pull the rows of a linear operation's result back to what it is computed from, in windows where there are any."""
        window = windows.get(node)
        before = self._natural(node, window)
        if window is None:
            self.pull_linear(node, rows, waiting)
        elif before is None:
            self.pull_linear(node, window.spread(rows), waiting)
        elif node.call.name in DIAGONAL:
            ones = torch.ones(1, 1, *node.shape, dtype=rows.dtype, device=rows.device)
            factors: dict[Node, Tensor] = {}
            self.pull_linear(node, ones, factors)
            for parent, factor in factors.items():
                product = rows * window.gather(factor[0])[:, :, None] if bool((factor != 1).any()) else rows
                self._add(waiting, parent, product, before, windows)
        else:
            ((_, parent),) = node.parents
            found = self._pull_convolution(node, rows, before)
            self._add(waiting, parent, before.cut(found), before, windows)

    def _pull_convolution(self, node: Node, rows: Tensor, before: Window) -> Tensor:
        """Pull windows back through a convolution or an average."""
        key = (node, rows.dtype, *rows.shape[-2:])
        if key not in self._window_transposes:
            self._window_transposes[key] = transpose_windows(node, rows.dtype, rows.shape[3:])
        found = self._window_transposes[key](rows.flatten(0, 2))
        return found.view(*rows.shape[:3], found.shape[1], *before.size)

    def lower_bound(
        self, rows: Tensor, region: Region, lower: Callable[[Node, Tensor], tuple[Tensor, Tensor]], halvings: int = 0
    ) -> Tensor:
        """Bound the change of functions of the logits from below.

        Args:
            rows: Coefficients of the logits, shape (batch, rows, 1, classes).
            region: The region around each image.
            lower: Bounds rows of a nonlinear operation's result from below: coefficients of its input, and constants.
            halvings: Steps of the search in the region.

        Returns:
            Shape (batch, rows).
        """
        waiting, constant = {self.end: rows}, rows.new_zeros(())
        for node in reversed(self.graph.nodes[1:]):
            if node not in waiting:
                continue
            behind = waiting.pop(node)
            if node in self.prepared:
                before, offset = lower(node, behind)
                constant = constant + offset
                add_rows(waiting, node.parents[0][1], before)
            else:
                self.pull_linear(node, behind, waiting)
        return region.least(waiting[self.start].flatten(2), halvings) + constant

    def pull_linear(self, node: Node, rows: Tensor, waiting: dict[Node, Tensor], absolute: bool = False) -> None:
        """Pull the rows of a linear operation's result back to what it is computed from.

        Args:
            node: The value that it computes.
            rows: Its coefficients, shape (batch, rows, ...).
            waiting: Coefficients of other values, to which the result is added.
            absolute: Take the absolute value of each entry of the operation's matrix.
        """
        key = (node, rows.dtype, absolute)
        if key not in self._transposes:
            self._transposes[key] = transpose(node, rows.dtype, absolute)
        back: Transpose = self._transposes[key]
        for parent, found in zip(parents_of(node), back(rows.flatten(0, 1)), strict=True):
            add_rows(waiting, parent, found.view(*rows.shape[:2], *parent.shape))


def add_rows(waiting: dict[Node, Tensor], node: Node, rows: Tensor) -> None:
    """Add coefficients of a value to those that it has.

    Args:
        waiting: Coefficients by value.
        node: The value.
        rows: The coefficients.
    """
    waiting[node] = waiting[node] + rows if node in waiting else rows
