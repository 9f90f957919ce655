"""One network at the images of a study, and the processes that measure it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.data import Examples
from lowcurve.losses import cross_entropy
from lowcurve.results.cells import count_examples
from lowcurve.study.optional import OptionalSteps
from lowcurve.study.settings import Study
from lowcurve.training import Hardware, make_fabric
from lowcurve.training.hardware import OneProcess, is_one_cpu_process
from lowcurve.types import Loss, Measure, Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network at a study's test examples.

    Attributes:
        study: Settings of the study.
        name: Its name in the report.
        model: The network.
        examples: Test examples at which it is measured.
        progress: Progress display.
        conditions: Conditions of all its numbers.
        optional: Collects what cannot be measured. By default an error is raised.
    """

    study: Study
    name: str
    model: nn.Module
    examples: Examples
    progress: Progress[int]
    conditions: Mapping[str, str]
    optional: OptionalSteps = field(default_factory=partial(OptionalSteps, "", strict=True))

    def columns(self, measures: Mapping[str, Measure], loss: Loss = cross_entropy) -> evaluation.Columns:
        """Compute measures at all examples.

        Args:
            measures: Measures by name.
            loss: Loss whose field is measured.

        Returns:
            Columns by name, with one entry per example.
        """
        return evaluation.measure(
            self.model,
            self.examples,
            measures,
            loss=loss,
            progress=self.progress,
            heading=f"measuring {self.name}",
            fabric=launch_fabric(self.study.hardware),
        )

    def available(self, measures: Mapping[str, Measure], loss: Loss = cross_entropy) -> evaluation.Columns:
        """Compute the columns of those measures that can be computed; see `optional`.

        Args:
            measures: Measures by the name under which the report lists them where they cannot be computed.
            loss: Loss whose field is measured.
        """
        found = (
            self.optional.run(name, partial(self.columns, {name: measure}, loss)) for name, measure in measures.items()
        )
        return evaluation.Columns({key: values for columns in found for key, values in (columns or {}).items()})

    def first(self, count: int) -> "MeasuredNetwork":
        """Return the same network with the first `count` examples only."""
        examples = self.examples.take(slice(count))
        return replace(self, examples=examples, conditions={**self.conditions, **count_examples(examples, "test")})

    @property
    def reach(self) -> float:
        """The l_2 length of the study's largest perturbation."""
        return self.study.scale(int(np.prod(self.examples.shape)))


@cache
def launch_fabric(hardware: Hardware) -> "Fabric | OneProcess":
    """Return the launched Fabric whose processes share an evaluation; cached for each hardware.

    For one process on the CPU it is a stand-in.
    """
    if is_one_cpu_process(hardware):
        return OneProcess()
    launched = make_fabric(hardware)
    launched.launch()
    return launched
