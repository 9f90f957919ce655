"""Replaying a function on tangents: the steps of a recorded pass and, made of them, products with Jacobian and Hessian.

A function made of linear maps and elementwise nonlinearities is, at one point, a linear program: each nonlinearity sigma
multiplies by its slope sigma'(a), which is known once the point is. J v is that program applied to v. H v, the change of
the gradient along v, is its adjoint applied to the change of the loss's derivative, in which each nonlinearity adds what
the change of its slope gives: sigma'(a) g' + (sigma''(a) g) a', with g the loss's derivative at its result and ' along v.
Both passes are made of the network's own convolutions, no nonlinearity is evaluated again, and so a product costs less
than a gradient.

Reference: Pearlmutter 1994 (the R-operator).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.replay.steps import Pass, Scaled, Step, Weighted

Line = tuple[int, Pass, tuple[int, ...]]
"""The slot of the result, the step, the slots that it reads; slot 0 is the input."""


@dataclass(frozen=True)
class Program:
    """The steps of a function at a point, and the shape of one example's value in each slot.

    Called with tangents at the input it gives those at the result: v -> J v.
    """

    steps: tuple[tuple[int, Step, tuple[int, ...]], ...]
    shapes: Mapping[int, torch.Size]

    def __call__(self, v: Tensor) -> Tensor:
        """J v."""
        return along(self.steps, v, bent=False).change

    @property
    def curved(self) -> bool:
        """Whether any slope changes; without one the function is piecewise linear."""
        return any(getattr(step, "bend", None) is not None for _, step, _ in self.steps)

    def take(self, rows: Tensor) -> "Program":
        """The program of these examples alone."""
        return replace(self, steps=tuple((slot, step.take(rows), inputs) for slot, step, inputs in self.steps))


@dataclass
class Along:
    """A pass along tangents v. change: J v."""

    steps: Sequence[Line]
    change: Tensor
    kept: list[Any]

    @torch.no_grad()
    def back(self, seed: Tensor) -> Tensor:
        """J^T seed, with the bends along v if they were asked for. Once: the pass is used up."""
        adjoints, own = {self.steps[-1][0] if self.steps else 0: seed}, set[int]()
        for slot, step, inputs in reversed(self.steps):
            g = adjoints.pop(slot)
            for i, part in zip(inputs, step.pull(g, self.kept.pop(), slot in own), strict=True):
                there = adjoints.get(i)
                if there is None:
                    adjoints[i] = part
                elif i in own:
                    there.add_(part)
                else:
                    adjoints[i] = part.add_(there) if step.returns else there + part
                if step.returns or there is not None:
                    own.add(i)
        return adjoints[0]


@torch.no_grad()
def along(steps: Sequence[Line], v: Tensor, *, bent: bool) -> Along:
    """J v and the way back, step by step; `bent`: the way back adds what second derivatives do.

    Memory that no later step reads is written over.
    """
    last = {i: place for place, (_, _, inputs) in enumerate(steps) for i in inputs}
    values, own, kept = {0: v}, set[int](), []
    for place, (slot, step, inputs) in enumerate(steps):
        spare = tuple(i in own and last[i] == place for i in inputs)
        values[slot], known = step.push(tuple(values[i] for i in inputs), spare, bent)
        kept.append(known)
        own.difference_update(inputs)  # the step may hold on to them, or have made a view of them
        if step.makes:
            own.add(slot)
        for i in {i for i in inputs if last[i] == place}:
            del values[i]
    return Along(steps, values[steps[-1][0] if steps else 0], kept)


def program(
    steps: Sequence[tuple[int, Step, tuple[int, ...]]], shapes: Mapping[int, torch.Size], result: int
) -> Program:
    """The steps that lead to the result, each factor for whole channels made part of the weights before it."""
    readers = Counter(i for _, _, inputs in steps for i in inputs)
    made: dict[int, tuple[Step, tuple[int, ...]]] = {}
    for slot, step, inputs in steps:
        made[slot] = (step, inputs)
        before = made.get(inputs[0])
        if isinstance(step, Scaled) and before and isinstance(before[0], Weighted) and readers[inputs[0]] == 1:
            folded = before[0].scaled(step.factor)
            made[slot] = (folded, before[1]) if folded is not None else made[slot]
    needed = {result}
    for slot in sorted(made, reverse=True):
        if slot in needed:
            needed.update(made[slot][1])
    return Program(tuple((slot, *made[slot]) for slot in sorted(made) if slot in needed), shapes)
