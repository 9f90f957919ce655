"""Attacks together: `strong`, by which a claim is judged, and the papers' own weak settings under their names."""

from dataclasses import dataclass

import torch

from lowcurve.analysis.norms import Ball, per_example
from lowcurve.attacks.apgd import APGD
from lowcurve.attacks.square import Square
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.models.modes import attacked
from lowcurve.types import Attack, Classifier, Inputs, Labels


@dataclass(frozen=True)
class Suite:
    """Several attacks by name, in the order in which they are tried: an image stands if it stands under all of them.

    As an attack, x' = the point of lowest margin among those that its members find. `evaluation.attack` tries each member
    only on what the ones before it have left, which is the same accuracy at less cost.

    Reference: Croce and Hein 2020, section 6 (AutoAttack), for the idea of a suite without settings to choose.
    """

    members: tuple[tuple[str, Attack], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.members]
        if not names or len(set(names)) < len(names):
            raise InputError("attacks with names of their own", names, 'write Suite((("PGD", PGD(ball)),))')

    def __call__(self, model: Classifier, x: Inputs, y: Labels, *, generator: torch.Generator) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        best, lowest = x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        for _, member in self.members:
            point = member(model, x, y, generator=generator)
            with attacked(model), torch.no_grad():
                gap = -margin_loss(model(point), y) if len(x) else lowest
            lower = gap < lowest
            best, lowest = torch.where(per_example(lower, x), point, best), torch.minimum(gap, lowest)
        return best


def strong(ball: Ball) -> Suite:
    """The suite that a claim is judged by."""
    return Suite(
        (
            ("APGD-CE", APGD(ball)),
            ("APGD-T", APGD(ball, loss=margin_loss, targets=9)),
            ("Square", Square(ball)),
        )
    )
