"""The pictures of a study's report: its networks side by side at the same images."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from lowcurve.data import DataSet
from lowcurve.errors import InputError
from lowcurve.experiments.settings import Study
from lowcurve.experiments.views.jacobians import jacobians
from lowcurve.experiments.views.landscapes import surfaces
from lowcurve.experiments.views.slices import cross_sections, sit
from lowcurve.results import Result
from lowcurve.types import Progress

log = logging.getLogger("lowcurve")
PICTURES = 5
"""Images whose gradients are shown."""


def drawn(study: Study, data: DataSet, models: Mapping[str, nn.Module], progress: Progress[int]) -> dict[str, Result]:
    """Cross-sections of the boundary, margin and loss around images, and input gradients, as `lowcurve draw` has them.

    Nothing where no test image is classified rightly by all of the networks: of networks that have learned little.
    """
    settings = study.evaluation
    try:
        sitting = sit(study, data, models, PICTURES, settings.drawn_points, progress)
    except InputError as error:
        log.info("nothing is drawn: %s", error)
        return {}
    few = replace(
        sitting, examples=sitting.examples.take(slice(settings.drawn)), numbers=sitting.numbers[: settings.drawn]
    )
    found = {**cross_sections(few), **surfaces(few)}
    if len(data.shape) == 3 and data.shape[0] in (1, 3):
        found |= {f"{kind} gradients": result for kind, result in jacobians(sitting).items() if kind != "adversarial"}
    return found
