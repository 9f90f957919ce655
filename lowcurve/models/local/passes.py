"""Passes back through a recorded network: coefficients of a value become coefficients of the image's change, and errors."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lowcurve.models.jacobians.graph import InputGraph, Node
from lowcurve.models.local.curves import Curve
from lowcurve.models.local.linear import Transpose, elements, multiplications, parents_of, transpose
from lowcurve.models.local.pooling import Windows
from lowcurve.models.local.regions import Part, Region
from lowcurve.models.local.relaxation import Relaxation

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
    """

    def __init__(self, graph: InputGraph, prepared: Mapping[Node, Curve | Windows]) -> None:
        self.graph, self.prepared = graph, prepared
        self.start, self.end = graph.nodes[0], graph.nodes[-1]
        pulled = [node for node in prepared if not self.follows_nonlinearity(node)]
        self.inputs = tuple(dict.fromkeys(node.parents[0][1] for node in pulled))
        self._transposes: dict[tuple[Node, torch.dtype, bool], Transpose] = {}
        self._begun: dict[Node, tuple[int, list[dict[Node, Tensor]]]] = {}

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
        total = sum(node.shape.numel() * sum(map(multiplications, behind[node])) for node in self.inputs)
        return total + 4 * self.end.shape.numel() * sum(map(multiplications, before[self.end]))

    def linear_parts(self, target: Node, relaxations: Mapping[Node, Relaxation], region: Region) -> Iterator[Part]:
        """Write the change of each element of a value as a linear function of the image's change and an error, in parts.

        Args:
            target: The value.
            relaxations: Bounds of the nonlinear operations before it.
            region: The region around each image.
        """
        count = len(region.x)
        for begun in self._begin(target, count):
            yield self._pull({node: rows.expand(count, *rows.shape[1:]) for node, rows in begun.items()}, relaxations)

    def _begin(self, target: Node, count: int) -> Iterator[dict[Node, Tensor]]:
        """Pull the elements of a value back to the nonlinearities before it, which is the same for all images.

        Yields:
            For some elements at a time, their coefficients in the results of nonlinearities, with a batch of one.
        """
        if target in self._begun and self._begun[target][0] >= count:
            yield from self._begun[target][1]
            return
        size, widest = target.shape.numel(), max(node.shape.numel() for node in self.graph.nodes)
        step = max(1, AT_ONCE // (count * widest))
        kept: list[dict[Node, Tensor]] | None = []
        for first in range(0, size, step):
            places = torch.arange(first, min(first + step, size), device=target.device)
            waiting = {parent: rows[None] for parent, rows in elements(target, places)}
            for node in reversed(self.graph.nodes[1:]):
                if node in waiting and node not in self.prepared:
                    self.pull_linear(node, waiting.pop(node), waiting)
            yield waiting
            if kept is not None:
                kept.append(waiting)
                if sum(rows.numel() for part in kept for rows in part.values()) > KEPT:
                    kept = None
        if kept is not None:
            self._begun[target] = (count, kept)

    def _pull(self, waiting: dict[Node, Tensor], relaxations: Mapping[Node, Relaxation]) -> Part:
        """Pull coefficients of values back to the image through chords."""
        rows = next(iter(waiting.values()))
        least = most = rows.new_zeros(rows.shape[:2])
        for node in reversed(self.graph.nodes[1:]):
            if node not in waiting:
                continue
            rows = waiting.pop(node)
            if node in relaxations:
                before, low, high = relaxations[node].parallel(rows)
                least, most = least + low, most + high
                add_rows(waiting, node.parents[0][1], before)
            else:
                self.pull_linear(node, rows, waiting)
        return waiting[self.start].flatten(2), least, most

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
