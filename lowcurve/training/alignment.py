"""PertAlign: what is left of the direction of a one-step attack where its step ends, and a warning of collapse."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowcurve.analysis.later_gradient import LaterGradient
from lowcurve.analysis.norms import L2, dot
from lowcurve.attacks import SORA, OneStep

log = logging.getLogger("lowcurve")
PERT_ALIGN = "PertAlign"
"""Name of the alignment in histories and logs."""
SLOPE_LEFT = "slope left"
"""Name of the mean of SORA's c, which `Objective.update` reads."""


@dataclass(frozen=True)
class StepAlignment:
    """The gradients at both ends of a one-step attack in a training step.

    Both are computed anyway: the attack follows the first, and the backward pass of the training step passes the second.

    Attributes:
        attack: The attack.
        classes: Number of classes.
        before: Gradients at the start of its step, shape (batch, ...).
        after: Gradients at its end, once the backward pass has run, or those gradients themselves.
    """

    attack: OneStep
    classes: int
    before: Tensor
    after: LaterGradient | Tensor | None

    def measures(self) -> dict[str, Tensor]:
        """Return means over the batch: "PertAlign" and, for SORA, "slope left"; none before the backward pass."""
        after = self.after.gradient if isinstance(self.after, LaterGradient) else self.after
        if after is None:
            return {}
        found = {PERT_ALIGN: pert_align(self.before, after)}
        if isinstance(self.attack, SORA):
            found[SLOPE_LEFT] = self.attack.slope_left(self.before, after).mean()
        return found


def pert_align(before: Tensor, after: Tensor) -> Tensor:
    """Return the alignment of the gradients at the start and at the end of an attack's step, from -1 to 1.

    sum_i w_i cos(before_i, after_i) / sum_i w_i, with w_i the l_2 length of after_i. It is 1 where the loss is linear along
    the steps, and falls as the loss bends. A network that overfits catastrophically bends its loss so that the single step
    no longer leads uphill, and the alignment falls to 0. Examples that are learned have nearly no weight, since
    BatchNorm's other mode in the attack then decides their cosines. It is 1 without gradients.

    Source: the paper's text was not available. Its abstract has the alignment of gradients across the stages of an attack,
    and the released code compares these two gradients. Cosines and weights are our reading.

    Args:
        before: Gradients at the start of the step, shape (batch, ...).
        after: Gradients at its end, shape (batch, ...).

    Example:
        >>> pert_align(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        tensor(0.7500)

    Reference: Teymourian et al. 2026 (PertAlign).
    """
    before, after = before.flatten(1), after.flatten(1)
    lengths, cosines = L2.length(after), dot(L2.unit(before), L2.unit(after))
    defined = torch.isfinite(cosines) & torch.isfinite(lengths) & (before != 0).any(1)
    weights = torch.where(defined, lengths, 0)
    total = weights.sum()
    mean = (weights * torch.where(defined, cosines, 0)).sum() / torch.where(total == 0, 1, total)
    return torch.where(total == 0, 1, mean)


LOW, LEARNED, MEMORY = 0.2, 0.95, 0.95
WARNING = (
    "PertAlign has fallen to %.2f: at the end of the attack's step the gradient no longer points along the step. The network is"
    " overfitting to this single step (catastrophic overfitting), and its accuracy under PGD collapses or has collapsed. Train"
    " with a smaller radius, with N-FGSM or PGD, or add a penalty such as GradAlign or CURE."
)


class CollapseWatch:
    """Follows PertAlign over a training and warns once, when it predicts catastrophic overfitting.

    It warns when the moving average of PertAlign is below 0.2 and that of the loss at attacked inputs below 95 % of guessing,
    log(classes). Before a network has learned anything its gradients are not aligned either, so a low alignment alone says
    nothing. Both averages have a memory of 0.95 for each step.

    Attributes:
        warned: True once it has warned.

    Example:
        >>> watch = CollapseWatch()
        >>> for step in range(60):
        ...     watch.add(torch.tensor(0.9), torch.tensor(0.5), classes=10)
        >>> watch.predicts_collapse()
        False
        >>> for step in range(60):
        ...     watch.add(torch.tensor(0.0), torch.tensor(0.5), classes=10)
        >>> watch.predicts_collapse()
        True
    """

    def __init__(self) -> None:
        self.warned = False
        self._alignment, self._loss = torch.tensor(1.0), torch.tensor(1.0)

    def add(self, alignment: Tensor, loss: Tensor, classes: int) -> None:
        """Take the values of a step into the averages.

        Args:
            alignment: PertAlign.
            loss: Mean loss at attacked inputs.
            classes: Number of classes.
        """
        share = loss / math.log(max(2, classes))
        self._alignment = self._alignment.to(alignment).lerp(alignment.detach(), 1 - MEMORY)
        self._loss = self._loss.to(share).lerp(share.detach(), 1 - MEMORY)

    def predicts_collapse(self) -> bool:
        """Return whether the averages predict catastrophic overfitting."""
        return bool((self._alignment < LOW) & (self._loss < LEARNED))

    def warn_once(self) -> None:
        """Log the warning if collapse is predicted for the first time."""
        if not self.warned and self.predicts_collapse():
            self.warned = True
            log.warning(WARNING, float(self._alignment))

    def dump(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {"alignment": self._alignment, "loss": self._loss, "warned": self.warned}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `dump` returned.

        Args:
            state: The state.
        """
        self._alignment, self._loss, self.warned = state["alignment"], state["loss"], state["warned"]
