"""A network over a data set: measures, accuracy, attacks and what they leave."""

from lowcurve.evaluation.attacking import Attacked, Ledger, attack
from lowcurve.evaluation.measuring import Columns, accuracy, correct, logits_of, measure, require_finite
from lowcurve.evaluation.radii import SmallestRadius, smallest_radius
from lowcurve.evaluation.transferring import adversarial_loss, transfer

__all__ = [
    "Attacked", "Columns", "Ledger", "SmallestRadius", "accuracy", "adversarial_loss", "attack", "correct", "logits_of",
    "measure", "require_finite", "smallest_radius", "transfer",
]  # fmt: skip
