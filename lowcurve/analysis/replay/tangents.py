"""Replaying a function on tangents: the steps of a recorded pass and, made of them, products with Jacobian and Hessian.

A function made of linear maps and elementwise nonlinearities is, at one point, a linear program: each nonlinearity sigma
multiplies by its slope sigma'(a), which is known once the point is. J v is that program applied to v. H v, the change of
the gradient along v, is its adjoint applied to the change of the loss's derivative, in which each nonlinearity adds what
the change of its slope gives: sigma'(a) g' + (sigma''(a) g) a', with g the loss's derivative at its result and ' along v.
Both passes are made of the network's own convolutions, no nonlinearity is evaluated again, and so a product costs no more
than a gradient.

A step takes any number of rows for each example: row k * batch + i belongs to example i.

Reference: Pearlmutter 1994 (the R-operator).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor


class Step(Protocol):
    """What one call does to tangents; `bent`: with what second derivatives add when it is backpropagated through."""

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor: ...

    def take(self, rows: Tensor) -> "Step":
        """The step of these examples alone."""
        ...


@dataclass
class Linear:
    """A map that is linear in each of its tangents and the same for every example."""

    function: Callable[..., Tensor]

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor:  # noqa: ARG002 (nothing bends here)
        return self.function(*tangents)

    def take(self, rows: Tensor) -> "Linear":  # noqa: ARG002
        return self


@dataclass
class Weighted:
    """A convolution or a linear layer without its bias."""

    func: Callable[..., Tensor]
    weight: Tensor
    others: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def scaled(self, factor: Tensor | float) -> "Weighted | None":
        """The same with each output channel times its factor; None if the factor is none of channels."""
        alone = isinstance(factor, Tensor) and len(factor) == 1 and factor.numel() == factor.shape[1]
        if not isinstance(factor, Tensor) or not alone or "transpose" in self.func.__name__:
            return None
        return replace(self, weight=self.weight * factor.view(-1, *[1] * (self.weight.ndim - 1)))

    def take(self, rows: Tensor) -> "Weighted":  # noqa: ARG002
        return self

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor:  # noqa: ARG002
        return self.func(tangents[0], self.weight, None, *self.others, **self.kwargs)


@dataclass
class Scaled:
    """t -> factor t; a factor with an axis of examples has one for each."""

    factor: Tensor | float

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor:  # noqa: ARG002
        return times(tangents[0], self.factor)

    def take(self, rows: Tensor) -> "Scaled":
        return Scaled(_taken(self.factor, rows) if isinstance(self.factor, Tensor) else self.factor)


@dataclass
class Masked:
    """The sum of tangents, each under its mask."""

    masks: tuple[Tensor, ...]

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor:  # noqa: ARG002
        parts = [times(t, mask) for t, mask in zip(tangents, self.masks, strict=True)]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def take(self, rows: Tensor) -> "Masked":
        return Masked(tuple(_taken(mask, rows) for mask in self.masks))


@dataclass
class Gathered:
    """The entries of each channel at stored places, shape (batch, channels, places): a max-pooling."""

    places: Tensor
    shape: tuple[int, ...]

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor:  # noqa: ARG002
        flat = each(tangents[0].flatten(2), len(self.places))
        return flat.gather(-1, self.places.expand(len(flat), *self.places.shape)).reshape(-1, *self.shape)

    def take(self, rows: Tensor) -> "Gathered":
        return Gathered(self.places[rows], self.shape)


@dataclass
class Elementwise:
    """t -> sigma'(a) t, whose adjoint adds (sigma''(a) g) a' once g is known.

    slope: sigma'(a). second: sigma''(a), or None where it is zero everywhere; `receive` makes the bend sigma''(a) g of it.
    """

    slope: Tensor
    second: Tensor | None
    bend: Tensor | None = None

    def receive(self, g: Tensor) -> None:
        """The loss's derivative at the result, as a hook of autograd gets it."""
        if self.second is not None:
            self.bend, self.second = self.second * g, None

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor:
        bend = self.bend if bent else None
        return _Bent.apply(tangents[0], self.slope, bend)  # type: ignore[no-untyped-call, no-any-return]

    def take(self, rows: Tensor) -> "Elementwise":
        return Elementwise(_taken(self.slope, rows), None, None if self.bend is None else _taken(self.bend, rows))


