"""Norms on the space of inputs, and balls inside the pixel box. A radius is the literature's epsilon.

There is one vector per example: every function flattens all axes but the first.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.analysis import l1
from lowcurve.analysis.box_projection import project_to_ball_and_box, share_inside
from lowcurve.errors import InputError, describe
from lowcurve.types import PerExample

NormName = Literal["l_1", "l_2", "l_inf"]
DUALS: dict[NormName, NormName] = {"l_1": "l_inf", "l_2": "l_2", "l_inf": "l_1"}
EXPONENTS: dict[NormName, float] = {"l_1": 1.0, "l_2": 2.0, "l_inf": math.inf}
SPELLINGS: dict[str, NormName] = {"1": "l_1", "2": "l_2", "inf": "l_inf", "infinity": "l_inf"}
"""The names of the norms without the letter l, underscores, hyphens and blanks."""


def per_example(values: PerExample, like: Tensor) -> Tensor:
    """Shape one number per example, (batch,), so that it multiplies `like`, (batch, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> PerExample:
    """Return the inner product <a_i, b_i> of every example; a and b have the shape (batch, ...).

    Example:
        >>> dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([11.])
    """
    return (a * b).flatten(1).sum(1)


@dataclass(frozen=True)
class Norm:
    """The l_1, l_2 or l_inf norm of each example's vector.

    Args:
        name: "l_1", "l_2" or "l_inf", in any usual spelling, such as "linf".

    Example:
        >>> v = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
        >>> L2.length(v), L1.length(v), LINF.length(v)
        (tensor([5., 0.]), tensor([7., 0.]), tensor([4., 0.]))
        >>> LINF.steepest(v)
        tensor([[ 1., -1.],
                [ 0.,  0.]])
    """

    name: NormName

    def __post_init__(self) -> None:
        spelling = "".join(sign for sign in str(self.name).lower() if sign not in "_- ").removeprefix("l")
        if not isinstance(self.name, str) or spelling not in SPELLINGS:
            raise InputError("one of the norms l_1, l_2, l_inf", describe(self.name), 'write "linf" or "l2"')
        object.__setattr__(self, "name", SPELLINGS[spelling])

    @property
    def dual(self) -> "Norm":
        """The dual norm: <g, v> <= dual.length(g) length(v), with equality for v = steepest(g)."""
        return Norm(DUALS[self.name])

    def length(self, v: Tensor) -> PerExample:
        """Return ||v||, without underflow, and with derivative 0 at v = 0, so that a penalty need not be squared.

        Args:
            v: Shape (batch, ...).
        """
        flat = v.flatten(1)
        if self.name == "l_1":
            return flat.abs().sum(1)
        if self.name == "l_inf":
            return flat.abs().amax(1)
        # Divide by the largest entry first, or the squares of a confident example's gradient underflow.
        scale = flat.detach().abs().amax(1)
        scale = torch.where(scale == 0, 1, scale)  # this comparison keeps NaN
        squares = (flat / scale[:, None]).square().sum(1)
        return scale * torch.where(squares == 0, 1, squares).sqrt() * (squares != 0)

    def of_ones(self, dimensions: int) -> float:
        """Return the norm of a vector of this many ones, the largest of vectors with entries up to 1."""
        return float(dimensions ** (1 / EXPONENTS[self.name]))

    def unit(self, v: Tensor) -> Tensor:
        """Return v / ||v||, and 0 where v = 0. No constant is added to the norm, so small vectors get length 1 too.

        Args:
            v: Shape (batch, ...).
        """
        largest = LINF.length(v)
        scaled = v / per_example(torch.where(largest == 0, 1, largest), v)
        length = self.length(scaled)
        return scaled / per_example(torch.where(length == 0, 1, length), v)

    def steepest(self, g: Tensor) -> Tensor:
        """Return argmax <g, v> over ||v|| <= 1, and 0 where g = 0: sign(g) for l_inf, g / ||g|| for l_2.

        Args:
            g: Gradients, shape (batch, ...).
        """
        if self.name == "l_inf":
            return g.sign()
        if self.name == "l_2":
            return self.unit(g)
        flat = g.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).reshape(g.shape)

    def project(self, v: Tensor, radius: float | PerExample) -> Tensor:
        """Return the nearest point (in l_2) to v of norm at most the radius.

        Args:
            v: Shape (batch, ...).
            radius: One radius for all examples, or one per example.
        """
        if self.name == "l_inf":
            if isinstance(radius, Tensor):
                bound = per_example(radius, v)
                return v.clamp(-bound, bound)
            return v.clamp(-radius, radius)
        if self.name == "l_2":
            return v * per_example(share_inside(self.length(v), radius), v)
        return l1.project(torch.zeros_like(v), v, radius, (-math.inf, math.inf))


