"""What one recorded call does to tangents, and its adjoint.

A step is linear: `push` leads tangents of its inputs to that of its result, `pull` leads an adjoint of the result back. A
nonlinearity multiplies by its slope sigma'(a) in both; where second derivatives are asked for (`bent`), its `pull` adds what
the change of its slope along the tangent gives, (sigma''(a) g) a', with g the loss's derivative at its result.

A step takes any number of rows for each example. Memory that nobody else sees is written over: a new tensor of this size
costs as much as the arithmetic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.calculus import pullback
from lowcurve.analysis.replay.rows import each, taken, times


class Pass(Protocol):
    """What a call does to tangents."""

    makes: ClassVar[bool]
    """Whether the result of `push` is memory of its own."""
    returns: ClassVar[bool]
    """Whether the results of `pull` are."""

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:
        """The result's tangent, and what `pull` has to know. spare: which tangents may be written over."""
        ...

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:
        """The adjoint of each input. spare: whether g may be written over."""
        ...


class Step(Pass, Protocol):
    """The same, for some of its examples, too."""

    def take(self, rows: Tensor) -> "Step":
        """The step of these examples alone."""
        ...


@dataclass
class Same:
    """t -> t."""

    makes: ClassVar[bool] = False
    returns: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        return tangents[0], None

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        return (g,)

    def take(self, rows: Tensor) -> "Same":  # noqa: ARG002
        return self


@dataclass
class Linear:
    """A map that is linear in each of its tangents and the same for every example; its adjoint is left to autograd."""

    function: Callable[..., Tensor]
    row_by_row: bool = False
    """Whether it maps every row of an image by itself."""
    makes: ClassVar[bool] = False
    returns: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        leaves = [t.detach().requires_grad_() for t in tangents]
        with torch.enable_grad():
            result = self.function(*leaves)
        return result.detach(), (result, leaves)

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        result, leaves = kept
        return tuple(pullback(result, leaf, g, retain_graph=True) for leaf in leaves)

    def take(self, rows: Tensor) -> "Linear":  # noqa: ARG002
        return self


@dataclass
class Weighted:
    """A convolution or a linear layer without its bias."""

    func: Callable[..., Tensor]
    weight: Tensor
    geometry: Mapping[str, Any]
    """Of a convolution: stride, padding, dilation, as tuples, and groups."""
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def scaled(self, factor: Tensor | float) -> "Weighted | None":
        """The same with each output channel times its factor; None if the factor is none of channels."""
        alone = isinstance(factor, Tensor) and len(factor) == 1 and factor.numel() == factor.shape[1]
        if not isinstance(factor, Tensor) or not alone:
            return None
        return replace(self, weight=self.weight * factor.view(-1, *[1] * (self.weight.ndim - 1)))

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        return self.func(tangents[0], self.weight, None, **self.geometry), tangents[0].shape

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        if not self.geometry:
            return (g @ self.weight,)
        stride, padding, dilation = (self.geometry[name] for name in ("stride", "padding", "dilation"))
        # What no window reaches at the end of each axis.
        beyond = tuple(
            kept[2 + i] - ((g.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (length - 1) + 1)
            for i, length in enumerate(self.weight.shape[2:])
        )
        back = getattr(F, self.func.__name__.replace("conv", "conv_transpose"))
        return (back(g, self.weight, None, stride, padding, beyond, self.geometry["groups"], dilation),)

    def take(self, rows: Tensor) -> "Weighted":  # noqa: ARG002
        return self


@dataclass
class Sum:
    """s t + s' t' with signs s; broadcast to the result's shape."""

    signs: tuple[float, float]
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        (first, second), (sign, other) = tangents, self.signs
        shapes = first.shape, second.shape
        if spare[0] and first.shape == shapes[1] and sign == 1:
            return first.add_(second, alpha=other), shapes
        if spare[1] and first.shape == shapes[1] and other == 1:
            return second.add_(first, alpha=sign), shapes
        return torch.add(first if sign == 1 else sign * first, second, alpha=other), shapes

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        return tuple(
            (g if sign == 1 else sign * g).sum_to_size(shape) for sign, shape in zip(self.signs, kept, strict=True)
        )

    def take(self, rows: Tensor) -> "Sum":  # noqa: ARG002
        return self


@dataclass
class Indexed:
    """t[:, ...]: slices and places along the axes of each example."""

    index: tuple[Any, ...]
    shape: torch.Size
    """Of one example's input."""
    form: torch.memory_format
    """How the input lies in memory; adjoints that lie otherwise would slow down every convolution below."""
    makes: ClassVar[bool] = False
    returns: ClassVar[bool] = True

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        return tangents[0][self.index], None

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        everywhere = torch.empty(len(g), *self.shape, dtype=g.dtype, device=g.device, memory_format=self.form).zero_()
        everywhere[self.index] = g
        return (everywhere,)

    def take(self, rows: Tensor) -> "Indexed":  # noqa: ARG002
        return self


@dataclass
class Scaled:
    """t -> factor t; a factor with an axis of examples has one for each."""

    factor: Tensor | float
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        return times(tangents[0], self.factor), tangents[0].shape

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        return (times(g, self.factor).sum_to_size(kept),)

    def take(self, rows: Tensor) -> "Scaled":
        return Scaled(taken(self.factor, rows) if isinstance(self.factor, Tensor) else self.factor)


@dataclass
class Masked:
    """The sum of tangents, each under its mask."""

    masks: tuple[Tensor, ...]
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        parts = [times(t, mask) for t, mask in zip(tangents, self.masks, strict=True)]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1], [t.shape for t in tangents]

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        return tuple(times(g, mask).sum_to_size(shape) for mask, shape in zip(self.masks, kept, strict=True))

    def take(self, rows: Tensor) -> "Masked":
        return Masked(tuple(taken(mask, rows) for mask in self.masks))


