# Some steps do not need every argument.
# ruff: noqa: ARG002
"""The step of any function of each example by automatic differentiation of this one function."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowcurve.analysis.calculus import pullback
from lowcurve.analysis.replay.curved_steps import CurvedStep
from lowcurve.analysis.replay.stacking import unstack


class _Graph(NamedTuple):
    """f(a) and its adjoint J^T g, with the leaves a and g."""

    leaves: list[Tensor]
    result: Tensor
    g: Tensor
    adjoints: list[Tensor]


@dataclass
class Differentiated(CurvedStep):
    """t -> J t for a function f without a closed form here, as the derivative of J^T g in g.

    The derivative of J^T g in the inputs, applied to t, is what second derivatives add.

    Cost: about two backward passes of the function for `push`, and three for `pull`, once for each vector.

    Attributes:
        function: f, of the inputs and then the constants, with the batch axis first in all.
        inputs: The recorded inputs.
        constants: Constants with one entry per example.
        g: The loss's derivative at the result, which `receive` takes.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...] = ()
    g: Tensor | None = None

    @cached_property
    def curved(self) -> bool:
        """Whether J^T g depends on the inputs."""
        if self.g is None:
            return False
        graph = self._graph
        found = (
            pullback(a, leaf, _unlike_anything(a), retain_graph=True) for a in graph.adjoints for leaf in graph.leaves
        )
        return any(bool(one.any()) for one in found)

    def receive(self, g: Tensor) -> None:
        """Keep g.

        Args:
            g: The derivative, of the result's shape.
        """
        self.g = g

    @cached_property
    def _graph(self) -> _Graph:
        """Built at the first product, since the derivative at the result comes last."""
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in self.inputs]
            result = self.function(*(leaf.view_as(leaf) for leaf in leaves), *self.constants)
            g = (torch.zeros_like(result) if self.g is None else self.g).detach().requires_grad_()
            adjoints = [pullback(result, leaf, g, create_graph=True) for leaf in leaves]
        return _Graph(leaves, result, g, adjoints)

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return J t."""
        graph = self._graph
        vectors = list(zip(*(unstack(t, len(a)) for t, a in zip(tangents, self.inputs, strict=True)), strict=True))
        found = [
            sum(pullback(a, graph.g, t, retain_graph=True) for a, t in zip(graph.adjoints, ts, strict=True))
            for ts in vectors
        ]
        return torch.cat(found), vectors if second_order and self.curved else [()] * len(vectors)  # type: ignore[arg-type]

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return J^T g, plus the derivative of the recorded adjoint along t."""
        graph = self._graph
        parts = [
            [
                pullback(graph.result, leaf, h, retain_graph=True)
                + sum(pullback(a, leaf, t, retain_graph=True) for a, t in zip(graph.adjoints, ts, strict=False))
                for leaf in graph.leaves
            ]
            for h, ts in zip(unstack(g, len(graph.result)), saved, strict=True)
        ]
        return tuple(torch.cat(vectors) for vectors in zip(*parts, strict=True))

    def take(self, rows: Tensor) -> "Differentiated":
        """Return the step of some examples."""
        inputs, constants = (tuple(t[rows] for t in several) for several in (self.inputs, self.constants))
        return Differentiated(self.function, inputs, constants, None if self.g is None else self.g[rows])


def _unlike_anything(like: Tensor) -> Tensor:
    """Return a vector that no function's derivative is orthogonal to by its form, as it may be to constants."""
    return torch.arange(like.numel(), dtype=like.dtype, device=like.device).cos().view(like.shape)
