"""Curvature and robust accuracy as metrics of torchmetrics, which add up over batches and processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.evaluation import attack, measure
from lowcurve.evaluation.arguments import require_attack
from lowcurve.geometry import Curvature
from lowcurve.integrations.loops import (
    STATISTICS,
    require_statistics,
    summarize_columns,
    summarize_robustness,
    without_autocast,
)
from lowcurve.libraries import base_class
from lowcurve.losses import cross_entropy
from lowcurve.models.modes import set_training
from lowcurve.types import AttackFunction, Inputs, Labels, Loss, Measure

Metric: Any = base_class("Metric", "torchmetrics", install="torchmetrics")
NAMES = 4096
"""Largest length of all columns' names, which every process must learn from those that have images."""


class Measures(Metric):
    """Measures of `lowcurve.measure` as a metric: statistics of each column over all images of all processes.

    Quantiles are exact: the metric keeps each image's numbers, in float32.

    Args:
        measures: A measure, several as a list, or a mapping of names to measures, with one number an image and column.
        statistics: Among "mean", "median", "low" (10 %) and "high" (90 %).
        loss: Loss whose geometry is measured.
        **options: Options of `torchmetrics.Metric`.

    Raises:
        InputError: If torchmetrics is missing, or a statistic is unknown.

    Cost: that of the measures. `Curvature` needs about a dozen gradients.
    """

    full_state_update = False
    values: list[Tensor]
    names: Tensor

    def __init__(
        self,
        measures: Measure | Sequence[Measure] | Mapping[str, Measure] | None = None,
        *,
        statistics: Sequence[str] = STATISTICS,
        loss: Loss = cross_entropy,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        require_statistics(statistics)
        self.measures, self.statistics, self.loss = measures or Curvature(), tuple(statistics), loss
        self.add_state("values", [], dist_reduce_fx="cat")
        self.add_state("names", torch.zeros(NAMES, dtype=torch.uint8), dist_reduce_fx="max")

    def update(self, model: nn.Module, x: Inputs, y: Labels) -> None:
        """Measure a batch.

        Args:
            model: Network from pixels in [0, 1] to logits. It is measured in eval mode.
            x: Images, shape (batch, ...).
            y: Labels, shape (batch,).

        Raises:
            InputError: As `measure`, and if a measure gives several numbers an image.
        """
        with set_training(model, training=False), without_autocast(x.device):
            columns = measure(model, x, y, self.measures, loss=self.loss, progress=False)
        wrong = next((name for name, values in columns.items() if values.ndim != 1), None)
        if wrong is not None:
            received = f"{wrong} of shape {columns[wrong].shape[1:]}"
            raise InputError("one number an image from each measure", received, "leave it out, or use lc.measure")
        table = np.stack([values.astype(np.float32) for values in columns.values()], 1)
        self.values.append(torch.from_numpy(table).to(self.names.device).flatten())
        code = "\n".join(columns).encode()
        self.names[: len(code)] = torch.tensor(list(code), dtype=torch.uint8)

    def compute(self) -> dict[str, Tensor]:
        """Return the statistics by name, such as "normalized_curvature/median".

        Raises:
            InputError: If no process has measured an image.
        """
        names = bytes(self.names.tolist()).rstrip(b"\0").decode().split("\n")
        kept: Any = self.values  # one tensor once the processes have shared theirs
        values = kept if isinstance(kept, Tensor) else torch.cat([torch.zeros(0, device=self.names.device), *kept])
        if not len(values):
            raise InputError("at least one measured image", "none", "call update before compute")
        table = values.cpu().numpy().reshape(-1, len(names))
        found = summarize_columns(dict(zip(names, table.T, strict=True)), self.statistics)
        return {name: torch.tensor(value) for name, value in found.items()}


class RobustAccuracy(Metric):
    """Robust accuracy under an attack as a metric, over all images of all processes.

    It is an upper bound, since a stronger attack may exist. An image's random numbers follow from its pixels, its label
    and `seed`, so batches and processes change nothing.

    Args:
        method: An attack or a suite, such as `lowcurve.strong("linf", 8 / 255)`.
        seed: Seed of the attack's random numbers.
        **options: Options of `torchmetrics.Metric`.

    Raises:
        InputError: If torchmetrics is missing, or the attack is none.

    Cost: that of `attack`.
    """

    full_state_update = False
    higher_is_better = True
    clean: Tensor
    robust: Tensor
    undefined: Tensor
    count: Tensor

    def __init__(self, method: AttackFunction, *, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.method, self.seed = require_attack(method), seed
        for name in ("clean", "robust", "undefined", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, model: nn.Module, x: Inputs, y: Labels) -> None:
        """Attack a batch.

        Args:
            model: Network from pixels in [0, 1] to logits. It is attacked in eval mode.
            x: Images, shape (batch, ...).
            y: Labels, shape (batch,).
        """
        with without_autocast(x.device):
            result = attack(model, x, y, self.method, seed=self.seed, progress=False, keep_inputs=False)
        self.clean += int(result.clean.sum())
        self.robust += int(result.robust.sum())
        self.undefined += int(result.undefined.sum())
        self.count += len(result.robust)

    def compute(self) -> dict[str, Tensor]:
        """Return "clean_accuracy", "robust_accuracy", and the ends of its 95 % interval, "/low" and "/high".

        Raises:
            InputError: If no process has attacked an image.
        """
        if not int(self.count):
            raise InputError("at least one attacked image", "none", "call update before compute")
        found = summarize_robustness(*(int(one) for one in (self.clean, self.robust, self.undefined, self.count)))
        return {name: torch.tensor(value) for name, value in found.items()}
