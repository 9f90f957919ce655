"""The figures of a study's report: its networks at the same images."""

from collections.abc import Callable, Mapping

from torch import nn

from lowcurve.data import DataSet
from lowcurve.figures.colors import colors
from lowcurve.figures.cross_sections import cross_sections
from lowcurve.figures.jacobians import jacobians
from lowcurve.figures.landscapes import surfaces
from lowcurve.figures.path_figures import path_pictures
from lowcurve.figures.same_images import SameImages, select_images
from lowcurve.results import Result
from lowcurve.study.optional import OptionalSteps
from lowcurve.study.settings import Study
from lowcurve.types import Progress, silent

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
        Figures by kind. What cannot be drawn is listed in "missing" with its reason: all of it, if no test image is
        classified correctly by all networks.
    """
    settings, color = study.evaluation, data.shape[0] == 3 and len(data.shape) == 3
    most = max(PICTURES, settings.drawn, settings.drawn_paths)
    optional = OptionalSteps("all")
    shared = optional.run("figures", lambda: same_images(study, data, models, most, settings.drawn_points, progress))
    if shared is None:
        return optional.table()
    few = shared.first(settings.drawn)
    groups: dict[str, Callable[[], Mapping[str, Result]]] = {
        "cross-sections": lambda: cross_sections(few),
        "surfaces": lambda: surfaces(few),
    }
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        groups["gradients"] = lambda: _gradients(shared.first(PICTURES))
    if color:
        groups["colors"] = lambda: colors(few)
    if settings.drawn_paths:
        groups["paths"] = lambda: path_pictures(shared.first(settings.drawn_paths))
    found: dict[str, Result] = {}
    for what, group in groups.items():
        found |= optional.run(what, group) or {}
    return found | optional.table()


def _gradients(shared: SameImages) -> dict[str, Result]:
    pictures = jacobians(shared)
    return {f"{kind} gradients": result for kind, result in pictures.items() if kind != "adversarial"}