@dataclass
class Gathered:
    """The entries of each channel at stored places, shape (batch, channels, places): a max-pooling."""

    places: Tensor
    shape: tuple[int, ...]
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        flat = each(tangents[0].flatten(2), len(self.places))
        found = flat.gather(-1, self.places.expand(len(flat), *self.places.shape))
        return found.reshape(-1, *self.shape), tangents[0].shape

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        to = g.new_zeros(kept[0] // len(self.places), len(self.places), kept[1], kept[2:].numel())
        values = g.reshape(len(to), *self.places.shape)
        return (to.scatter_add_(-1, self.places.expand_as(values), values).view(kept),)

    def take(self, rows: Tensor) -> "Gathered":
        return Gathered(self.places[rows], self.shape)


@dataclass
class Elementwise:
    """t -> sigma'(a) t, whose adjoint adds (sigma''(a) g) a' once g is known.

    slope: sigma'(a). second: gives sigma''(a), once the pass that is recorded no longer takes up memory; None where it is zero
    everywhere. `receive` makes the bend sigma''(a) g of it.
    """

    slope: Tensor
    second: Callable[[], Tensor] | None
    bend: Tensor | None = None
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def receive(self, g: Tensor) -> None:
        """The loss's derivative at the result, as a hook of autograd gets it."""
        if self.second is not None:
            self.bend, self.second = self.second() * g, None

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:
        kept = tangents[0] if bent and self.bend is not None else None
        return times(tangents[0], self.slope, over=spare[0] and kept is None), kept

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:
        result = times(g, self.slope, over=spare)
        if kept is not None:
            assert self.bend is not None
            each(result, len(self.bend)).addcmul_(each(kept, len(self.bend)), self.bend)
        return (result,)

    def take(self, rows: Tensor) -> "Elementwise":
        return Elementwise(taken(self.slope, rows), None, None if self.bend is None else taken(self.bend, rows))


@dataclass
class Product:
    """(s, t) -> b s + a t, the tangent of a b; its adjoint adds g t to the first and g s to the second."""

    a: Tensor
    b: Tensor
    bend: Tensor | None = None
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def receive(self, g: Tensor) -> None:
        """The loss's derivative at the result."""
        self.bend = g

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        s, t = tangents
        return times(s, self.b) + times(t, self.a), (s, t, bent and self.bend is not None)

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        s, t, bent = kept
        to_s, to_t = times(g, self.b), times(g, self.a)
        if bent:
            assert self.bend is not None
            to_s, to_t = to_s + times(t, self.bend), to_t + times(s, self.bend)
        return to_s.sum_to_size(s.shape), to_t.sum_to_size(t.shape)

    def take(self, rows: Tensor) -> "Product":
        return Product(*(None if t is None else taken(t, rows) for t in (self.a, self.b, self.bend)))  # type: ignore[arg-type]
