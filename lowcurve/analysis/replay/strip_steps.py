"""What recorded calls do to tangents in some rows of their maps: the steps of `strips`.

`push` has and gives the rows that the tangents reach; `pull` the rows from the first of these on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.calculus import pullback
from lowcurve.analysis.replay.rows import each, times
from lowcurve.analysis.replay.steps import Elementwise, Indexed, Pass, Weighted


@dataclass(frozen=True)
class Rows:
    """Of a map of `height` rows those that the tangents reach, from `first` to before `end`; back go all from `first` on."""

    first: int
    end: int
    height: int

    @property
    def whole(self) -> bool:
        return self.first == 0 and self.end == self.height

    def part(self, values: Tensor) -> Tensor:
        """Its rows of what has an axis of them, in front of the last."""
        return values[..., self.first : self.end, :]

    def below(self, values: Tensor) -> Tensor:
        """Those of the way back."""
        return values[..., self.first :, :]


@dataclass
class WholeMaps:
    """A step that sees whole maps: zeros above and below the strip, and of its adjoint the rows from the first on."""

    step: Pass
    rows: tuple[Rows | None, ...]
    makes: ClassVar[bool] = False
    returns: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:
        whole = tuple(
            t if r is None else F.pad(t, (0, 0, r.first, r.height - r.end))
            for t, r in zip(tangents, self.rows, strict=True)
        )
        return self.step.push(whole, (False,) * len(spare), bent)

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        parts = self.step.pull(g, kept, spare=False)
        return tuple(g if r is None else r.below(g) for g, r in zip(parts, self.rows, strict=True))


@dataclass
class ConvolvedRows:
    """A convolution of some rows."""

    step: Weighted
    rows: Rows
    to: Rows
    width: int
    """Of the input."""
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        stride, padding, dilation = (self.step.geometry[name] for name in ("stride", "padding", "dilation"))
        reach = dilation[0] * (self.step.weight.shape[2] - 1)
        last = (self.to.end - 1) * stride[0] - padding[0] + reach
        t = _padded(tangents[0], self._above(), last + 1 - self.rows.end)
        geometry = {**self.step.geometry, "padding": (0, padding[1])}
        return self.step.func(t, self.step.weight, None, **geometry), None

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        stride, padding, dilation = (self.step.geometry[name] for name in ("stride", "padding", "dilation"))
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, self.step.weight.shape[2:], strict=True)]
        # The transposed convolution gives so many rows above and below the wanted ones; it leaves away as many at both ends.
        above, below = self._above(), (self.to.height - 1) * stride[0] - padding[0] + spans[0] - self.rows.height
        both = max(min(above, below), 0)
        beyond = max(-below, 0), self.width - ((g.shape[3] - 1) * stride[1] - 2 * padding[1] + spans[1])
        result = F.conv_transpose2d(
            g, self.step.weight, None, stride, (both, padding[1]), beyond, self.step.geometry["groups"], dilation
        )
        return (_padded(result, both - above, both - max(below, 0)),)

    def _above(self) -> int:
        """How far the window of the first row reached begins above the rows."""
        return int(
            self.rows.first - (self.to.first * self.step.geometry["stride"][0] - self.step.geometry["padding"][0])
        )


@dataclass
class BentRows:
    """A nonlinearity: as it is in the rows that are reached, and its slope in all those of the way back."""

    reached: Elementwise
    below: Tensor
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:
        return self.reached.push(tangents, spare, bent)

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:
        result, bend = times(g, self.below, over=spare), self.reached.bend
        if kept is not None and bend is not None:
            each(result, len(bend))[..., : kept.shape[2], :].addcmul_(each(kept, len(bend)), bend)
        return (result,)


@dataclass
class SummedRows:
    """A sum of maps that are reached in different rows."""

    signs: tuple[float, float]
    rows: tuple[Rows, Rows]
    to: Rows
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        # The one that reaches farther is added to.
        one = max((0, 1), key=lambda i: self.rows[i].end - self.rows[i].first)
        r, total = self.rows[one], tangents[one]
        if not (spare[one] and self.signs[one] == 1):
            total = self.signs[one] * total
        if (r.first, r.end) != (self.to.first, self.to.end):
            total = _padded(total, r.first - self.to.first, self.to.end - r.end)
        other = self.rows[1 - one]
        there = total[:, :, other.first - self.to.first : other.end - self.to.first]
        there.add_(tangents[1 - one], alpha=self.signs[1 - one])
        return total, None

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        return tuple(
            (g if sign == 1 else sign * g)[:, :, r.first - self.to.first :]
            for sign, r in zip(self.signs, self.rows, strict=True)
        )


@dataclass
class ChosenRows:
    """Every so many rows."""

    step: Indexed
    begin: int
    """The first of them among those that are held."""
    stride: int
    count: int
    """Of those that are reached."""
    rows: Rows
    makes: ClassVar[bool] = False
    returns: ClassVar[bool] = True

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        return tangents[0][self._index()][:, :, : self.count], None

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        channels, height, width = self.step.shape
        shape = len(g), channels, height - self.rows.first, width
        everywhere = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=self.step.form).zero_()
        everywhere[self._index()][:, :, : g.shape[2]] = g
        return (everywhere,)

    def _index(self) -> tuple[Any, ...]:
        _, channels, _, columns = self.step.index
        return slice(None), channels, slice(self.begin, None, self.stride), columns


@dataclass
class PooledRows:
    """The entries at stored places, shape (batch, channels, rows, width), counted from the first row that is held."""

    places: Tensor
    shape: torch.Size
    """Of one example's input."""
    rows: Rows
    to: Rows
    makes: ClassVar[bool] = True
    returns: ClassVar[bool] = True

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        flat, places = each(tangents[0].flatten(2), len(self.places)), self.to.part(self.places)
        held = (places >= 0) & (places < flat.shape[-1])
        inside = torch.where(held, places, 0).flatten(2).expand(len(flat), -1, -1, -1)
        found = flat.gather(-1, inside).unflatten(-1, places.shape[2:])  # type: ignore[no-untyped-call]
        return (found * held).flatten(0, 1), None

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        places, values = self.to.below(self.places), each(g, len(self.places))
        held = places >= 0
        channels, height, width = self.shape
        everywhere = g.new_zeros(*values.shape[:2], channels, (height - self.rows.first) * width)
        inside = torch.where(held, places, 0).flatten(2).expand(len(values), -1, -1, -1)
        everywhere.scatter_add_(-1, inside, (values * held).flatten(3))
        return (everywhere.view(len(g), channels, -1, width),)


@dataclass
class RowByRow:
    """A map of each row by itself; shape: of one example's input."""

    function: Callable[[Tensor], Tensor]
    shape: torch.Size
    makes: ClassVar[bool] = False
    returns: ClassVar[bool] = False

    def push(self, tangents: tuple[Tensor, ...], spare: tuple[bool, ...], bent: bool) -> tuple[Tensor, Any]:  # noqa: ARG002
        return self.function(tangents[0]), None

    def pull(self, g: Tensor, kept: Any, spare: bool) -> tuple[Tensor, ...]:  # noqa: ARG002
        leaf = g.new_zeros(()).expand(len(g), self.shape[0], g.shape[2], self.shape[2]).requires_grad_()
        with torch.enable_grad():
            result = self.function(leaf)
        return (pullback(result, leaf, g),)


def _padded(t: Tensor, above: int, below: int) -> Tensor:
    """With so many rows of zeros; fewer rows where a number is negative."""
    if above <= 0 and below <= 0:
        return t[:, :, -above : t.shape[2] + below]
    return F.pad(t, (0, 0, above, below))
