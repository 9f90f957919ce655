"""Color spaces: hue, chroma and value, CIE Lab, and the color difference CIEDE2000.

This is no library's code for three reasons. Hue circles decompose an image once and compose it at every angle; a shift by
0 must give exactly the same image; and CIEDE2000 is in none of the package's dependencies. Tests compare it with kornia.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.norms import LINF, Ball, per_example
from lowcurve.errors import InputError
from lowcurve.types import Inputs, PerExample

PIXEL_BOX = Ball(LINF, 1.0)
"""The pixel box as a ball, which bounds the color attacks."""
LUMA = (0.299, 0.587, 0.114)
"""Weight of each channel in the brightness of a pixel (ITU-R BT.601)."""
# sRGB to CIE XYZ. White is the image of (1, 1, 1), so that greys have no chroma.
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_HUES = ((3.0, 2.0, 4.0), (1.0, -1.0, -1.0), (-1.0, 2.0, 2.0))


def require_color(x: Inputs) -> None:
    """Check that the images have three channels.

    Raises:
        InputError: If they do not.
    """
    if x.ndim != 4 or x.shape[1] != 3:
        grey = x.ndim == 4 and x.shape[1] == 1
        hint = "attack greyscale images with PGD" if grey else "give red, green and blue along the second axis"
        raise InputError("color images of shape (batch, 3, height, width)", tuple(x.shape), hint)


def clip_to_box(x: Tensor) -> Tensor:
    """Clip every value to [0, 1]."""
    return PIXEL_BOX.project(x, torch.zeros_like(x))


@dataclass(frozen=True)
class HSV:
    """An image as hue, chroma and value, each of shape (batch, 1, height, width).

    Attributes:
        hue: Hue in sixths of the circle, [0, 6); 0 where the pixel is grey.
        chroma: Maximum - minimum over the channels.
        value: Maximum over the channels.

    Example:
        >>> orange = HSV.of(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1))
        >>> orange.hue.item(), orange.chroma.item(), orange.value.item()
        (0.5, 1.0, 1.0)
    """

    hue: Tensor
    chroma: Tensor
    value: Tensor

    @classmethod
    def of(cls, x: Inputs) -> "HSV":
        """Convert an RGB image."""
        require_color(x)
        red, green, blue = torch.split(x, 1, dim=1)
        value = x.amax(1, keepdim=True)
        chroma = value - x.amin(1, keepdim=True)
        by = torch.where(chroma > 0, chroma, 1)
        hue = torch.where(green >= blue, (blue - red) / by + 2, (red - green) / by + 4)
        hue = torch.where((red >= green) & (red >= blue), ((green - blue) / by).remainder(6), hue)
        return cls(torch.where(chroma > 0, hue, 0), chroma, value)

    def take(self, rows: Tensor) -> "HSV":
        """Return some of the images, by their numbers."""
        return HSV(self.hue[rows], self.chroma[rows], self.value[rows])

    def rgb(self, degrees: PerExample | None = None, saturation: PerExample | None = None) -> Inputs:
        """Return the RGB image, with its hues turned and its saturations multiplied.

        A channel is value - chroma w, with w from 0 to 1 by the distance of the hue from the channel's. The result is
        within [0, value], and linear in the angle between the multiples of 60 degrees of a pixel's hue.

        Args:
            degrees: Turn of the hues for each image, (batch,); None for none.
            saturation: Factor of the saturation for each image, (batch,), which is limited to 1; None for none.
        """
        hue, chroma = self.hue, self.chroma
        if degrees is not None:
            hue = (hue + per_example(degrees / 60, hue)).remainder(6)
        if saturation is not None:
            chroma = torch.minimum(chroma * per_example(saturation, chroma), self.value)
        center, sign, offset = torch.tensor(_HUES, dtype=hue.dtype, device=hue.device).view(3, 3, 1, 1)
        near = torch.addcmul(offset, sign, (hue - center).abs())
        return self.value - chroma * (1 - near.relu()).relu()


def lab(x: Inputs) -> Tensor:
    """Convert sRGB pixels to CIE L*, a*, b*, with the white of D65 (2 degrees).

    Args:
        x: Color images, (batch, 3, ...), in [0, 1].

    Returns:
        L* from 0 to 100, a* and b*, of x's shape.

    Example:
        >>> lab(torch.ones(1, 3, 1, 1, dtype=torch.float64)).flatten().abs().round(decimals=3)
        tensor([100.,   0.,   0.], dtype=torch.float64)

    Reference: IEC 61966-2-1 (sRGB); CIE 15:2004 (CIELAB).
    """
    matrix = torch.tensor(_XYZ, dtype=x.dtype, device=x.device)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.relu() + 0.055) / 1.055) ** 2.4)
    white = matrix.sum(1).view(1, 3, *[1] * (x.ndim - 2))
    share = torch.einsum("kc,bc...->bk...", matrix, linear) / white
    edge = 6 / 29
    root = torch.where(share > edge**3, share, 1) ** (1 / 3)
    bent = torch.where(share > edge**3, root, share / (3 * edge**2) + 4 / 29)
    first, second, third = bent.unbind(1)
    return torch.stack([116 * second - 16, 500 * (first - second), 200 * (second - third)], dim=1)


def color_difference(first: Tensor, second: Tensor) -> Tensor:
    """Compute CIEDE2000 between the pixels of two images in CIE Lab: a difference of about 1 is just noticed.

    Do not differentiate it, because the formula has square roots and jumps at the greys.

    Args:
        first: Image in CIE Lab, (batch, 3, ...).
        second: Image in CIE Lab, (batch, 3, ...).

    Returns:
        One difference for each pixel, (batch, ...).

    Example:
        >>> black, grey = torch.zeros(1, 3, 1, 1), torch.tensor([50.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> color_difference(black, black).item(), round(color_difference(black, grey).item(), 2)
        (0.0, 36.52)

    Reference: Sharma, Wu and Dalal 2005, Eqs. (2) to (22).
    """
    (bright, a, b), (bright2, a2, b2) = first.unbind(1), second.unbind(1)
    more = 0.5 * (1 - _seventh((torch.hypot(a, b) + torch.hypot(a2, b2)) / 2))
    a, a2 = a * (1 + more), a2 * (1 + more)
    chroma, chroma2 = torch.hypot(a, b), torch.hypot(a2, b2)
    hue, hue2 = torch.atan2(b, a).remainder(2 * math.pi), torch.atan2(b2, a2).remainder(2 * math.pi)
    both, apart = chroma * chroma2 > 0, hue2 - hue
    far = apart.abs() > math.pi
    apart = torch.where(far, apart - apart.sign() * 2 * math.pi, apart)
    turn = torch.where(hue + hue2 < 2 * math.pi, math.pi, -math.pi)
    middle = torch.where(both, (hue + hue2) / 2 + torch.where(far, turn, 0), hue + hue2)
    return _weighted(
        bright2 - bright,
        chroma2 - chroma,
        torch.where(both, 2 * (chroma * chroma2).sqrt() * (apart / 2).sin(), 0),
        ((bright + bright2) / 2 - 50).square(),
        (chroma + chroma2) / 2,
        middle,
    )


def _weighted(brightness: Tensor, chroma: Tensor, hue: Tensor, square: Tensor, mean: Tensor, middle: Tensor) -> Tensor:
    """Combine the three differences, weighted at the mean color, with the term that couples chroma and hue in the blue."""
    terms = ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6), (-0.20, 4, 63))
    by_hue = 1 + sum(size * (order * middle - math.radians(phase)).cos() for size, order, phase in terms)
    scaled = brightness / (1 + 0.015 * square / (20 + square).sqrt())
    scaled_chroma, scaled_hue = chroma / (1 + 0.045 * mean), hue / (1 + 0.015 * mean * by_hue)
    blue = (-((torch.rad2deg(middle) - 275) / 25).square()).exp()
    couple = -2 * _seventh(mean) * (math.radians(60) * blue).sin()
    squares = scaled.square() + scaled_chroma.square() + scaled_hue.square() + couple * scaled_chroma * scaled_hue
    return squares.relu().sqrt()


def _seventh(chroma: Tensor) -> Tensor:
    """Return sqrt(C^7 / (C^7 + 25^7))."""
    share = (chroma / 25) ** 7
    return (share / (share + 1)).sqrt()
