"""One network at a study's images: its columns of numbers, and how columns become cells and bands with their quantiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.data import Examples
from lowcurve.experiments.settings import Study
from lowcurve.losses import cross_entropy
from lowcurve.results import Cell, Line, summarize
from lowcurve.training import Hardware, fabric
from lowcurve.types import Loss, Measure, Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CELLS = "Each cell: median and, in brackets, the 10 and 90 % quantiles over examples."


@dataclass(frozen=True)
class Subject:
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

    def few(self, count: int) -> "Subject":
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


def counted(examples: Examples, part: str) -> dict[str, str]:
    """How many examples of which part of the data."""
    return {"examples": f"{len(examples)} of the {part} set"}


def spread(values: np.ndarray) -> Cell:
    """The median between the 10 and 90 % quantiles."""
    found = summarize(values)
    return (found.median, found.low, found.high)


def band(columns: Sequence[np.ndarray]) -> Line:
    """The median of each column between its 10 and 90 % quantiles."""
    found = [summarize(values) for values in columns]
    return Line(*(tuple(getattr(s, part) for s in found) for part in ("median", "low", "high")))
