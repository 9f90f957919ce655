"""Turn a Pillow image into bytes: upright, on a white background, in grey levels or in red, green and blue."""

import numpy as np
from PIL import ExifTags, Image, ImageOps

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


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged entry says nothing; its readers share no narrower ancestor
        return 1
