"""Color changes (hue, saturation, brightness, contrast, gamma) and a rotation, and projected ascent in their parameters."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowcurve.analysis.calculus import value_gradient_and_aux
from lowcurve.analysis.norms import Ball, per_example
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.attacks.base import Options
from lowcurve.attacks.color.spaces import HSV, LUMA, PIXEL_BOX, clip_to_box, require_color
from lowcurve.attacks.state import AttackBatch, AttackRun, State
from lowcurve.errors import InputError
from lowcurve.losses import evaluate_loss, margin_loss
from lowcurve.types import Classifier, Inputs, Labels, Logits, Loss, PerExample

Range = tuple[float, float]


@dataclass(frozen=True)
class ColorRanges:
    """Allowed ranges (lowest, highest) of the color parameters; each contains the value that changes nothing.

    The defaults are those of composite adversarial robustness; the one of gamma is that of contrast. Write (0, 0) or (1, 1)
    to leave a parameter unchanged.

    Args:
        hue: Turn of the hues in degrees. Nothing changes at 0.
        saturation: Factor of the saturation. Nothing changes at 1.
        brightness: Added to every channel, in pixel units. Nothing changes at 0.
        contrast: Factor about the image's mean grey. Nothing changes at 1.
        gamma: Exponent of every pixel. Nothing changes at 1.
        rotation: Rotation about the center in degrees counterclockwise, with black corners. Nothing changes at 0.

    Raises:
        InputError: If a range does not contain the value that changes nothing, or a factor is not positive.

    Example:
        >>> ColorRanges(hue=(-30, 30), rotation=(0, 0)).box[0]
        (-30, 0.7, -0.2, 0.7, 0.7, 0)

    Reference: Hsiung et al. 2023, section 4.1 (perturbation intervals).
    """

    hue: Range = (-180.0, 180.0)
    saturation: Range = (0.7, 1.3)
    brightness: Range = (-0.2, 0.2)
    contrast: Range = (0.7, 1.3)
    gamma: Range = (0.7, 1.3)
    rotation: Range = (-10.0, 10.0)

    def __post_init__(self) -> None:
        for parameter, unchanged in zip(fields(self), UNCHANGED, strict=True):
            low, high = getattr(self, parameter.name)
            if not -math.inf < low <= unchanged <= high < math.inf:
                expected = f"a range of {parameter.name} (low, high) with low <= {unchanged:g} <= high"
                raise InputError(
                    expected, (low, high), f"write {parameter.name}=({unchanged:g}, {unchanged:g}) for none"
                )
            if unchanged == 1 and low <= 0:
                raise InputError(f"a positive factor of {parameter.name}", low, f"write {parameter.name}=(0.7, 1.3)")

    @property
    def box(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest values and the highest values of all parameters."""
        pairs = [getattr(self, parameter.name) for parameter in fields(self)]
        return tuple(low for low, _ in pairs), tuple(high for _, high in pairs)


UNCHANGED = (0.0, 1.0, 0.0, 1.0, 1.0, 0.0)
"""Parameters that change nothing."""


def color_change(x: Inputs, parameters: Tensor) -> Inputs:
    """Change hue, saturation, brightness, contrast, gamma and rotation of images, in this order.

    The result is exactly x where the parameters are `UNCHANGED`, and it is differentiable in them. Values are clipped to
    [0, 1] after each of brightness, contrast and rotation.

    Args:
        x: Color images, (batch, 3, height, width), pixel units.
        parameters: Parameters in the units of `ColorRanges`, (batch, 6).

    Returns:
        The changed images, of x's shape.

    Raises:
        InputError: If the images do not have three channels.

    Example:
        >>> pixel = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
        >>> color_change(pixel, torch.tensor([[120.0, 1.0, 0.1, 1.0, 1.0, 0.0]])).flatten()
        tensor([0.7000, 0.3000, 0.5000])

    Reference: Hsiung et al. 2023, section 3.2 (hue, saturation, brightness, contrast, rotation).
    """
    require_color(x)
    hue, saturation, brightness, contrast, gamma, rotation = parameters.to(x).unbind(1)
    colors = HSV.of(x)
    # Each change is added, so that it adds exactly 0 where the parameter changes nothing.
    x = clip_to_box(x + (colors.rgb(hue, saturation) - colors.rgb(torch.zeros_like(hue), torch.ones_like(hue))))
    x = clip_to_box(x + per_example(brightness, x))
    mean = sum(share * x[:, channel].mean((1, 2)) for channel, share in enumerate(LUMA))
    x = clip_to_box(x + per_example(contrast - 1, x) * (x - per_example(torch.as_tensor(mean), x)))
    # The derivative of a power at 0 is infinite.
    black = x == 0
    x = torch.where(black, 0, torch.where(black, 1, x) ** per_example(gamma, x))
    return rotate(x, rotation)


def rotate(x: Inputs, degrees: PerExample) -> Inputs:
    """Rotate images counterclockwise about their center, with bilinear interpolation and black corners.

    Differentiable in the angle any number of times.

    Args:
        x: Images, (batch, channels, height, width), pixel units.
        degrees: Angle of each image, (batch,).

    Returns:
        The rotated images, of x's shape.

    Example:
        >>> rotate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]) / 4, torch.tensor([90.0])).mul(4).round(decimals=4)
        tensor([[[[2., 4.],
                  [1., 3.]]]])
    """
    height, width = x.shape[-2:]
    angle = torch.deg2rad(degrees.to(x)).view(-1, 1, 1)
    down = torch.arange(height, device=x.device, dtype=x.dtype).view(1, -1, 1) - (height - 1) / 2
    right = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    row = angle.sin() * right + angle.cos() * down + (height - 1) / 2
    column = angle.cos() * right - angle.sin() * down + (width - 1) / 2
    result = torch.zeros_like(x)
    for first in (row.detach().floor(), row.detach().floor() + 1):
        for second in (column.detach().floor(), column.detach().floor() + 1):
            weight = (1 - (row - first).abs()) * (1 - (column - second).abs())
            there = (first >= 0) & (first < height) & (second >= 0) & (second < width)
            places = torch.where(there, first * width + second, 0).long().flatten(1)[:, None]
            seen = x.flatten(2).gather(2, places.expand(-1, x.shape[1], -1)).view_as(x)
            result = result + seen * (weight * there)[:, None]
    return clip_to_box(result)


