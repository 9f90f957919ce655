"""Turn a Pillow image into bytes: upright, on a white background, in grey levels or in red, green and blue."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from lowcurve.data.labels import own_array
from lowcurve.errors import InputError

GREY_MODES = ("1", "L", "LA")
WIDE_MODES = ("I", "F")  # more than 8 bits a pixel: Pillow would clip instead of scale


def is_grey(picture: Image.Image) -> bool:
    """Return True for an image of grey levels, with or without transparency."""
    return picture.mode in GREY_MODES


def require_bytes(picture: Image.Image, name: str, *, grey: bool = False) -> None:
    """Refuse an image with more than 8 bits a pixel and channel.

    Args:
        picture: The image.
        name: Its name in the error.
        grey: Also refuse an image with colors.

    Raises:
        InputError: If the image would lose more than transparency.
    """
    if picture.mode.split(";")[0] in WIDE_MODES or (grey and not is_grey(picture)):
        kind = "8-bit grey" if grey else "8-bit"
        raise InputError(f"{kind} images", f"mode {picture.mode} in {name}", f"save it as an {kind} image")


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return width and height of the image after the rotation that its EXIF entry asks for."""
    width, height = picture.size
    return (height, width) if _orientation(picture) >= 5 else (width, height)


def picture_bytes(picture: Image.Image, *, grey: bool) -> np.ndarray:
    """Return the bytes of an image, of shape (height, width) if `grey`, else (height, width, 3).

    The orientation in EXIF is applied, as every viewer does. Transparent pixels show a white background.

    Example:
        >>> picture_bytes(Image.new("LA", (2, 1), (0, 51)), grey=True)  # black, four fifths transparent
        array([[204, 204]], dtype=uint8)
    """
    mode = "L" if grey else "RGB"
    if _orientation(picture) > 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.getbands()[-1] in "Aa" or "transparency" in picture.info:
        shown = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return np.asarray(picture if picture.mode == mode else picture.convert(mode))


@dataclass(frozen=True)
class Resized:
    """Make images squares: the shorter side gets `size` pixels, and the middle is cut out.

    Args:
        size: Side of the square in pixels.

    Raises:
        InputError: If it is below 1.

    Example:
        >>> Resized(8)(Image.new("RGB", (40, 20))).size
        (8, 8)
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError("a side of at least 1 pixel", self.size, "write --resize 224")

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return the square."""
        width, height = (max(self.size, round(self.size * side / min(picture.size))) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        return resized.crop((left, top, left + self.size, top + self.size))


def image_tensor(image: Any) -> Tensor:
    """Return an image as a tensor: a Pillow image as bytes of shape (channels, height, width), an array as it is.

    Args:
        image: Pillow image, tensor, array or nested list.

    Raises:
        InputError: If it cannot be a tensor, or if a Pillow image has more than 8 bits a pixel.
    """
    if isinstance(image, Image.Image):
        require_bytes(image, "a PIL image")
        array = picture_bytes(image, grey=is_grey(image))
        return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    try:
        return torch.from_numpy(own_array(image)) if isinstance(image, np.ndarray) else torch.as_tensor(image)
    except (TypeError, ValueError, RuntimeError) as error:
        hint = "let the data set return tensors, arrays or Pillow images"
        raise InputError("an image as a tensor, an array or a Pillow image", type(image).__name__, hint) from error


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged entry says nothing; its readers share no narrower ancestor
        return 1
