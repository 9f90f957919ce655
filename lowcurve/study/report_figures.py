"""The figures of a study's report: its networks at the same images."""

import logging
from collections.abc import Mapping

from torch import nn

from lowcurve.data import DataSet
from lowcurve.errors import InputError
from lowcurve.figures.colors import colors
from lowcurve.figures.cross_sections import cross_sections
from lowcurve.figures.jacobians import jacobians
from lowcurve.figures.landscapes import surfaces
from lowcurve.figures.path_figures import path_pictures
from lowcurve.figures.same_images import SameImages, select_images
from lowcurve.results import Result
from lowcurve.study.settings import Study
from lowcurve.types import Progress, silent

log = logging.getLogger("lowcurve")
PICTURES = 5
"""Number of images whose gradients are shown."""


def same_images(study: Study, data: DataSet, models: Mapping[str, nn.Module], count: int, points: int = 101,
                progress: Progress[int] = silent) -> SameImages:  # fmt: skip
    """Select the first test images that every network of a study classifies correctly.

    Args:
        study: Settings.
        data: Data set.
        models: Networks by name.
        count: Largest number of images.
        points: Number of points along a side of a drawn plane.
        progress: Progress display.

    Raises:
        InputError: If there is no such image.
    """
    return select_images(
        data,
        models,
        count,
        study.ball(),
        steps=study.evaluation.steps,
        seed=study.seed,
        points=points,
        progress=progress,
    )


def report_figures(
    study: Study, data: DataSet, models: Mapping[str, nn.Module], progress: Progress[int]
) -> dict[str, Result]:
    """Draw the figures of the report: cross-sections, surfaces, input gradients, paths and, for color images, the hue circle.

    Args:
        study: Settings.
        data: Data set.
        models: Networks by name.
        progress: Progress display.

    Returns:
        Figures by kind; none if no test image is classified correctly by all networks.
    """
    settings, color = study.evaluation, data.shape[0] == 3 and len(data.shape) == 3
    most = max(PICTURES, settings.drawn, settings.drawn_paths)
    try:
        shared = same_images(study, data, models, most, settings.drawn_points, progress)
    except InputError as error:
        log.info("nothing is drawn: %s", error)
        return {}
    found = {**cross_sections(shared.first(settings.drawn)), **surfaces(shared.first(settings.drawn))}
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        pictures = jacobians(shared.first(PICTURES))
        found |= {f"{kind} gradients": result for kind, result in pictures.items() if kind != "adversarial"}
    if color:
        found |= colors(shared.first(settings.drawn))
    if settings.drawn_paths:
        found |= _paths(shared.first(settings.drawn_paths))
    return found


def _paths(shared: SameImages) -> dict[str, Result]:
    """Draw paths, or nothing if no two images have the same class."""
    try:
        return path_pictures(shared)
    except InputError as error:
        log.info("no path is drawn: %s", error)
        return {}
