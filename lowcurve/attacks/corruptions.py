"""Common corruptions of CIFAR-10-C at five severities, as far as they need no picture files. They are no attacks."""

import io
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.norms import pixels
from lowcurve.attacks.color.spaces import HSV, PIXEL_BOX, clip_to_box
from lowcurve.errors import InputError
from lowcurve.randomness import Streams, example_streams
from lowcurve.types import Inputs

Corruption = Callable[..., Tensor]
"""(images, streams, numbers of a severity) -> images, not yet clipped to the box."""


def corrupt(x: Inputs, kind: str, severity: int, generator: torch.Generator) -> Inputs:
    """Apply one common corruption of severity 1 to 5 to images; each image has its own random numbers.

    The severities are those of CIFAR-10-C, for 32 x 32 pixels. Accuracy falls from severity 1 to 5, except that "saturate"
    removes color at 1 and 2 and adds it from 3 to 5. Only "jpeg compression" rounds pixels to grey levels. Every kind but
    "saturate" accepts grey images.

    Args:
        x: Images, (batch, 1 or 3, height, width), in [0, 1].
        kind: One of `CORRUPTIONS`.
        severity: Severity from 1 to 5.
        generator: Source of the random numbers. They also depend on the image's pixels.

    Returns:
        The corrupted images in [0, 1], of x's shape.

    Raises:
        InputError: If kind, severity, shape or range of the images is wrong.

    Cost: arithmetic. "jpeg compression" uses Pillow image by image; "shot noise" of severity 1 computes 9 incomplete gamma
    functions a pixel.

    Example:
        >>> from lowcurve.randomness import stream
        >>> corrupt(torch.tensor([0.2, 0.6]).view(1, 1, 1, 2), "contrast", 2, stream(0)).flatten()
        tensor([0.3000, 0.5000])

    Reference: Hendrycks and Dietterich 2019, section 3 and the code released with CIFAR-10-C (severities).
    """
    if kind not in CORRUPTIONS:
        raise InputError(f"one of the corruptions {', '.join(CORRUPTIONS)}", repr(kind), 'write "gaussian noise"')
    if severity not in range(1, 6):
        raise InputError("a severity from 1 to 5", severity, "write severity=3")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        hint = "write x[None] for one image"
        raise InputError("images of shape (batch, 1 or 3, height, width)", tuple(x.shape), hint)
    PIXEL_BOX.require_inside_box(x)
    chosen = CORRUPTIONS[kind]
    streams = example_streams(generator, x, torch.zeros(len(x), dtype=torch.long, device=x.device)).at(kind, severity)
    return clip_to_box(chosen.act(x, streams, *chosen.severities[severity - 1])) if len(x) else x


def _gaussian_noise(x: Tensor, streams: Streams, size: float) -> Tensor:
    return x + size * streams.normal(x)


def _shot_noise(x: Tensor, streams: Streams, photons: float) -> Tensor:
    """Poisson counts, by inversion: the smallest count whose distribution function is at least a uniform draw."""
    draw, mean = streams.uniform(x.double(), 0, 1), photons * x.double()
    low, high = torch.zeros_like(mean), torch.full_like(mean, photons)  # a higher count is clipped
    while bool((low < high).any()):
        middle = ((low + high) / 2).floor()
        enough = torch.special.gammaincc(middle + 1, mean) >= draw
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return (low / photons).to(x)


def _impulse_noise(x: Tensor, streams: Streams, share: float) -> Tensor:
    hit = streams.at("where").uniform(x, 0, 1) < share
    return torch.where(hit, (streams.at("salt").signs(x) + 1) / 2, x)


def _speckle_noise(x: Tensor, streams: Streams, size: float) -> Tensor:
    return x + x * size * streams.normal(x)


def _gaussian_blur(x: Tensor, _: Streams, width: float) -> Tensor:
    row = _gaussian_kernel(x, width, int(4 * width + 0.5))
    return _filter(x, row[:, None] * row, "replicate")


def _defocus_blur(x: Tensor, _: Streams, radius: float, width: float) -> Tensor:
    """Blur by a disk that is smoothed by a Gaussian of three pixels."""
    reach = int(radius) + 1
    place = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    disk = (place[:, None].square() + place.square() <= radius**2).to(x)
    row = _gaussian_kernel(x, width, 1)
    soft = F.conv2d((disk / disk.sum())[None, None], (row[:, None] * row)[None, None], padding=1)[0, 0]
    return _filter(x, soft, "reflect")


