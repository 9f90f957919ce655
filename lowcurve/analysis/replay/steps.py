# Some steps do not need every argument.
# ruff: noqa: ARG002
"""The action of one recorded call on tangents, and its adjoint.

A step is linear: `push` maps tangents of its inputs to the tangent of its result, and `pull` maps an adjoint of the result
back. The steps here have no second derivatives. Those of `curved_steps` add terms of them in `pull`.

A step takes any number of vectors per example (see `stacking`). It overwrites memory that nothing else reads, because new
memory of this size costs as much time as the arithmetic.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.calculus import pullback
from lowcurve.analysis.replay.stacking import multiply, take_examples, unstack


class Step(ABC):
    """One step of a program on tangents."""

    push_allocates: ClassVar[bool] = True
    """Whether the result of `push` is in new memory, or in that of a writable input."""
    pull_allocates: ClassVar[bool] = True
    """The same for the results of `pull`."""

    @abstractmethod
    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return the result's tangent, and what `pull` needs.

        Args:
            tangents: Tangents of the inputs.
            writable: For each tangent, whether it may be overwritten.
            second_order: Whether `pull` adds the term of second derivatives.
        """

    @abstractmethod
    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return the adjoint of each input.

        Args:
            g: Adjoint of the result.
            saved: The second result of `push`.
            writable: Whether g may be overwritten.
        """

    def take(self, rows: Tensor) -> "Step":
        """Return the step for some of the examples.

        Args:
            rows: Indices of the examples.
        """
        return self


@dataclass
class Identity(Step):
    """t -> t."""

    push_allocates: ClassVar[bool] = False
    pull_allocates: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return t."""
        return tangents[0], None

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return g."""
        return (g,)


@dataclass
class LinearMap(Step):
    """A function that is linear in each of its tangents and the same for every example. Autograd gives its adjoint."""

    function: Callable[..., Tensor]
    push_allocates: ClassVar[bool] = False
    pull_allocates: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return the function of the tangents."""
        leaves = [t.detach().requires_grad_() for t in tangents]
        with torch.enable_grad():
            result = self.function(*leaves)
        return result.detach(), (result, leaves)

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return its vector-Jacobian products."""
        result, leaves = saved
        return tuple(pullback(result, leaf, g, retain_graph=True) for leaf in leaves)


@dataclass
class WeightLayer(Step):
    """A convolution or a linear layer without its bias.

    Attributes:
        func: The torch function.
        weight: Its weight.
        geometry: Stride, padding and dilation, as tuples, and groups of a convolution; empty for a linear layer.
        channel_axis: Axis of the output channels in the result.
    """

    func: Callable[..., Tensor]
    weight: Tensor
    geometry: Mapping[str, Any]
    channel_axis: int

    def scale_channels(self, factor: Tensor | float) -> "WeightLayer | None":
        """Return the layer whose output channels are multiplied by a factor.

        Args:
            factor: One factor per channel, with axes of length 1 around them. For any other, the result is None.
        """
        if not isinstance(factor, Tensor) or len(factor) != 1 or factor.numel() != factor.shape[self.channel_axis]:
            return None
        return replace(self, weight=self.weight * factor.view(-1, *[1] * (self.weight.ndim - 1)))

    def scale_entries(self, factor: Tensor | float) -> "WeightLayer | None":
        """Return the linear layer of an input whose entries are multiplied by a factor first.

        Args:
            factor: One factor per entry of the last axis. For any other, and for a convolution, the result is None.
        """
        if (
            self.geometry
            or not isinstance(factor, Tensor)
            or not factor.numel() == factor.shape[-1] == self.weight.shape[1]
        ):
            return None
        return replace(self, weight=self.weight * factor.flatten())

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return the layer of t."""
        return self.func(tangents[0], self.weight, None, **self.geometry), tangents[0].shape

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return the transposed layer of g."""
        if not self.geometry:
            return (g @ self.weight,)
        stride, padding, dilation = (self.geometry[name] for name in ("stride", "padding", "dilation"))
        # The part of the input at the end of each axis that no window reaches.
        output_padding = tuple(
            saved[2 + i] - ((g.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (length - 1) + 1)
            for i, length in enumerate(self.weight.shape[2:])
        )
        transpose = getattr(F, self.func.__name__.replace("conv", "conv_transpose"))
        groups = self.geometry["groups"]
        return (transpose(g, self.weight, None, stride, padding, output_padding, groups, dilation),)


@dataclass
class Sum(Step):
    """sign_1 t_1 + sign_2 t_2, broadcast to the result's shape."""

    signs: tuple[float, float]
    pull_allocates: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return the signed sum."""
        (first, second), (sign, other) = tangents, self.signs
        shapes = first.shape, second.shape
        if writable[0] and first.shape == shapes[1] and sign == 1:
            return first.add_(second, alpha=other), shapes
        if writable[1] and first.shape == shapes[1] and other == 1:
            return second.add_(first, alpha=sign), shapes
        return torch.add(first if sign == 1 else sign * first, second, alpha=other), shapes

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return g with each sign, summed over broadcast axes."""
        return tuple(
            (g if sign == 1 else sign * g).sum_to_size(shape) for sign, shape in zip(self.signs, saved, strict=True)
        )


