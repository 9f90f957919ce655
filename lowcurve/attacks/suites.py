"""Attacks together: `strong`, by which a claim is judged, and the papers' own weak settings under their names."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch

from lowcurve.analysis.norms import Ball, Norm, as_ball, per_example, pixels
from lowcurve.attacks.apgd import APGD
from lowcurve.attacks.autoattack import AutoAttack
from lowcurve.attacks.base import Attack, Options
from lowcurve.attacks.pgd import FGSM, PGD
from lowcurve.attacks.relay import Relay
from lowcurve.attacks.square import Square
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.types import AttackFunction, Classifier, Inputs, Labels

Box = tuple[float, float]


@dataclass(frozen=True)
class Suite(Attack):
    """Several attacks by name, in the order in which they are tried: an image stands if it stands under all of them.

    As an attack, x' = the point of lowest margin among those that its members find. `evaluation.attack` tries each member
    only on what the ones before it have left, which is the same accuracy at less cost.

    Reference: Croce and Hein 2020, section 6 (AutoAttack), for the idea of a suite without settings to choose.
    """

    members: tuple[tuple[str, AttackFunction], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.members]
        if not names or len(set(names)) < len(names):
            raise InputError("attacks with names of their own", names, 'write Suite((("PGD", PGD(ball)),))')

    @property
    def norm(self) -> Norm | None:
        """The norm of its members' perturbations, None if they have none or several."""
        norms = {getattr(member, "norm", None) for _, member in self.members}
        return norms.pop() if len(norms) == 1 else None

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """The adversarial inputs x', of x's shape."""
        best, lowest = x, torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        for _, member in self.members:
            begun = {"start": best} if isinstance(member, Relay) else {}
            point = member(model, x, y, generator=options.generator, **begun)
            with frozen(model), torch.no_grad():
                gap = -margin_loss(model(point), y) if len(x) else lowest
            lower = gap < lowest
            best, lowest = torch.where(per_example(lower, x), point, best), torch.minimum(gap, lowest)
        return best


@dataclass(frozen=True)
class Effort:
    """How long `strong` searches: steps of each walk, targets of the targeted one, queries of the black-box one.

    relays: how often, at the end, another search of half as many queries and another walk take over from one another, for
    the images that are nearly fooled.
    """

    steps: int = 100
    targets: int = 4
    queries: int = 3000
    relays: int = 3


FULL = Effort()
SHARES = (0.8, 0.3, 0.1)
"""Of the image, that the first patches of the relay's searches cover, one after another."""


def strong(
    norm: Norm | str | Ball, radius: float | None = None, *, effort: Effort = FULL, box: Box = (0.0, 1.0)
) -> Suite:
    """The suite that a claim is judged by: Auto-PGD on cross-entropy, on the margin, and towards the likeliest other
    classes, then Square, which follows no gradient, and at last both by turns for the images that are nearly fooled. It
    needs no setting but the ball, and none of them minds the logits' scale.

    Reference: Croce and Hein 2020; the relay is of this package.
    """
    ball = as_ball(norm, radius, box)
    on_margin = APGD(ball, steps=effort.steps, loss=margin_loss)
    members: list[tuple[str, AttackFunction]] = [
        ("APGD-CE", APGD(ball, steps=effort.steps)),
        ("APGD-M", on_margin),
        ("APGD-T", replace(on_margin, targets=effort.targets)),
        ("Square", Square(ball, queries=effort.queries)),
    ]
    if effort.relays:
        searches = (Square(ball, queries=max(2, effort.queries // 2), share=share) for share in SHARES)
        turns = [(search, on_margin) for search in islice(cycle(searches), effort.relays)]
        members.append(("relay", Relay(tuple(attack for turn in turns for attack in turn))))
    return Suite(tuple(members))


def moosavi2019cure(norm: Norm | str | Ball, radius: float | None = None, *, box: Box = (0.0, 1.0)) -> Suite:
    """PGD-20 on cross-entropy from one random start, as that paper judges CURE: weak by today's measure.

    Reference: moosavi2019cure, Table 2; step size 0.04 / 0.157 of the radius, as released.
    """
    ball = as_ball(norm, radius, box)
    return Suite((("PGD-20", PGD(ball, steps=20, step_size=ball.radius * 0.255)),))


def srinivas2022lcnn(norm: Norm | str | Ball, radius: float | None = None, *, box: Box = (0.0, 1.0)) -> Suite:
    """Ten steps of a tenth of the radius from a random start: on a linear loss they reach 3/4 of the radius.

    The released code attacks the predicted label and leaves the pixel box; here the label is the true one and the box holds.

    Reference: srinivas2022lcnn, Table 2; the settings are those of the released code.
    """
    ball = as_ball(norm, radius, box)
    return Suite((("PGD-10", PGD(ball, steps=10, step_size=ball.radius / 10)),))


def yu2018(norm: Norm | str | Ball, radius: float | None = None, *, step_size: float, box: Box = (0.0, 1.0)) -> Suite:
    """FGSM, BIM and the Carlini-Wagner objective in the ball, ten steps each from the image itself.

    step_size: 0.1 on MNIST, 1/255 on CIFAR-10 (section 8.3).

    Reference: yu2018interpreting, Tables 1 and 2.
    """
    ball = as_ball(norm, radius, box)
    ten = PGD(ball, steps=10, step_size=step_size, start="center")
    return Suite((("FGSM", FGSM(ball)), ("BIM", ten), ("C&W", replace(ten, loss=margin_loss))))


SUITES: dict[str, Callable[[Ball, Effort], Suite]] = {
    "strong": lambda ball, effort: strong(ball, effort=effort),
    "moosavi2019cure": lambda ball, _: moosavi2019cure(ball),
    "srinivas2022lcnn": lambda ball, _: srinivas2022lcnn(ball),
    "yu2018-mnist": lambda ball, _: yu2018(ball, step_size=0.1),
    "yu2018-cifar10": lambda ball, _: yu2018(ball, step_size=pixels(1)),
    "autoattack": lambda ball, _: Suite((("AutoAttack standard", AutoAttack(ball)),)),
}
"""The suites by name, as functions of a ball and an effort; only `strong` depends on the effort."""
