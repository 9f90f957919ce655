"""The table of the kinds of drawings that `lowcurve draw` makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowcurve.figures.same_images import SameImages
    from lowcurve.results import Result


@dataclass(frozen=True)
class Drawing:
    """One kind of drawing.

    Args:
        title: Heading of its page.
        text: What it shows.
        examples: Number of images by default.
        function: The function that makes it from networks at the same images. It is written module:function, below
            `figures`.
        channels: Numbers of channels that its images may have. Empty for inputs of any shape.
    """

    title: str
    text: str
    examples: int
    function: str
    channels: tuple[int, ...] = ()

    def draw(self, shared: "SameImages") -> "Mapping[str, Result]":
        """Make the drawing: results by name."""
        module, _, function = self.function.partition(":")
        made: Mapping[str, Result] = getattr(import_module(f"lowcurve.figures.{module}"), function)(shared)
        return made


DRAWINGS: dict[str, Drawing] = {
    "cross-section": Drawing(
        "Cross-sections of the decision boundary",
        "the decision boundary in a plane through the nearest boundary point, with its curvature",
        3,
        "cross_sections:cross_sections",
    ),
    "surface": Drawing(
        "Decision and loss surfaces",
        "margin and loss around an image, along attack directions, and the classes far around it",
        1,
        "landscapes:surfaces",
    ),
    "jacobian": Drawing(
        "Input gradients",
        "input gradients of margin and loss, adversarial images and their perturbations",
        5,
        "jacobians:jacobians",
        channels=(1, 3),
    ),
    "path": Drawing(
        "Paths within regions",
        "paths within the region of a class between images: natural, adversarial and noise",
        40,
        "path_figures:path_pictures",
    ),
    "color": Drawing(
        "Changes of color",
        "the margin around the hue circle, and the most damaging colors; for color images only",
        3,
        "colors:colors",
        channels=(3,),
    ),
}