L1, L2, LINF = Norm("l_1"), Norm("l_2"), Norm("l_inf")


@dataclass(frozen=True)
class Ball:
    """All inputs within a radius of a center, inside the pixel box.

    Args:
        norm: l_1, l_2 or l_inf, as a `Norm` or by name.
        radius: Radius in pixel units, where pixels lie in [0, 1].
        box: Lowest and highest pixel value.

    Raises:
        InputError: If the radius or the box is wrong.

    Example:
        >>> ball = Ball(LINF, pixels(8))
        >>> ball.project(torch.tensor([[0.5, 1.0]]), torch.tensor([[0.4, 1.0]])).round(decimals=4)
        tensor([[0.4314, 1.0000]])
    """

    norm: Norm
    radius: float
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", as_norm(self.norm))
        is_interval = isinstance(self.box, (tuple, list)) and len(self.box) == 2 and all(map(_is_number, self.box))
        if not is_interval or not self.box[0] < self.box[1]:
            raise InputError("a pixel box (low, high) with low < high", self.box, "write box=(0.0, 1.0)")
        if not (_is_number(self.radius) and math.isfinite(self.radius) and self.radius >= 0):
            raise InputError("a finite radius of at least 0", repr(self.radius), "write radius=8/255, a number")
        if self.norm == LINF and self.radius > (widest := self.widest(1)):
            raise _radius_too_large(self.radius, widest)

    def widest(self, dimensions: int) -> float:
        """Return the largest distance between two points of the box, for inputs with this many entries."""
        return (self.box[1] - self.box[0]) * self.norm.of_ones(dimensions)

    def l2_length(self, dimensions: int) -> float:
        """Return the l_2 length of the longest perturbation, the scale at which curvature matters to an attack.

        Args:
            dimensions: Number of entries of one input.

        Example:
            >>> Ball(LINF, 0.5).l2_length(4), Ball(L2, 0.5).l2_length(4)
            (1.0, 0.5)
        """
        return self.radius * math.sqrt(dimensions) if self.norm == LINF else self.radius

    def project(self, point: Tensor, center: Tensor, radius: PerExample | None = None) -> Tensor:
        """Return the nearest points in the ball around their centers and in the box.

        Args:
            point: Shape (batch, ...).
            center: Centers inside the box, shape (batch, ...).
            radius: One radius per example that replaces the ball's.

        Raises:
            InputError: If the ball's radius exceeds the width of the box in its norm.
        """
        if self.norm != LINF and len(center) and self.radius > (widest := self.widest(center[0].numel())):
            raise _radius_too_large(self.radius, widest)
        limit, offset = self.radius if radius is None else radius, point - center
        if self.norm == LINF:
            return (center + self.norm.project(offset, limit)).clamp(*self.box)
        if self.norm == L1:
            return l1.project(center, offset, limit, self.box)
        limits = torch.as_tensor(limit, device=offset.device).expand(len(center))
        return project_to_ball_and_box(center, offset, share_inside(L2.length(offset), limit), limits, self.box)

    def require_inside_box(self, x: Tensor) -> None:
        """Check that the inputs lie in the box; clipping others would move them by more than the radius.

        Args:
            x: Inputs, shape (batch, ...).

        Raises:
            InputError: If they do not.
        """
        if len(x) and not (float(x.amin()) >= self.box[0] and float(x.amax()) <= self.box[1]):
            found = "NaN" if bool(x.isnan().any()) else f"values from {float(x.amin()):g} to {float(x.amax()):g}"
            raise InputError(
                f"inputs inside the pixel box {self.box}", found, "divide by 255, or give the box to the Ball"
            )

    def sample(self, center: Tensor, streams: randomness.Streams, radius: PerExample | None = None) -> Tensor:
        """Draw one uniform point in the ball around each center, and move it into the box.

        Args:
            center: Shape (batch, ...).
            streams: One random stream per example.
            radius: One radius per example that replaces the ball's.
        """
        length = torch.as_tensor(self.radius).expand(len(center)) if radius is None else radius
        if self.norm == LINF:
            step = streams.uniform(center, -1, 1)
        else:
            draws = streams.at("direction")
            # In l_1, exponential lengths with random signs have a uniform direction.
            sizes = draws.at("size").uniform(center, 0, 1).neg().log1p() if self.norm == L1 else None
            direction = self.norm.unit(draws.normal(center) if sizes is None else draws.signs(center) * sizes)
            share = streams.at("length").uniform(center.flatten(1)[:, 0], 0, 1) ** (1 / center.shape[1:].numel())
            step = direction * per_example(share, center)
        return self.project(center + step * per_example(length.to(center), center), center, radius)

    def radii(self, x: Tensor) -> PerExample:
        """Return the ball's radius, repeated for each example of x, shape (batch,)."""
        return torch.full((len(x),), self.radius, dtype=x.dtype, device=x.device)

    def require_radii(self, radii: PerExample, x: Tensor) -> PerExample:
        """Check one radius per example and return the radii in the precision and on the device of x.

        Args:
            radii: Shape (batch,).
            x: Inputs, shape (batch, ...).

        Raises:
            InputError: If their number is wrong, or one is negative or larger than the pixel range.
        """
        if radii.shape != (len(x),):
            raise InputError(f"radii of shape ({len(x)},)", tuple(radii.shape), "give one radius for each row of x")
        if len(x) and not (bool(torch.isfinite(radii).all()) and float(radii.min()) >= 0):
            raise InputError("finite radii of at least 0", "negative or infinite ones", "write pixels(8) for 8/255")
        if len(x) and float(radii.max()) > (widest := self.widest(x[0].numel())) * (1 + 1e-6):
            raise _radius_too_large(float(radii.max()), widest)
        return radii.to(x)


