"""Suites of attacks: `strong`, which judges a claim, and the weak settings of the papers under their names."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice

import torch

from lowcurve.analysis.norms import L2, LINF, Ball, Norm, as_ball, as_norm, pixels
from lowcurve.attacks.acceptance import Region, accept
from lowcurve.attacks.apgd import APGD
from lowcurve.attacks.autoattack import AutoAttack
from lowcurve.attacks.base import Attack, BallAttack, Options
from lowcurve.attacks.minimal import MinimalNorm
from lowcurve.attacks.minimal_within import MinimalNormWithin
from lowcurve.attacks.pgd import FGSM, PGD, RadiusShare
from lowcurve.attacks.relay import Relay
from lowcurve.attacks.selective import Margins, NearlyFooled, Selective
from lowcurve.attacks.square import Square
from lowcurve.errors import InputError
from lowcurve.losses import margin_loss
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.types import AttackFunction, Classifier, Inputs, Labels, PerExample

Box = tuple[float, float]


@dataclass(frozen=True, repr=False)
class Suite(Attack):
    """Several named attacks, tried in order: an image is robust if it withstands all of them.

    Called as an attack, a suite returns the point of lowest margin among those that its members find. `evaluation.attack`
    tries each member only on the images that withstand the members before it, which gives the same accuracy at less cost.

    Args:
        members: Pairs of a name and an attack.

    Raises:
        InputError: If there are no members, or two have the same name.

    Cost: the sum of its members' costs, and one forward pass for each member.

    Reference: Croce and Hein 2020, section 6 (AutoAttack), for the idea of a suite without settings to choose.
    """

    members: tuple[tuple[str, AttackFunction], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.members]
        if not names or len(set(names)) < len(names):
            raise InputError("attacks with different names", names, 'write Suite((("PGD", PGD("linf", 8/255)),))')

    def __repr__(self) -> str:
        balls = {member.ball for _, member in self.members if isinstance(member, BallAttack)}
        where = [f" in {ball.norm.name}, radius {ball.radius:.4g}" for ball in balls if len(balls) == 1]
        return f"<suite of {', '.join(name for name, _ in self.members)}{''.join(where)}>"

    @property
    def norm(self) -> Norm | None:
        """The norm of its members' perturbations, None if they have none or several."""
        norms = {getattr(member, "norm", None) for _, member in self.members}
        return norms.pop() if len(norms) == 1 else None

    @property
    def region(self) -> Region:
        """Anywhere: each member's answers are accepted by that member's own region."""
        return Region(box=(-math.inf, math.inf))

    def perturb(self, model: Classifier, x: Inputs, y: Labels, options: Options) -> Inputs:
        """Return the adversarial images x', of x's shape."""
        best, margins = x.clone(), Margins.begin(_margins(model, x, y), len(self.members))
        for number, (_, member) in enumerate(self.members):
            chosen = (
                member.takes_part(margins) if isinstance(member, Selective) else torch.ones_like(y, dtype=torch.bool)
            )
            rows = torch.nonzero(chosen).flatten()
            if not len(rows):
                continue
            few, labels = x[rows], y[rows]
            start = {"start": best[rows]} if isinstance(member, Selective) and member.from_nearest else {}
            point, _ = accept(member, few, member(model, few, labels, generator=options.generator, **start))
            found = _margins(model, point, labels)
            lower = found < margins.lowest[rows]
            best[rows[lower]] = point[lower]
            margins.record(number, rows, found)
        return best


def _margins(model: Classifier, x: Inputs, y: Labels) -> PerExample:
    with frozen(model), torch.no_grad():
        return -margin_loss(call(model, x), y) if len(x) else x.new_zeros(0)


