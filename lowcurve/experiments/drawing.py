"""The pictures of a study's report: its networks side by side at the same images."""

import logging
from collections.abc import Mapping

from torch import nn

from lowcurve.data import DataSet
from lowcurve.errors import InputError
from lowcurve.experiments.settings import Study
from lowcurve.experiments.views.colors import colors
from lowcurve.experiments.views.jacobians import jacobians
from lowcurve.experiments.views.landscapes import surfaces
from lowcurve.experiments.views.path_pictures import path_pictures
from lowcurve.experiments.views.slices import Sitting, cross_sections, sit
from lowcurve.results import Result
from lowcurve.types import Progress

log = logging.getLogger("lowcurve")
PICTURES = 5
"""Images whose gradients are shown."""


def drawn(study: Study, data: DataSet, models: Mapping[str, nn.Module], progress: Progress[int]) -> dict[str, Result]:
    """What `lowcurve draw` has of each kind: cross-sections of the boundary, margin and loss around images, input gradients,
    paths within regions and, of color images, the hue circle.

    Nothing where no test image is classified rightly by all of the networks: of networks that have learned little.
    """
    settings, color = study.evaluation, data.shape[0] == 3 and len(data.shape) == 3
    most = max(PICTURES, settings.drawn, settings.drawn_paths)
    try:
        sitting = sit(study, data, models, most, settings.drawn_points, progress)
    except InputError as error:
        log.info("nothing is drawn: %s", error)
        return {}
    found = {**cross_sections(sitting.few(settings.drawn)), **surfaces(sitting.few(settings.drawn))}
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        pictures = jacobians(sitting.few(PICTURES))
        found |= {f"{kind} gradients": result for kind, result in pictures.items() if kind != "adversarial"}
    if color:
        found |= colors(sitting.few(settings.drawn))
    if settings.drawn_paths:
        found |= _paths(sitting.few(settings.drawn_paths))
    return found


def _paths(sitting: Sitting) -> dict[str, Result]:
    """Nothing where no two images have one class."""
    try:
        return path_pictures(sitting)
    except InputError as error:
        log.info("no path is drawn: %s", error)
        return {}