def as_norm(norm: Norm | str) -> Norm:
    """Return the norm that a user names.

    Args:
        norm: A `Norm`, or its name: "linf", "l_inf", "Linf", "l2", "L2", "l1".

    Raises:
        InputError: If it is neither a norm nor the name of one.

    Example:
        >>> as_norm("linf") == as_norm("L_inf") == LINF, as_norm("l2")
        (True, Norm(name='l_2'))
    """
    return norm if isinstance(norm, Norm) else Norm(norm)  # type: ignore[arg-type]  # Norm checks the name


def as_ball(norm: Norm | str | Ball, radius: float | None = None, box: tuple[float, float] = (0.0, 1.0)) -> Ball:
    """Return the ball that a user describes by a norm and a radius, or gives as a `Ball`.

    Args:
        norm: Norm or its name, or a ball with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a ball.
        box: Lowest and highest pixel value. Leave it out with a ball.

    Raises:
        InputError: If the radius is missing or no number, or is given twice.

    Example:
        >>> as_ball("linf", 0.1) == as_ball(Ball(LINF, 0.1))
        True
    """
    if not isinstance(norm, Ball):
        norm = as_norm(norm)
        if radius is None:
            raise InputError("a radius", "none", f'write ("{norm.name.replace("_", "")}", 8/255)')
        return Ball(norm, radius, box)
    if radius is not None:
        raise InputError("a ball without a radius beside it", f"radius={radius!r}", "leave the radius out")
    if box not in (norm.box, (0.0, 1.0)):
        raise InputError("a ball without a box beside it", f"box={box}", "leave the box out")
    return norm


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def pixels(levels: float) -> float:
    """Convert a length from grey levels (0 to 255) into pixel units.

    Args:
        levels: The length in grey levels.

    Example:
        >>> pixels(51)
        0.2
    """
    return levels / 255


def parse_radius(text: str | float) -> float:
    """Read a radius as it is written on a command line: `8/255`, `0.1` or `pixels:8`.

    Args:
        text: The radius in pixel units, or after `pixels:` in grey levels.

    Raises:
        InputError: If it has another form.

    Example:
        >>> parse_radius("51/255"), parse_radius("pixels:51"), parse_radius("0.2")
        (0.2, 0.2, 0.2)
    """
    written = str(text).strip()
    try:
        if written.startswith("pixels:"):
            return pixels(float(written.removeprefix("pixels:")))
        numerator, _, denominator = written.partition("/")
        return float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError):
        raise InputError("a radius such as 8/255, 0.1 or pixels:8", repr(text), "write 8/255") from None


def _radius_too_large(radius: float, largest: float) -> InputError:
    hint = f"write pixels({radius:g}) or {radius:g}/255"
    return InputError(f"a radius within the pixel range, at most {largest:g}", radius, hint)
