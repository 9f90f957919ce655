"""Adversarial attacks, one file a family: (model, x, y) -> x' inside a ball. Success is measured in `evaluation`."""

from lowcurve.attacks.apgd import APGD
from lowcurve.attacks.pgd import BIM, FGSM, PGD
from lowcurve.attacks.square import Square
from lowcurve.attacks.suites import FULL, SUITES, Effort, Suite, moosavi2019cure, srinivas2022lcnn, strong, yu2018

__all__ = [
    "APGD", "BIM", "FGSM", "FULL", "PGD", "SUITES", "Effort", "Square", "Suite",
    "moosavi2019cure", "srinivas2022lcnn", "strong", "yu2018",
]  # fmt: skip