@dataclass
class Permute(Step):
    """The axes of t in another order, in which the first stays the first."""

    dims: tuple[int, ...]
    push_allocates: ClassVar[bool] = False
    pull_allocates: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return t with its axes in this order."""
        return tangents[0].permute(self.dims), None

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return g with its axes in their old order."""
        return (g.permute([self.dims.index(axis) for axis in range(g.ndim)]),)


@dataclass
class Reshape(Step):
    """t in another shape, with all entries in their order.

    Attributes:
        before: The batch axis, the shape and the rows of an example before.
        after: The same afterwards.
    """

    before: tuple[int, torch.Size, int]
    after: tuple[int, torch.Size, int]
    push_allocates: ClassVar[bool] = False
    pull_allocates: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return t in the new shape."""
        return self._reshape(tangents[0], self.before, self.after), None

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return g in the old shape."""
        return (self._reshape(g, self.after, self.before),)

    @staticmethod
    def _reshape(t: Tensor, old: tuple[int, torch.Size, int], new: tuple[int, torch.Size, int]) -> Tensor:
        axis, shape, inner = new
        sizes = list(shape)
        sizes[axis] = len(t) // old[2] * inner
        return t.movedim(0, old[0]).reshape(sizes).movedim(axis, 0)


@dataclass
class Slice(Step):
    """t[index] along the axes of each example.

    Attributes:
        index: Slices and integers; the first is the whole batch axis.
        shape: Shape of one example's input.
        order: Axes of the input from the slowest to the fastest in memory. An adjoint in another order would slow down
            every layer before it.
    """

    index: tuple[Any, ...]
    shape: torch.Size
    order: tuple[int, ...]
    push_allocates: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return the slice of t."""
        return tangents[0][self.index], None

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return zeros with g in the slice."""
        adjoint = torch.empty_permuted((len(g), *self.shape), self.order, dtype=g.dtype, device=g.device).zero_()
        adjoint[self.index] = g
        return (adjoint,)

    def add(self, g: Tensor, adjoint: Tensor) -> None:
        """Add g to the slice of an adjoint.

        Args:
            g: Adjoint of the result.
            adjoint: Adjoint of the input, which is overwritten.
        """
        adjoint[self.index] += g


@dataclass
class Scale(Step):
    """t -> factor t. A factor with a batch axis has one entry per example."""

    factor: Tensor | float

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return factor t."""
        return multiply(tangents[0], self.factor), tangents[0].shape

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return factor g, summed over broadcast axes."""
        return (multiply(g, self.factor).sum_to_size(saved),)

    def take(self, rows: Tensor) -> "Scale":
        """Return the step with the factors of some examples."""
        return Scale(take_examples(self.factor, rows) if isinstance(self.factor, Tensor) else self.factor)


@dataclass
class MaskedSum(Step):
    """The sum of one or two tangents, each multiplied by its mask."""

    masks: tuple[Tensor, ...]

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return the sum of the masked tangents."""
        parts = [multiply(t, mask) for t, mask in zip(tangents, self.masks, strict=True)]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1], [t.shape for t in tangents]

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return g times each mask, summed over broadcast axes."""
        return tuple(multiply(g, mask).sum_to_size(shape) for mask, shape in zip(self.masks, saved, strict=True))

    def take(self, rows: Tensor) -> "MaskedSum":
        """Return the step with the masks of some examples."""
        return MaskedSum(tuple(take_examples(mask, rows) for mask in self.masks))


@dataclass
class MaxPool(Step):
    """The entries of each channel at the positions of the maxima.

    Attributes:
        positions: Positions in the flattened map, shape (batch, channels, positions).
        shape: Shape of one example's result.
    """

    positions: Tensor
    shape: tuple[int, ...]

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return the entries of t at the maxima."""
        flat = unstack(tangents[0].flatten(2), len(self.positions))
        found = flat.gather(-1, self.positions.expand(len(flat), *self.positions.shape))
        return found.reshape(-1, *self.shape), tangents[0].shape

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return zeros with g added at the maxima."""
        batch = len(self.positions)
        adjoint = g.new_zeros(saved[0] // batch, batch, saved[1], saved[2:].numel())
        values = g.reshape(len(adjoint), *self.positions.shape)
        return (adjoint.scatter_add_(-1, self.positions.expand_as(values), values).view(saved),)

    def take(self, rows: Tensor) -> "MaxPool":
        """Return the step with the positions of some examples."""
        return MaxPool(self.positions[rows], self.shape)
