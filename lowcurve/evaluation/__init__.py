"""Evaluate a network on a data set: measures, accuracy, attacks, transfer and the audit."""

from lowcurve.evaluation.attack_result import AttackResult
from lowcurve.evaluation.attacking import attack
from lowcurve.evaluation.audit import Audit, Budget
from lowcurve.evaluation.certifying import Certified, certify
from lowcurve.evaluation.columns import Columns
from lowcurve.evaluation.joining import join
from lowcurve.evaluation.measuring import accuracy, correct, logits_of, measure, require_finite
from lowcurve.evaluation.parts import Ledger
from lowcurve.evaluation.radii import SmallestRadius, smallest_radius
from lowcurve.evaluation.transferring import adversarial_loss, transfer

__all__ = [
    "AttackResult", "Audit", "Budget", "Certified", "Columns", "Ledger", "SmallestRadius", "accuracy", "adversarial_loss",
    "attack", "certify", "correct", "join", "logits_of", "measure", "require_finite", "smallest_radius", "transfer",
]  # fmt: skip
