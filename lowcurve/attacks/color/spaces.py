"""Colors of images: hue, chroma and value, CIE Lab, and how different two colors look.

Own code and not a library's, for three reasons: hue circles take an image apart once and put it together at every
angle; the shift by 0 must give the very same image; and CIEDE2000 is in no library that the house could lean on. The
cross-check with kornia is in the tests.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowcurve.analysis.norms import LINF, Ball, per_example
from lowcurve.errors import InputError
from lowcurve.types import Inputs, PerExample

PIXEL_BOX = Ball(LINF, 1.0)
"""The pixel box as a ball: what an attack is bounded by that changes colors as far as its ranges say."""
LUMA = (0.299, 0.587, 0.114)
"""How much of each channel is in the brightness of a pixel (ITU-R BT.601)."""
# sRGB to CIE XYZ. White is what (1, 1, 1) becomes, so that greys have no color.
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_HUES = ((3.0, 2.0, 4.0), (1.0, -1.0, -1.0), (-1.0, 2.0, 2.0))


def require_color(x: Inputs) -> None:
    """Refuse what has no colors to change."""
    if x.ndim != 4 or x.shape[1] != 3:
        grey = x.ndim == 4 and x.shape[1] == 1
        hint = "attack greyscale images with PGD" if grey else "give red, green and blue along the second axis"
        raise InputError("color images of shape (batch, 3, height, width)", tuple(x.shape), hint)


def clip_to_box(x: Tensor) -> Tensor:
    """Every value moved to the nearest in [0, 1]."""
    return PIXEL_BOX.project(x, torch.zeros_like(x))


@dataclass(frozen=True)
class HSV:
    """An image as hue in sixths of the circle, [0, 6), chroma max - min and value max over the channels of each pixel.

    All have the shape (batch, 1, height, width). Where a pixel is grey its hue is 0.

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
        """The image taken apart."""
        require_color(x)
        red, green, blue = torch.split(x, 1, dim=1)
        value = x.amax(1, keepdim=True)
        chroma = value - x.amin(1, keepdim=True)
        by = torch.where(chroma > 0, chroma, 1)
        hue = torch.where(green >= blue, (blue - red) / by + 2, (red - green) / by + 4)
        hue = torch.where((red >= green) & (red >= blue), ((green - blue) / by).remainder(6), hue)
        return cls(torch.where(chroma > 0, hue, 0), chroma, value)

    def take(self, rows: Tensor) -> "HSV":
        """Some of the images, by their numbers."""
        return HSV(self.hue[rows], self.chroma[rows], self.value[rows])

    def rgb(self, degrees: PerExample | None = None, saturation: PerExample | None = None) -> Inputs:
        """The image put together, its hues turned and its saturations multiplied (to at most 1).

        value - chroma w, w from 0 to 1 by the distance of the hue from the channel's: never outside [0, value], and
        linear in the angle between any two multiples of 60 degrees of a pixel's hue, where its slope jumps.
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
    """sRGB pixels (batch, 3, ...) in CIE L*, a*, b*, with the white of D65 (2 degrees): L* from 0 to 100.

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
    """CIEDE2000 between two images in CIE Lab, (batch, 3, ...) -> (batch, ...): about 1 is just noticed.

    For values, not to be differentiated: the formula has square roots and jumps at the greys.

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
    """The three differences by their weights at the mean color, and the term that couples the last two in the blue."""
    terms = ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6), (-0.20, 4, 63))
    by_hue = 1 + sum(size * (order * middle - math.radians(phase)).cos() for size, order, phase in terms)
    scaled = brightness / (1 + 0.015 * square / (20 + square).sqrt())
    scaled_chroma, scaled_hue = chroma / (1 + 0.045 * mean), hue / (1 + 0.015 * mean * by_hue)
    blue = (-((torch.rad2deg(middle) - 275) / 25).square()).exp()
    couple = -2 * _seventh(mean) * (math.radians(60) * blue).sin()
    squares = scaled.square() + scaled_chroma.square() + scaled_hue.square() + couple * scaled_chroma * scaled_hue
    return squares.relu().sqrt()


def _seventh(chroma: Tensor) -> Tensor:
    """sqrt(C^7 / (C^7 + 25^7))."""
    share = (chroma / 25) ** 7
    return (share / (share + 1)).sqrt()
