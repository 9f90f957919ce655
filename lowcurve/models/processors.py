"""Read the normalization of an image processor of transformers, and leave it out of the rest of the processor's work."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.layers import Normalize

Processor = Callable[..., Any]
"""An image processor of transformers."""
OFF = {"do_normalize": False, "do_flip_channel_order": False, "rescale_offset": False, "include_top": False}
"""Options that change the values of the pixels; each is turned off where a processor has it."""
NAMES = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
"""Settings from which mean and standard deviation follow."""
TOLERANCE = 1e-3
"""Largest relative difference of a processor's values from a mean and a standard deviation for each channel."""


class FlipChannels(nn.Module):
    """Reverse the order of the channels, for networks that expect blue, green and red.

    Example:
        >>> FlipChannels()(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[3.0, 2.0, 1.0]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x with the channels in reverse order."""
        return x.flip(1)


def process(processor: Processor, image: Image.Image) -> Tensor:
    """Return a processed image as pixels in [0, 1], without normalization.

    Args:
        processor: Image processor of transformers.
        image: The image.
    """
    off = {name: value for name, value in OFF.items() if hasattr(processor, name) or name == "do_normalize"}
    options = off | {"do_rescale": True, "rescale_factor": 1 / 255, "return_tensors": "pt"}
    pixels: Tensor = processor(image.convert("RGB"), **options)["pixel_values"][0]
    return pixels


def normalization_of(processor: Processor | Mapping[str, Any]) -> nn.Module:
    """Return the layer that does to pixels in [0, 1] what a processor does beyond resizing and cropping.

    The processor runs on a random image, with and without its normalization. Its own mean and standard deviation are taken
    if they explain the difference, and else those that do, with the channels in reverse order if need be.

    Args:
        processor: Image processor of transformers, or its settings as a dictionary, which are taken at their word.

    Returns:
        A `Normalize` layer, perhaps after `FlipChannels`, or `nn.Identity`.

    Raises:
        InputError: If the processor does anything else to the pixels, or does not take a Pillow image, or if the settings lack
            a mean and a standard deviation.
    """
    if isinstance(processor, Mapping):
        if processor.get("do_normalize", True) and not (processor.get("image_mean") and processor.get("image_std")):
            expected = "image_mean and image_std in the settings of a processor"
            raise InputError(expected, ", ".join(processor) or "no settings", "give the processor itself")
        return _from_settings(processor)
    levels = randomness.integers((48, 64, 3), 0, 256, generator=randomness.stream(0, "processor"))
    image = Image.fromarray(levels.to(torch.uint8).numpy())
    try:
        pixels = process(processor, image)
        values = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0])
    except Exception as error:  # whatever the user's processor raises
        hint = "give mean and std instead"
        raise InputError("a processor that takes a Pillow image", f"{type(error).__name__}: {error}", hint) from error
    if pixels.min() < -TOLERANCE or pixels.max() > 1 + TOLERANCE:
        raise InputError(
            "a processor without further scaling of pixels", type(processor).__name__, "give mean and std instead"
        )
    settings = {name: getattr(processor, name) for name in NAMES if getattr(processor, name, None) is not None}
    for layer in (_from_settings(settings), *_fits(pixels, values)):
        if _explains(layer, pixels, values):
            return layer
    hint = "give mean and std instead"
    raise InputError("a processor that normalizes channel by channel", type(processor).__name__, hint)


def _from_settings(settings: Mapping[str, Any]) -> nn.Module:
    """Return the normalization that a processor's settings describe."""
    odd = [name for name in ("do_flip_channel_order", "rescale_offset") if settings.get(name)]
    factor = 255 * (settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 255.0
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if odd:
        raise InputError("settings of rescaling and normalization alone", odd[0], "give the processor itself")
    if settings.get("do_normalize", mean is not None) and mean is not None and std is not None:
        return Normalize([m / factor for m in mean], [s / factor for s in std])
    return nn.Identity() if factor == 1 else Normalize([0.0] * 3, [1 / factor] * 3)


def _fits(pixels: Tensor, values: Tensor) -> list[nn.Module]:
    """Return the normalizations that fit the values best, for both orders of the channels."""
    found: list[nn.Module] = []
    for flips in (False, True):
        source = (pixels.flip(0) if flips else pixels).flatten(1).double()
        target = values.flatten(1).double()
        if source.shape != target.shape:
            return []
        centered = source - source.mean(1, keepdim=True)
        scale = (centered * target).sum(1) / centered.square().sum(1)
        if bool((scale > 0).all()):
            mean = source.mean(1) - target.mean(1) / scale
            with suppress(InputError):  # far from pixels in [0, 1], as with the channels in the wrong order
                layer = Normalize(mean.tolist(), (1 / scale).tolist())
                found.append(nn.Sequential(FlipChannels(), layer) if flips else layer)
    return found


def _explains(layer: nn.Module, pixels: Tensor, values: Tensor) -> bool:
    """Return True if the layer turns the pixels into the values."""
    found = layer(pixels[None].float())[0]
    same = found.shape == values.shape and values.numel() > 0
    return same and bool((found - values).abs().max() <= TOLERANCE * values.float().std())
