"""Adversarial attacks, one file a family: (model, x, y) -> x' inside a ball. Success is measured in `evaluation`."""

from lowcurve.attacks.pgd import FGSM, PGD

__all__ = ["FGSM", "PGD"]
