"""Images as data inside a page."""

import base64
import io

import numpy as np
from PIL import Image

from lowcurve.errors import InputError


def pixels_source(image: np.ndarray) -> str:
    """Return an image as a lossless WebP data URI, rounded to 8 bits.

    Args:
        image: Pixels in [0, 1], shape (channels, height, width). Others are clipped, NaN is black.

    Raises:
        InputError: If it has other than 1 or 3 channels.
    """
    channels = image.shape[0]
    if channels not in (1, 3):
        raise InputError("images of 1 or 3 channels", f"{channels} channels", "give gray or red-green-blue pixels")
    levels = np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    return _source(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0))


def map_source(places: np.ndarray, colors: np.ndarray) -> str:
    """Return a map as a lossless WebP data URI, its last row on top.

    Args:
        places: The color of each grid point as a place in the list, shape (rows, columns); below 0 it is transparent.
        colors: The colors, shape (colors, 3), 0 to 255.
    """
    flipped = places[::-1]
    shades = colors[np.maximum(flipped, 0)]
    return _source(np.concatenate([shades, np.where(flipped[..., None] < 0, 0, 255)], 2).astype(np.uint8))


def _source(levels: np.ndarray) -> str:
    with io.BytesIO() as buffer:
        Image.fromarray(np.ascontiguousarray(levels)).save(buffer, format="WEBP", lossless=True, method=4, quality=80)
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
