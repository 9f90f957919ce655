"""The pepper test, and an estimate of the margin between the evaluated hue shifts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.norms import per_example
from lowcurve.attacks.color.changes import derivatives_along, floor_between
from lowcurve.attacks.color.hue import HueCircle, hue_shift
from lowcurve.errors import InputError
from lowcurve.losses import loss_field, margin, require_loss_field
from lowcurve.types import Field, Inputs, PerExample


@dataclass(frozen=True)
class PepperTest:
    """Test whether an image keeps its label at every hue that the object may have, such as an orange pepper.

    Columns:

    - "pepper test": 1 where every allowed shift keeps the label, 0 otherwise.
    - "hue allowance kept": fraction of the allowance that can be reached from the image without losing the label.

    The report shows one picture and states no angle; 30 degrees lead from red to orange in HSV. The test fits few kinds of
    object: a lemon of another hue is a lime. The model must be in eval mode.

    Args:
        allowance: Shifts in degrees, from at most 0 to at least 0, that do not change the label in a person's judgement.
        angles: Number of grid intervals.
        refinements: As in `HueCircle`.

    Raises:
        InputError: If a setting is out of range.

    Cost: as for `HueCircle`.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> field = loss_field(lambda x: x.mean((2, 3)), torch.tensor([0]))  # red, green or blue
        >>> columns = PepperTest((-30, 120))(field, torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
        >>> columns["pepper test"], columns["hue allowance kept"].round(decimals=2)  # 90 of 150 degrees
        (tensor([0.]), tensor([0.6000]))

    Reference: bardusco_report, Fig. 9 and section 3.
    """

    allowance: tuple[float, float] = (-30.0, 30.0)
    angles: int = 12
    refinements: int = 8

    def __post_init__(self) -> None:
        _ = self.circle

    @property
    def circle(self) -> HueCircle:
        """The search over the allowance."""
        return HueCircle(*self.allowance, self.angles, self.refinements)

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Return the columns for a `loss_field` at the images x."""
        shown = require_loss_field(field)
        found = self.circle.search(shown.model, x, shown.y)
        kept = (found.above + found.below) / (self.allowance[1] - self.allowance[0])
        # The refined minimum may be below 0 between two grid points that both keep the label.
        passed = (found.margin > 0) & (found.share == 1)
        return {"pepper test": passed.to(x), "hue allowance kept": kept}


@dataclass(frozen=True)
class HueFloor:
    """Estimate a lower bound of the margin over all hue shifts, from derivatives at the grid points.

    Columns:

    - "worst hue margin on the grid": the lowest margin l at a grid point.
    - "steepest hue slope": the largest |l'| on the grid, in margin per degree.
    - "largest hue curvature": the largest |l''| on the grid, exact and local, per square degree.
    - "largest hue bend": the largest change of l' from one grid point to the next, divided by their distance.
    - "estimated floor of the hue margin": a lower bound from l and l' at both ends of every interval. It assumes that |l''|
      is at most `safety` times the larger of the two columns before.

    If the estimated floor is above 0, the label is kept over the whole circle, unless the margin bends more between the
    grid points. It is an estimate because |l''| is evaluated on the grid only. The local curvature alone is not enough:
    for ReLU networks it is 0 almost everywhere, because the margin bends only at kinks of network and hue shift.

    The model must be in eval mode.

    Args:
        angles: Number of grid intervals.
        safety: Factor of the largest observed bending, at least 1.
        batch_size: Number of shifted images in a pass.

    Raises:
        InputError: If a setting is out of range.

    Cost: angles forward passes, gradients and backward passes through them, for each image.

    Example:
        >>> field = loss_field(lambda x: x.mean((2, 3)), torch.tensor([0]))  # red, green or blue
        >>> columns = HueFloor(angles=8)(field, torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
        >>> columns["largest hue curvature"], bool(columns["estimated floor of the hue margin"] <= -1)
        (tensor([0.]), True)

    Reference: Hosseini and Poovendran 2018 (the family); the bound is that of a function with a bounded second
    derivative.
    """

    angles: int = 36
    safety: float = 2.0
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.angles < 2 or not self.safety >= 1:
            found = (self.angles, self.safety)
            raise InputError("at least two angles and a safety of at least 1", found, "write HueFloor(angles=36)")

    def __call__(self, field: Field, x: Inputs) -> dict[str, PerExample]:
        """Return the columns for a `loss_field` at the images x."""
        shown, width = require_loss_field(field), 360 / self.angles
        rows = torch.arange(len(x), device=x.device).repeat_interleave(self.angles)
        degrees = (torch.arange(self.angles, device=x.device) * width).repeat(len(x)).to(x)
        parts = []
        for few, angles in zip(torch.split(rows, self.batch_size), torch.split(degrees, self.batch_size), strict=True):
            parts.append(derivatives_along(loss_field(shown.model, shown.y[few], margin), hue_shift, x[few], angles))

        def closed(name: str) -> Tensor:
            values = torch.cat([getattr(part, name) for part in parts]).view(len(x), -1)
            return torch.cat([values, values[:, :1]], dim=1)

        values, first, second = closed("value"), closed("derivative"), closed("second_derivative")
        curvature, bend = second.abs().amax(1), first.diff(dim=1).abs().amax(1) / width
        limit = per_example(self.safety * torch.maximum(curvature, bend), values)
        return {
            "worst hue margin on the grid": values.amin(1),
            "steepest hue slope": first.abs().amax(1),
            "largest hue curvature": curvature,
            "largest hue bend": bend,
            "estimated floor of the hue margin": floor_between(values, first, width, limit).amin(1),
        }
