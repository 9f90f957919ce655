"""Adversarial attacks, one file a family: (model, x, y) -> x' inside a ball. Success is measured in `evaluation`."""

from lowcurve.attacks.apgd import APGD
from lowcurve.attacks.pgd import BIM, FGSM, PGD
from lowcurve.attacks.square import Square
from lowcurve.attacks.suites import Suite, strong

__all__ = ["APGD", "BIM", "FGSM", "PGD", "Square", "Suite", "strong"]