@dataclass(frozen=True)
class Effort:
    """The effort of `strong`. There is one default, for the function and for the command line at every scale but smoke.

    Args:
        steps: Gradient steps of each run of Auto-PGD. With `near`, runs on the margin and towards targets have half.
        targets: Number of targets of targeted Auto-PGD.
        queries: Queries of Square's long search. The short search has a tenth.
        relays: Rounds of the relay at the end. It attacks the images whose lowest margin is at most a tenth of the clean one.
            A round is a search with Square of a third of the queries and a run of Auto-PGD.
        boundary: Runs of the minimum-norm attack from noise in l_2, each of `steps` steps, for each image. In l_1 a run costs
            more, and there is a quarter of them; in l_inf there is none.
        near: Longer searches attack images whose lowest margin is at most this fraction of the clean one. With None every image
            gets all searches in full.
    """

    steps: int = 100
    targets: int = 9
    queries: int = 3000
    relays: int = 2
    boundary: int = 8
    near: float | None = 0.15

    def describe(self) -> str:
        """Say how the effort is lighter than the default one, or partly lighter; return nothing if no number is smaller.

        Example:
            >>> Effort(steps=50, queries=1000).describe(), Effort(near=None).describe()
            ('lighter than by default (steps 50 of 100, queries 1000 of 3000)', '')
            >>> Effort(targets=4, near=None).describe()
            'other than by default (targets 4 of 9, all searches for every image)'
        """
        default, smaller, larger = asdict(Effort()), [], []
        for name, value in asdict(self).items():
            if value is None:
                larger.append("all searches for every image")
            elif value < default[name]:
                smaller.append(f"{name} {value} of {default[name]}")
            elif value > default[name]:
                larger.append(f"{name} {value} instead of {default[name]}")
        kind = "other" if larger else "lighter"
        return f"{kind} than by default ({', '.join(smaller + larger)})" if smaller else ""


FULL = Effort()
SHORTER = 10
"""The short search with Square has this many times fewer queries than the long one."""
MATCHED = 1.0
"""The long search follows where the short one lowered the margin by this fraction of what gradients did."""
ROUNDS = 3
"""A round of the relay has this many times fewer queries than the long search."""
SHARES = (0.8, 0.3, 0.1)
"""Fraction of the image that the first patches cover in the first, second and third round of the relay."""


