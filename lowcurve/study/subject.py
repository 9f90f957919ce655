"""One network at a study's images: its columns of numbers, and how columns become cells and bands with their quantiles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.data import Examples
from lowcurve.losses import cross_entropy
from lowcurve.results.cells import counted
from lowcurve.study.settings import Study
from lowcurve.training import Hardware, fabric
from lowcurve.types import Loss, Measure, Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network at the study's test examples, with the conditions that hold for all of its numbers."""

    study: Study
    name: str
    model: nn.Module
    examples: Examples
    progress: Progress[int]
    conditions: Mapping[str, str]

    def columns(self, measures: Mapping[str, Measure], loss: Loss = cross_entropy) -> evaluation.Columns:
        """The measures of all its examples."""
        heading = f"measuring {self.name}"
        made = processes(self.study.hardware)
        return evaluation.measure(
            self.model, self.examples, measures, loss=loss, progress=self.progress, heading=heading, fabric=made
        )

    def few(self, count: int) -> "MeasuredNetwork":
        """The same with the first examples alone."""
        examples = self.examples.take(slice(count))
        return replace(self, examples=examples, conditions={**self.conditions, **counted(examples, "test")})

    @property
    def reach(self) -> float:
        """The l_2 length of the study's largest perturbation."""
        return self.study.scale(int(np.prod(self.examples.shape)))


@cache
def processes(hardware: Hardware) -> "Fabric":
    """The processes that share an evaluation, running; one alone unless the hardware says more."""
    made = fabric(hardware)
    made.launch()
    return made
