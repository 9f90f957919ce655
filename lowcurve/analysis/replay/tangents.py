"""Programs on tangents: the steps of a recorded pass, and products with Jacobian and Hessian that are made of them.

A function is, at one point, a linear program on tangents: each step that is not linear multiplies by its Jacobian, which is
known at the point. For an elementwise nonlinearity sigma this is sigma'(a). J v is that program applied to v. H v, the
derivative of the gradient along v, is its adjoint applied to the derivative of the loss's gradient in the logits. In it
sigma gives sigma'(a) g' + (sigma''(a) g) a', where g is the loss's derivative at its result and ' is the derivative along
v. `curved_steps` has the same for other functions. For convolutions and elementwise nonlinearities both passes evaluate
only the network's own convolutions, so a product costs less than a gradient.

Reference: Pearlmutter 1994 (the R-operator).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.replay.curved_steps import CurvedStep
from lowcurve.analysis.replay.steps import Identity, Scale, Slice, Step, WeightLayer

Instruction = tuple[int, Step, tuple[int, ...]]
"""The slot of the result, the step, and the slots of its inputs. Slot 0 is the function's input."""


@dataclass(frozen=True)
class Program:
    """The steps of a function at a point: a map of tangents at the input to tangents at the result, v -> J v.

    Attributes:
        instructions: The steps in their order.
        inner: The number of rows of one example in each slot.
        description: A hash of all calls and their arguments, equal for programs that differ in their numbers only.
    """

    instructions: tuple[Instruction, ...]
    inner: Mapping[int, int]
    description: int

    def __call__(self, v: Tensor) -> Tensor:
        """Return J v.

        Args:
            v: One or several vectors per example, shape (vectors * batch, ...).
        """
        return push_tangents(self.instructions, v, second_order=False).tangent

    @property
    def curved(self) -> bool:
        """False for a piecewise linear function, whose second derivatives are all zero."""
        steps = (step for _, step, _ in self.instructions)
        return any(isinstance(step, CurvedStep) and step.curved for step in steps)

    def take(self, rows: Tensor) -> "Program":
        """Return the program for some of the examples.

        Args:
            rows: Indices of the examples.
        """
        within = {
            n: (rows[:, None] * n + torch.arange(n, device=rows.device)).flatten() for n in {*self.inner.values()}
        }
        taken = tuple((slot, step.take(within[self.inner[slot]]), inputs) for slot, step, inputs in self.instructions)
        return replace(self, instructions=taken)


@dataclass
class TangentPass:
    """A forward pass of tangents v.

    Attributes:
        instructions: The steps in their order.
        tangent: The result J v.
        saved: For each step, what its `pull` needs.
    """

    instructions: Sequence[Instruction]
    tangent: Tensor
    saved: list[Any]

    @torch.no_grad()
    def pull_back(self, adjoint: Tensor) -> Tensor:
        """Return J^T times an adjoint, plus the terms of second derivatives along v if the pass has `second_order`.

        Frees the pass, so it can be called once.

        Args:
            adjoint: An adjoint of the result.
        """
        adjoints = {self.instructions[-1][0] if self.instructions else 0: adjoint}
        writable = set[int]()
        for slot, step, inputs in reversed(self.instructions):
            g = adjoints.pop(slot)
            if isinstance(step, Slice) and inputs[0] in writable:
                self.saved.pop()
                step.add(g, adjoints[inputs[0]])
                continue
            for i, part in zip(inputs, step.pull(g, self.saved.pop(), slot in writable), strict=True):
                known = adjoints.get(i)
                if known is None:
                    adjoints[i] = part
                elif i in writable:
                    known.add_(part)
                else:
                    adjoints[i] = part.add_(known) if step.pull_allocates else known + part
                if step.pull_allocates or known is not None:
                    writable.add(i)
        return adjoints[0]


@torch.no_grad()
def push_tangents(instructions: Sequence[Instruction], v: Tensor, *, second_order: bool) -> TangentPass:
    """Compute J v step by step. Overwrites memory that no later step reads.

    Args:
        instructions: The steps in their order.
        v: One or several vectors per example, shape (vectors * batch, ...).
        second_order: Prepare the terms of second derivatives for `TangentPass.pull_back`.
    """
    last_read = {i: position for position, (_, _, inputs) in enumerate(instructions) for i in inputs}
    values, writable, saved = {0: v}, set[int](), []
    for position, (slot, step, inputs) in enumerate(instructions):
        free = tuple(i in writable and last_read[i] == position for i in inputs)
        values[slot], kept = step.push(tuple(values[i] for i in inputs), free, second_order)
        saved.append(kept)
        writable.difference_update(inputs)  # the step may have stored them or returned a view of them
        if step.push_allocates:
            writable.add(slot)
        for i in {i for i in inputs if last_read[i] == position}:
            del values[i]
    return TangentPass(instructions, values[instructions[-1][0] if instructions else 0], saved)


def build_program(
    instructions: Sequence[Instruction], inner: Mapping[int, int], result: int, description: Hashable
) -> Program:
    """Keep the steps that lead to the result, and fold factors of whole channels into the weights around them.

    Args:
        instructions: All recorded steps in their order.
        inner: The number of rows of one example in each slot.
        result: The slot of the result.
        description: All calls and their arguments.
    """
    same: dict[int, int] = {}
    steps: dict[int, tuple[Step, tuple[int, ...]]] = {}
    for slot, step, inputs in instructions:
        inputs = tuple(same.get(i, i) for i in inputs)
        if isinstance(step, Identity):
            same[slot] = inputs[0]
        else:
            steps[slot] = (step, inputs)
    result = same.get(result, result)
    _fold(steps, result)
    needed = {result}
    for slot in sorted(steps, reverse=True):
        if slot in needed:
            needed.update(steps[slot][1])
    kept = tuple((slot, *steps[slot]) for slot in sorted(steps) if slot in needed)
    return Program(kept, inner, hash((description, result)))


def _fold(steps: dict[int, tuple[Step, tuple[int, ...]]], result: int) -> None:
    """Fold each factor into the weights of the layer before it, or of all the layers that read its result."""
    readers: dict[int, list[int]] = {}
    for slot, (_, inputs) in steps.items():
        for i in inputs:
            readers.setdefault(i, []).append(slot)
    for slot in sorted(steps):
        step, inputs = steps[slot]
        if not isinstance(step, Scale):
            continue
        before, sources = steps.get(inputs[0], (None, ()))
        if isinstance(before, WeightLayer) and len(readers[inputs[0]]) == 1:
            scaled = before.scale_channels(step.factor)
            if scaled is not None:
                steps[slot] = (scaled, sources)
                continue
        after = {k: steps[k][0] for k in readers.get(slot, ())}
        layers = {k: one.scale_entries(step.factor) for k, one in after.items() if isinstance(one, WeightLayer)}
        if slot != result and after and len(layers) == len(after) and None not in layers.values():
            steps.update({k: (one, inputs) for k, one in layers.items() if one is not None})
            readers[inputs[0]] += [*layers]