@dataclass(frozen=True)
class ColorBoxState(State):
    """The state of a `ColorBox` run.

    Attributes:
        parameters: Parameters of the color change at the point, (batch, 6).
    """

    parameters: Tensor


@dataclass(frozen=True)
class ColorBox(IterativeAttack):
    """Projected ascent of the loss in the parameters of color changes within `ranges`.

    Each step moves all six parameters by their signs. The step length falls from half of each range to a fraction
    1 / (2 steps) of it, and the parameters are projected into their ranges. The hue wraps around where the whole circle is
    allowed. The first run begins at x, the others at random parameters. The answer is the best image that was evaluated,
    x included.

    Perturbations are not bounded by a norm: `ball` is the whole pixel box, and `norm` is None.

    Args:
        ranges: Allowed ranges of the parameters.
        steps: Number of gradient steps in each run.
        restarts: Number of runs from random parameters, besides the one from x.
        loss: Loss to maximize. Runs are compared by the margin.
        start: Start of the first run: "unchanged", x itself, or "uniform", random parameters.

    Raises:
        InputError: If a setting is out of range, or the images do not have three channels.

    Cost: (1 + restarts) (steps input gradients + 2 forward passes).

    Example:
        >>> model = lambda x: torch.stack([x.mean((1, 2, 3)), torch.full((len(x),), 0.45)], dim=1)  # bright or dark
        >>> only = ColorRanges(hue=(0, 0), brightness=(-0.1, 0.1), contrast=(1, 1), gamma=(1, 1), rotation=(0, 0))
        >>> found = ColorBox(only)(model, torch.full((1, 3, 2, 2), 0.5), torch.tensor([0]))
        >>> found.mean()
        tensor(0.4000)

    Reference: Hsiung et al. 2023, section 3.2 (component-wise projected ascent).
    """

    ranges: ColorRanges = ColorRanges()
    steps: int = 20
    restarts: int = 2
    loss: Loss = margin_loss
    start: Literal["unchanged", "uniform"] = "unchanged"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 0:
            found = (self.steps, self.restarts)
            raise InputError("at least one step and no fewer than 0 restarts", found, "write ColorBox(steps=20)")
        if self.start not in ("unchanged", "uniform"):
            raise InputError('a start "unchanged" or "uniform"', repr(self.start), 'write start="unchanged"')

    norm: ClassVar[None] = None

    @property
    def ball(self) -> Ball:
        """The whole pixel box."""
        return PIXEL_BOX

    @property
    def runs(self) -> tuple[AttackRun, ...]:
        """One run from x, and the others from random parameters."""
        random = ColorBox(self.ranges, self.steps, self.restarts, self.loss, "uniform")
        return (self, *[random] * self.restarts)

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        require_color(x)
        return super().perturb(model, x, y, options)

    def begin(self, batch: AttackBatch) -> ColorBoxState:
        """Return x, or the image at random parameters."""
        low, high, unchanged = self._box(batch.x)
        parameters = unchanged.expand(len(batch), -1)
        if self.start == "uniform":
            parameters = low + (high - low) * batch.streams.at("parameters").uniform(parameters, 0, 1)
        return self._state_at(batch, parameters, batch.zeros())

    def step(self, batch: AttackBatch, state: ColorBoxState) -> tuple[Logits, ColorBoxState]:
        """Make one signed step in the parameters."""

        def evaluate(parameters: Tensor) -> tuple[PerExample, Logits]:
            point = color_change(batch.x, parameters)
            logits = batch.evaluate(point)
            return self.value(batch, point, logits), logits

        parameters = state.parameters
        _, gradient, logits = value_gradient_and_aux(evaluate, parameters)
        low, high, _ = self._box(batch.x)
        share = (1 - state.step.to(gradient) / self.steps) / 2
        parameters = parameters + share[:, None] * (high - low) * gradient.sign()
        if self.ranges.hue[1] - self.ranges.hue[0] >= 360:
            wrapped = (parameters[:, :1] - low[0]).remainder(360) + low[0]
            parameters = torch.cat([wrapped, parameters[:, 1:]], dim=1)
        return logits, self._state_at(batch, torch.minimum(torch.maximum(parameters, low), high), state.step)

    def value(self, batch: AttackBatch, point: Inputs, logits: Logits) -> PerExample:  # noqa: ARG002 (AttackRun's signature)
        """Return the loss."""
        return evaluate_loss(self.loss, logits, batch.y)

    def _box(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high, unchanged = (
            torch.tensor(v, dtype=like.dtype, device=like.device) for v in (*self.ranges.box, UNCHANGED)
        )
        return low, high, unchanged

    def _state_at(self, batch: AttackBatch, parameters: Tensor, step: Tensor) -> ColorBoxState:
        with torch.no_grad():
            return ColorBoxState(color_change(batch.x, parameters), step, parameters)