def _brightness(x: Tensor, _: Streams, more: float) -> Tensor:
    """Raise the value and keep hue and saturation."""
    value = x.amax(1, keepdim=True)
    brighter = clip_to_box(value + more)
    return torch.where(value > 0, x * (brighter / torch.where(value > 0, value, 1)), brighter)


def _contrast(x: Tensor, _: Streams, factor: float) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def _saturate(x: Tensor, _: Streams, factor: float, more: float) -> Tensor:
    colors = HSV.of(x)
    share = clip_to_box(factor * colors.chroma / torch.where(colors.value > 0, colors.value, 1) + more)
    return HSV(colors.hue, colors.value * share, colors.value).rgb()


def _pixelate(x: Tensor, _: Streams, share: float) -> Tensor:
    few = [int(side * share) for side in x.shape[2:]]
    if min(few) < 1:
        raise InputError("images that can be made smaller", tuple(x.shape), "give at least 2 x 2 pixels")
    down, across = (_box_filter(x, small, side) for small, side in zip(few, x.shape[2:], strict=True))
    return F.interpolate(down @ x @ across.T, size=x.shape[2:], mode="nearest-exact")


def _jpeg_compression(x: Tensor, _: Streams, quality: float) -> Tensor:
    levels = (x / pixels(1)).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    back = []
    for picture in levels:
        file = io.BytesIO()
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            file, "JPEG", quality=int(quality)
        )
        back.append(np.asarray(Image.open(file)).reshape(picture.shape))
    return torch.from_numpy(np.stack(back)).movedim(-1, 1).to(x) * pixels(1)


def _gaussian_kernel(like: Tensor, width: float, reach: int) -> Tensor:
    """Return a Gaussian of sum 1 on the integers from -reach to reach."""
    place = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    kernel = (-place.square() / (2 * width**2)).exp()
    return kernel / kernel.sum()


def _filter(x: Tensor, kernel: Tensor, beyond: str) -> Tensor:
    """Filter every channel by a kernel, with repeated or mirrored pixels beyond the edge."""
    reach, channels = kernel.shape[0] // 2, x.shape[1]
    wide = F.pad(x, (reach,) * 4, mode=beyond)
    return F.conv2d(wide, kernel.expand(channels, 1, -1, -1), groups=channels)


def _box_filter(like: Tensor, few: int, many: int) -> Tensor:
    """Return the matrix (few, many) that averages the pixels whose centers a new pixel covers, as Pillow's box filter."""
    center = torch.arange(many, dtype=torch.float64) + 0.5
    edge = torch.arange(few + 1, dtype=torch.float64) * (many / few)
    covers = ((center > edge[:-1, None]) & (center <= edge[1:, None])).double()
    return (covers / covers.sum(1, keepdim=True)).to(like)


class Kind(NamedTuple):
    """A corruption and its numbers at severities 1 to 5.

    Attributes:
        act: The corruption.
        severities: Its numbers for each severity.
    """

    act: Corruption
    severities: tuple[tuple[float, ...], ...]


def _kind(act: Corruption, *numbers: float) -> Kind:
    """Return a corruption with one number for each severity."""
    return Kind(act, tuple((number,) for number in numbers))


CORRUPTIONS: Mapping[str, Kind] = {
    "gaussian noise": _kind(_gaussian_noise, 0.04, 0.06, 0.08, 0.09, 0.10),
    "shot noise": _kind(_shot_noise, 500, 250, 100, 75, 50),
    "impulse noise": _kind(_impulse_noise, 0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle noise": _kind(_speckle_noise, 0.06, 0.10, 0.12, 0.16, 0.20),
    "gaussian blur": _kind(_gaussian_blur, 0.4, 0.6, 0.7, 0.8, 1.0),
    "defocus blur": Kind(_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "brightness": _kind(_brightness, 0.05, 0.10, 0.15, 0.20, 0.30),
    "contrast": _kind(_contrast, 0.75, 0.50, 0.40, 0.30, 0.15),
    "saturate": Kind(_saturate, ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))),
    "pixelate": _kind(_pixelate, 0.95, 0.90, 0.85, 0.75, 0.65),
    "jpeg compression": _kind(_jpeg_compression, 80, 65, 58, 50, 40),
}
"""All corruptions by name."""