@dataclass
class Product:
    """(s, t) -> b s + a t, the tangent of a b; its adjoint adds g t to the first and g s to the second."""

    a: Tensor
    b: Tensor
    bend: Tensor | None = None

    def receive(self, g: Tensor) -> None:
        """The loss's derivative at the result."""
        self.bend = g

    def __call__(self, *tangents: Tensor, bent: bool) -> Tensor:
        bend = self.bend if bent else None
        return _BentProduct.apply(*tangents, self.a, self.b, bend)  # type: ignore[no-untyped-call, no-any-return]

    def take(self, rows: Tensor) -> "Product":
        return Product(*(None if t is None else _taken(t, rows) for t in (self.a, self.b, self.bend)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Program:
    """The steps of a function at a point: (slot of the result, step, slots that it reads); slot 0 is the input.

    Called with tangents at the input it gives those at the result: v -> J v.
    """

    steps: tuple[tuple[int, Step, tuple[int, ...]], ...]

    def __call__(self, v: Tensor, *, bent: bool = False) -> Tensor:
        """J v; with `bent`, backpropagation through it adds what second derivatives do."""
        values, result = {0: v}, v
        for (slot, step, inputs), spent in zip(self.steps, self._spent, strict=True):
            values[slot] = result = step(*(values[i] for i in inputs), bent=bent)
            for one in spent:
                del values[one]
        return result

    @property
    def curved(self) -> bool:
        """Whether any slope changes; without one the function is piecewise linear."""
        return any(getattr(step, "bend", None) is not None for _, step, _ in self.steps)

    def take(self, rows: Tensor) -> "Program":
        """The program of these examples alone."""
        return Program(tuple((slot, step.take(rows), inputs) for slot, step, inputs in self.steps))

    @cached_property
    def _spent(self) -> list[list[int]]:
        """For each step the slots that no later one reads."""
        last = {i: place for place, (_, _, inputs) in enumerate(self.steps) for i in inputs}
        return [[i for i, when in last.items() if when == place] for place in range(len(self.steps))]


def program(steps: Sequence[tuple[int, Step, tuple[int, ...]]], result: int) -> Program:
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
    return Program(tuple((slot, *made[slot]) for slot in sorted(made) if slot in needed))


def times(t: Tensor, factor: Tensor | float) -> Tensor:
    """t * factor, each example's factor for all of its rows."""
    if isinstance(factor, Tensor) and _rows_each(t, factor) > 1:
        return (each(t, len(factor)) * factor).flatten(0, 1)
    return t * factor


def each(rows: Tensor, batch: int) -> Tensor:
    """Rows as (vectors, batch, ...), a view."""
    return rows.view(-1, batch, *rows.shape[1:])


def _rows_each(t: Tensor, factor: Tensor) -> int:
    """How many rows of t belong to one of factor's, 1 where plain broadcasting is right."""
    batch = len(factor) if factor.ndim == t.ndim else 1
    return 1 if batch == 1 else len(t) // batch


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """The rows of what has an axis of examples; what is the same for all examples stays."""
    return values if values.ndim == 0 or len(values) == 1 else values[rows]


class _Bent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, slope: Tensor, bend: Tensor | None) -> Tensor:
        ctx.slope, ctx.bend = slope, bend
        if bend is not None:
            ctx.save_for_backward(t)
        return times(t, slope)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        result = times(g, ctx.slope)
        if ctx.bend is not None:
            t, bend = ctx.saved_tensors[0], ctx.bend
            if _rows_each(t, bend) > 1:
                each(result, len(bend)).addcmul_(each(t, len(bend)), bend)
            else:
                result.addcmul_(t, bend)
        return result, None, None


class _BentProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, a: Tensor, b: Tensor, bend: Tensor | None) -> Tensor:
        ctx.a, ctx.b, ctx.bend = a, b, bend
        ctx.save_for_backward(s, t)
        return times(s, b) + times(t, a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        s, t = ctx.saved_tensors
        to_s, to_t = times(g, ctx.b), times(g, ctx.a)
        if ctx.bend is not None:
            to_s, to_t = to_s + times(t, ctx.bend), to_t + times(s, ctx.bend)
        return to_s.sum_to_size(s.shape), to_t.sum_to_size(t.shape), None, None, None