def strong(
    norm: Norm | str | Ball, radius: float | None = None, *, effort: Effort = FULL, box: Box = (0.0, 1.0)
) -> Suite:
    """Return the suite that judges a claim of robustness.

    Every image that is still classified correctly gets Auto-PGD on cross-entropy and on the margin, a minimum-norm attack from
    afar in l_1 and l_2, which finds what attacks inside the ball miss, and a short search with Square, which uses no gradient.
    The rest depends on their margins z_y - max z_k. Nearly fooled images get Auto-PGD towards nine classes. Where the short
    search got as far as the gradients, a long one follows. Where it came near success too, a relay follows at last, in
    which Square and Auto-PGD alternate. Only the ball must be chosen. No member depends on the scale of the logits.

    Args:
        norm: "linf", "l2", "l1", a norm, or a `Ball` with its own radius and box.
        radius: Radius in pixel units, the literature's epsilon. Leave it out with a `Ball`.
        effort: Numbers of steps, targets, queries and rounds.
        box: Lowest and highest pixel value. Leave it out with a `Ball`.

    Returns:
        A `Suite` of six or seven attacks.

    Cost: at full effort 150 gradients and 300 forward passes for each image that withstands, in l_2 at most 800 gradients more,
        half of them where the boundary is far away, in l_1 at most 500. A nearly fooled image costs up to 650 gradients and
        2,000 forward passes more. Where gradients mislead, an image costs 3,000 forward passes more.

    Example:
        >>> [name for name, _ in strong("linf", 8 / 255).members]
        ['APGD-CE', 'APGD-M', 'APGD-T', 'Square', 'long Square', 'relay']
        >>> strong("l2", 0.5)
        <suite of APGD-CE, MinimalNorm, APGD-M, APGD-T, Square, long Square, relay in l_2, radius 0.5>

    Reference: Croce and Hein 2020; the relay, and the choice of images by their margins, are of this package.
    """
    ball = as_ball(norm, radius, box)
    on_margin, square = APGD(ball, steps=effort.steps, loss=margin_loss), Square(ball, queries=effort.queries)
    targeted, runs = replace(on_margin, targets=effort.targets), _runs_from_afar(ball.norm, effort)
    afar = MinimalNormWithin(ball, steps=effort.steps, restarts=max(runs, 1))
    members: list[tuple[str, AttackFunction]] = [("APGD-CE", APGD(ball, steps=effort.steps))]
    members += [("MinimalNorm", afar)] * (runs > 0)
    if effort.near is None:
        members += [("APGD-M", on_margin), ("APGD-T", targeted), ("Square", square)]
    else:
        half, fewer = -(-effort.steps // 2), max(2, effort.queries // SHORTER)
        members += [
            ("APGD-M", replace(on_margin, steps=half)),
            ("APGD-T", NearlyFooled(replace(targeted, steps=half), effort.near)),
            ("Square", replace(square, queries=fewer)),
            ("long Square", NearlyFooled(square, near=0.0, matched=MATCHED)),
        ]
    if effort.relays:
        searches = (Square(ball, queries=max(2, effort.queries // ROUNDS), share=share) for share in SHARES)
        rounds = [(search, on_margin) for search in islice(cycle(searches), effort.relays)]
        members.append(("relay", Relay(tuple(attack for pair in rounds for attack in pair))))
    return Suite(tuple(members))


def minimum_norm(norm: Norm | str, *, effort: Effort = FULL, box: Box = (0.0, 1.0)) -> MinimalNorm:
    """Return the minimum-norm attack that goes with `strong`, for the smallest radius of each image.

    In l_1 and l_2 it runs from afar at most as often as the one in the suite, in l_inf only where DeepFool's answer does not
    fool the network.

    Args:
        norm: "linf", "l2", "l1" or a norm.
        effort: Numbers of steps and runs.
        box: Lowest and highest pixel value.

    Cost: at full effort DeepFool's and 100 gradients, in l_2 270 to 620, in l_1 at most 600.

    Example:
        >>> minimum_norm("linf").restarts, minimum_norm("l2").restarts
        (0, 8)

    Reference: Pintor et al. 2021, Algorithm 1; the starts are of this package.
    """
    norm = as_norm(norm)
    return MinimalNorm(norm, box, effort.steps, restarts=_runs_from_afar(norm, effort))


def _runs_from_afar(norm: Norm, effort: Effort) -> int:
    """Return the number of runs from afar: a quarter in l_1, and in l_inf, where they find no more, none."""
    return {L2: effort.boundary, LINF: 0}.get(norm, -(-effort.boundary // 4))


def moosavi2019cure(norm: Norm | str | Ball, radius: float | None = None, *, box: Box = (0.0, 1.0)) -> Suite:
    """Return PGD-20 on cross-entropy from one random start, as the CURE paper uses it: weak by today's measure.

    Args:
        norm: As in `strong`.
        radius: As in `strong`.
        box: As in `strong`.

    Returns:
        A `Suite` of one attack.

    Cost: 20 gradients.

    Reference: moosavi2019cure, Table 2; step size 0.04 / 0.157 of the radius, as released.
    """
    ball = as_ball(norm, radius, box)
    return Suite((("PGD-20", PGD(ball, steps=20, step_size=RadiusShare(ball.radius * 0.255, share=0.255))),))


def srinivas2022lcnn(norm: Norm | str | Ball, radius: float | None = None, *, box: Box = (0.0, 1.0)) -> Suite:
    """Return PGD with ten steps of a tenth of the radius from a random start.

    On a linear loss the steps reach 3/4 of the radius. The released code attacks the predicted label and leaves the pixel
    box; here the label is the true one and the box holds.

    Args:
        norm: As in `strong`.
        radius: As in `strong`.
        box: As in `strong`.

    Returns:
        A `Suite` of one attack.

    Cost: 10 gradients.

    Reference: srinivas2022lcnn, Table 2; the settings are those of the released code.
    """
    ball = as_ball(norm, radius, box)
    return Suite((("PGD-10", PGD(ball, steps=10, step_size=RadiusShare(ball.radius / 10, share=0.1))),))


def yu2018(norm: Norm | str | Ball, radius: float | None = None, *, step_size: float, box: Box = (0.0, 1.0)) -> Suite:
    """Return FGSM, BIM and the Carlini-Wagner objective in the ball, ten steps each from the image itself.

    Args:
        norm: As in `strong`.
        radius: As in `strong`.
        step_size: 0.1 on MNIST, 1/255 on CIFAR-10 (section 8.3).
        box: As in `strong`.

    Returns:
        A `Suite` of three attacks.

    Cost: 21 gradients.

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
