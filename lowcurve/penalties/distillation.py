"""Distillation: the predictions of a teacher replace the labels."""

from dataclasses import dataclass

import torch

from lowcurve.analysis.calculus import Jet
from lowcurve.errors import InputError
from lowcurve.losses import require_temperature
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.penalties.base import Penalty
from lowcurve.types import Classifier, PerExample


@dataclass(frozen=True)
class Distillation(Penalty):
    """-sum_k p_k log q_k with p = softmax(teacher(x) / T) and q = softmax(z / T), per example, in nats.

    The smallest value is the entropy of p, reached where teacher and student agree. The teacher is in eval mode and held
    constant. Labels are not used: for a student that learns from its teacher only, give the objective a loss weight of 0.
    With a teacher trained by `losses.TemperatureCrossEntropy(T)` and the student used at T = 1 this is defensive
    distillation. Its robustness is false: the logits are T times as far apart, so the gradient of cross-entropy underflows,
    and the audit reports it.

    Args:
        teacher: Network whose predictions are learned.
        temperature: T, above 0.

    Raises:
        InputError: If the temperature is not above 0, the field has no logits, or the teacher has other classes.

    Cost in addition to the shared clean forward pass: one forward pass of the teacher.

    Example:
        >>> from lowcurve.losses import loss_field
        >>> jet = Jet(loss_field(lambda x: 3 * x, torch.tensor([0])), torch.zeros(1, 2))
        >>> round(Distillation(lambda x: 5 * x, temperature=20.0)(jet).item(), 4)  # log(2)
        0.6931

    Reference: Papernot et al. 2016 (defensive distillation); Hinton et al. 2015, section 2.
    """

    teacher: Classifier
    temperature: float
    differentiates_twice = False

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def evaluate(self, jet: Jet, generator: torch.Generator) -> PerExample:  # noqa: ARG002 (the signature of Penalty)
        """Compute one number of at least 0 per example."""
        student = (jet.logits / self.temperature).log_softmax(1)
        with frozen(self.teacher), torch.no_grad():
            target = (call(self.teacher, jet.x) / self.temperature).softmax(1)
        if target.shape != student.shape:
            received = f"logits of shape {tuple(target.shape)} beside {tuple(student.shape)}"
            raise InputError("a teacher of the student's classes", received, "train the teacher on the student's data")
        return -(target * student).sum(1)
